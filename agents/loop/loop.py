"""LOOP on finitely many states and actions."""

from typing import Any, ClassVar

from rlopt.agents.loop.confidence_sets.anytime import AnytimeSet
from rlopt.agents.loop.confidence_sets.planner import PlanRecord, Problem
from rlopt.agents.loop.confidence_sets.tabular import TabularSet
from rlopt.agents.loop.config import LOOPConfig
from rlopt.agents.loop.optimism import OptimisticAgent
from rlopt.agents.loop.states import CountedStates

DEFAULTS = {"anytime": (3e-3, 1.5), "paper": (1e-3, 4.0)}
"""``beta_scale`` and ``switch_multiplier`` of each procedure unless given."""


class LOOP(CountedStates, OptimisticAgent):
    """Value-based LOOP (He, Zhong and Yang, ICLR 2024, algorithm 1) for finitely many states and actions.

    The agent acts greedily on an optimistic plan of a confidence set and replans only when the data refute the
    current plan by ``switch_multiplier`` times the radius of the set. The procedure ``anytime`` needs neither span nor
    horizon (:class:`rlopt.agents.loop.confidence_sets.anytime.AnytimeSet`); ``paper`` is the paper's, which knows the
    span. A step costs constant time.

    Arguments and errors are those of :class:`rlopt.agents.loop.base.ContinuingAgent`, the settings those of
    :class:`rlopt.agents.loop.config.LOOPConfig`. LOOP itself draws no random numbers.
    """

    config_class: ClassVar[type[LOOPConfig]] = LOOPConfig
    data: TabularSet | AnytimeSet

    @property
    def _anytime(self) -> bool:
        return bool(self.config.procedure == "anytime")

    def _needs_span(self) -> bool:
        return super()._needs_span() and not self._anytime

    @classmethod
    def _former_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        # Before there were two procedures there was the paper's.
        return {"procedure": "paper", **settings}

    def _data_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"targets": (self.n_states, self.n_actions)}

    def _complexity(self) -> tuple[int, int]:
        return self.n_states * self.n_actions, self.n_states * self.n_actions

    def _scale(self) -> float:
        return float(self.config.beta_scale or DEFAULTS[self.config.procedure][0])

    def _multiple(self) -> float:
        return float(self.config.switch_multiplier or DEFAULTS[self.config.procedure][1])

    def _begin(self) -> None:
        if not self._anytime:
            super()._begin()
            return
        self.beta = 1.0
        self.data = AnytimeSet(
            self.n_states,
            self.n_actions,
            self.reward_range,
            scale=self._scale(),
            delta=self.config.delta,
            multiple=self._multiple(),
            tolerance=self.config.tolerance,
            max_rounds=self.config.max_sweeps,
        )

    def _make_set(self, problem: Problem) -> TabularSet:
        return TabularSet(self.n_states, self.n_actions, problem)

    def _take_in(self, state: int, action: int, reward: float, arrived: int) -> None:
        if isinstance(self.data, TabularSet):
            super()._take_in(state, action, reward, arrived)
            return
        self.data.add(state, action, reward, arrived)
        if self.data.refuted(state, action):
            self._switch()

    def _switch(self) -> None:
        if isinstance(self.data, TabularSet):
            super()._switch()
            return
        certificate, changed = self.data.plan()
        if changed or not self.plans:
            self.plans.append(PlanRecord(self.n_transitions, self.data.gain, certificate))

    def _threshold(self) -> float:
        """The discrepancy at which the plan in force is given up, in units of beta with the procedure anytime."""
        return self._multiple() if self._anytime else super()._threshold()
