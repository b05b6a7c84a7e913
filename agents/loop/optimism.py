"""Shared parts of tabular and linear LOOP: a confidence set, an optimistic plan, and lazy switching."""

import math
from typing import Any, ClassVar

from rlopt.agents.loop import saving
from rlopt.agents.loop.base import ContinuingAgent
from rlopt.agents.loop.confidence_sets.planner import Certificate, PlanRecord, Problem
from rlopt.agents.loop.config import LOOPConfig


class OptimisticAgent(ContinuingAgent):
    """Acts greedily on the plan in force, replans when its discrepancy has grown.

    A subclass makes the confidence set and turns observations into its states.
    """

    config_class: ClassVar[type[Any]] = LOOPConfig
    plans: list[PlanRecord]
    beta = math.nan
    """Squared radius of the confidence set, in units of reward squared."""

    # ---- what a subclass gives

    def _complexity(self) -> tuple[int, int]:
        """(what multiplies the local beta, what stands beside T in the logarithm)."""
        raise NotImplementedError

    def _make_set(self, problem: Problem) -> Any:
        raise NotImplementedError

    def _left(self, state: int) -> None:
        """Called once a transition out of ``state`` was taken in."""

    # ---- learning

    def _begin(self) -> None:
        """Makes the confidence set."""
        if math.isnan(self.span):
            self.span = self._smallest_span()
        self.beta = self._radius()
        self.data = self._make_set(self._problem())

    def _radius(self) -> float:
        """beta = beta_scale (H + R)^2 N log(T M / delta), N and M of :meth:`_complexity`.

        R is the range of rewards: r + V(s') varies within H + R, by the next state and by the noise of the reward.
        """
        return self._scale() * self._problem().largest_residual ** 2 * self._complexity()[0] * self._logarithm()

    def _logarithm(self) -> float:
        """log(T M / delta), at least 1."""
        assert self.horizon is not None
        return max(math.log(self.horizon * self._complexity()[1] / self.config.delta), 1.0)

    def _needs_span(self) -> bool:
        return self.config.span is not None

    def _smallest_span(self) -> float:
        low, high = self.reward_range
        return max(high - low, 1e-6)

    def _multiple(self) -> float:
        """How many times beta the plan in force may reach."""
        return float(self.config.switch_multiplier)

    def _scale(self) -> float:
        """Of the radius."""
        return float(self.config.beta_scale)

    def _problem(self) -> Problem:
        return Problem(self.span, *self.reward_range, self.config.tolerance, self.config.max_sweeps)

    def _start(self) -> None:
        if not self.plans:
            self._switch()

    def _take_in(self, state: int, action: int, reward: float, arrived: int) -> None:
        self.data.add(state, action, reward, arrived)
        self._left(state)
        if self._due():
            self._switch()

    def _due(self) -> bool:
        """Whether the plan in force is to be given up."""
        due: bool = self.data.discrepancy >= self._threshold()
        return due

    def _switch(self) -> None:
        """A new plan. Without a span that is given, H is doubled from the range of rewards until no value reaches it.

        A state without a visit has the largest value whatever H is, so it does not count. A run of T steps cannot lose
        more than T times the range, so H need not be larger. Each attempt is in force until the next one.
        """
        if self.config.span is None:
            self._set_span(self._smallest_span())
        certificate = self._plan()
        if self.config.span is None:
            assert self.horizon is not None
            most = self._smallest_span() * max(self.horizon, self.n_transitions)  # learn may be called again
            while certificate.clipped_states and self.span < most:
                self._set_span(2 * self.span)
                certificate = self._plan()
        self.plans.append(PlanRecord(self.n_transitions, self.data.gain, certificate))

    def _set_span(self, span: float) -> None:
        self.span = span
        self.data.problem = self._problem()
        self.beta = self._radius()

    def _plan(self) -> Certificate:
        found: Certificate = self.data.plan(self.beta, self.config.planner)
        return found

    def _threshold(self) -> float:
        """The discrepancy at which the plan in force is given up: 4 beta.

        A plan that is not in the set, as an underestimated span can make it, may grow by the same factor: at 4 beta it
        could be given up at once, and so every following one.
        """
        return self._multiple() * max(self.beta, self.plans[-1].certificate.discrepancy)

    @property
    def discrepancy(self) -> float:
        """The discrepancy of the plan in force on all data."""
        return float(self.data.discrepancy)

    @property
    def threshold(self) -> float:
        """The discrepancy at which the plan in force is given up."""
        return self._threshold()

    def _record(self) -> None:
        self.logger.record("loop/discrepancy", self.discrepancy)
        self.logger.record("loop/threshold", self._threshold())

    def _set_extra_state(self, state: dict[str, Any]) -> None:
        if not self.plans:
            raise ValueError("there is no plan")

    def _plan_record(self, plan: dict[str, Any]) -> PlanRecord:
        certificate = dict(plan["certificate"])
        low, high = certificate["gain_bracket"]
        certificate["gain_bracket"] = (saving.number(low), None if high is None else saving.number(high))
        for name, kind in (("in_set", bool), ("converged", bool), ("sweeps", int), ("clipped_states", int)):
            if type(certificate[name]) is not kind:
                raise ValueError(f"{name} of a plan is not a {kind.__name__}")
        for name in ("discrepancy", "beta", "residual"):
            saving.number(certificate[name])
        return PlanRecord(int(plan["step"]), saving.number(plan["gain"]), Certificate(**certificate))
