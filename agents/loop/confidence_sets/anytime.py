"""The confidence set of LOOP that needs neither span nor horizon, its plans, and when a plan is given up."""

from typing import Any

import numpy as np

from rlopt.agents.loop.confidence_sets.optimistic_iteration import Mask, Plan, optimistic_plan
from rlopt.agents.loop.confidence_sets.outcomes import Outcomes, divergence_to_mean
from rlopt.agents.loop.confidence_sets.planner import Certificate
from rlopt.average_reward.mdp import Array

CHECK_GROWTH = 1.1
"""Visits of a pair grow by this factor between two checks of the plan in force."""
REVIVAL = 0.5
"""Share of IMED's logarithm with which what is seldom tried in a state becomes possible again. Any share above 0 lets
no wrong belief last; a whole one costs as much as IMED does."""


class AnytimeSet(Outcomes):
    """The hypotheses f whose targets Q_f + J_f the data of no pair refute, and the plan in force.

    With nu the outcomes r + V_f(s') of a pair in its n visits, f is in the set iff for every pair

        n K_inf(nu, Q_f + J_f) <= beta(n, N) = ``scale`` log(S A (n + 1) / ``delta``) + 1/2 log((N + 1) / (n + 1)),

    N >= n the visits of the state: what is seldom tried in a state becomes possible again, at any scale, as IMED has it
    (Honda and Takemura 2015) with the whole logarithm. K_inf is the smallest divergence from nu to a distribution on
    [.., r_max + max V_f] with at least that mean. At the scale 1 the truth is within for all pairs at all times with
    probability 1 - ``delta``: for w in [0, 1] the product of 1 - w + w (top - outcome) / (top - mean) is a martingale,
    its mean over uniform w too, and the largest product is at most n + 1 times that mean (Cover 1991, for two assets);
    Ville's inequality and a union over pairs do the rest. Neither the span nor the noise of rewards has to be known:
    the outcomes show both.

    A state that was never seen, or an action never tried, may pay the largest reward for ever. Some such states cannot
    be reached, and no data refute them: plans would look for them for the rest of time. (TUCRL, of Fruit, Pirotta and
    Lazaric 2018, gives them up after a number of visits.) So at scales below 1, where nothing is promised, they lose
    their appeal once the largest reward was seen elsewhere: max V_f is then over the states seen, and an action never
    tried pays the largest reward once and leads to the best state in which all actions were tried.

    :param n_states: S
    :param n_actions: A
    :param reward_range: smallest and largest reward of a step
    :param scale: of the radius
    :param delta: probability that the truth may ever be outside, at the scale 1
    :param multiple: the plan in force is given up once a pair reaches this many times its radius
    :param tolerance: half the width of the bracket of the gain of a plan, in units of the range of rewards
    :param max_rounds: rounds of a plan after which it is taken as it is
    """

    def __init__(
        self,
        n_states: int,
        n_actions: int,
        reward_range: tuple[float, float],
        *,
        scale: float,
        delta: float,
        multiple: float,
        tolerance: float,
        max_rounds: int,
    ) -> None:
        super().__init__(n_states, n_actions, reward_range)
        self.scale, self.delta, self.multiple = scale, delta, multiple
        self.tolerance, self.max_rounds = tolerance * max(reward_range[1] - reward_range[0], 1e-12), max_rounds
        self.gain = reward_range[1]
        self.policy = [0] * n_states
        self._values = [0.0] * n_states
        self._targets = [reward_range[1]] * (n_states * n_actions)
        self._next_check = [1.0] * (n_states * n_actions)
        self._state_visits, self._state_limits = [0.0] * n_states, [1.0] * n_states
        """Visits of each state, and those at which there is a new plan in any case: twice those of the last."""
        self._seen = np.zeros(n_states, bool)
        self.discrepancy = 0.0
        """The largest share of its radius that a pair was found at since the plan."""

    def radius(self, visits: Any, state_visits: Any) -> Any:
        """beta(n, N), for numbers or arrays of visits."""
        confidence = np.log(self.n_states * self.n_actions * (visits + 1.0) / self.delta)
        return self.scale * confidence + REVIVAL * np.log((state_visits + 1.0) / (visits + 1.0))

    @property
    def radii(self) -> Array:
        """[S, A] beta(n, N) of each pair."""
        found: Array = self.radius(self.counts, np.array(self._state_visits)[:, None])
        return found

    @property
    def counts(self) -> Array:
        """[S, A] visits."""
        return np.array(self.visits, np.float64).reshape(self.n_states, self.n_actions)

    @property
    def targets(self) -> Array:
        """[S, A] Q_f + J_f of the plan in force."""
        return np.array(self._targets).reshape(self.n_states, self.n_actions)

    @property
    def state_values(self) -> Array:
        """[S] V_f of the plan in force."""
        return np.array(self._values)

    @property
    def top(self) -> float:
        """r_max + max V_f: no outcome is larger."""
        return self._top(np.array(self._values))

    def _top(self, values: Array) -> float:
        return self.reward_range[1] + float(values[self._plausible()[0]].max())

    def _plausible(self) -> tuple[Mask, Mask]:
        """[S] the states that a pair may lead to although it never did, and those that one never tried may lead to."""
        if self.scale >= 1 or not self.largest_seen:
            everywhere = np.ones(self.n_states, bool)
            return everywhere, everywhere
        tried: Mask = np.all(self.counts > 0, axis=1)
        return self._seen, tried if tried.any() else self._seen

    def add(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Takes a transition in."""
        super().add(state, action, reward, next_state)
        self._state_visits[state] += 1.0
        self._seen[state] = self._seen[next_state] = True

    def divergence(self, targets: Array, values: Array) -> Array:
        """[S A] n K_inf of each pair for a hypothesis with the targets [S, A] and the values [S]."""
        table = self.table()
        seen = table.visits > 0
        found = np.zeros(len(seen))
        outcomes = table.rewards[seen] + values[table.following[seen]]
        top = self._top(values)
        apart = divergence_to_mean(table.shares[seen], outcomes, top, targets.reshape(-1)[seen])
        found[seen] = table.visits[seen] * apart
        return found.reshape(self.n_states, self.n_actions)

    def refuted(self, state: int, action: int) -> bool:
        """Whether there is to be a new plan for what this pair, just visited, has led to.

        Checked as often as its visits have grown by a tenth. What is seldom tried in a state becomes possible again as
        the visits of the state grow, so that there is a new plan too once they have doubled.
        """
        if self._state_visits[state] >= self._state_limits[state]:
            return True
        pair = state * self.n_actions + action
        visits = self.visits[pair]
        if visits < self._next_check[pair]:
            return False
        self._next_check[pair] = max(visits + 1.0, CHECK_GROWTH * visits)
        shares, outcomes = self.row(pair, self._values)
        apart = divergence_to_mean(
            np.array([shares]), np.array([outcomes]), self.top, np.array([self._targets[pair]])
        ).item()
        share = visits * apart / float(self.radius(visits, self._state_visits[state]))
        self.discrepancy = max(self.discrepancy, min(share, 1e300))
        return share >= self.multiple

    def plan(self) -> tuple[Certificate, bool]:
        """Puts an optimistic plan in force; returns what is known of it, and whether the policy changed."""
        table = self.table()
        radii = self.radii.reshape(-1) / np.maximum(table.visits, 1.0)
        found = optimistic_plan(
            table,
            radii,
            np.full(len(radii), self.reward_range[1]),
            np.array(self._values),
            np.array(self.policy, np.int64),
            self.tolerance,
            self.max_rounds,
            *self._plausible(),
        )
        policy = found.policy.tolist()
        changed = policy != self.policy
        self._put_in_force(found, policy)
        high = min(found.high, self.reward_range[1])
        certificate = Certificate(
            in_set=True,
            discrepancy=self.discrepancy,
            beta=1.0,
            converged=found.high - found.low <= 2 * self.tolerance,
            residual=found.high - found.low,
            sweeps=found.rounds,
            clipped_states=0,
            gain_bracket=(min(found.low, self.gain), high),
        )
        return certificate, changed

    def _put_in_force(self, found: Plan, policy: list[int]) -> None:
        self.policy, self._values = policy, found.values.tolist()
        self.gain = min((found.low + found.high) / 2, self.reward_range[1])
        visits = np.array(self.visits, np.float64)
        # What was never seen is worth the most there can be, which a single visit would refute. It counts as seen once,
        # with the worst outcome there can be.
        top = self.top
        lowest = self.reward_range[0] + float(found.values.min())
        unseen = top - (top - lowest) * np.exp(-self.radii.reshape(-1))
        self._targets = np.where(visits > 0, found.targets, unseen).tolist()
        self._next_check = (visits + 1.0).tolist()
        self._state_limits = [max(2.0 * count, 1.0) for count in self._state_visits]
        self.discrepancy = 1.0 if visits.any() else 0.0

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as arrays and numbers."""
        return {
            **super().get_state(),
            "targets": self.targets,
            "state_values": np.array(self._values),
            "next_check": np.array(self._next_check),
            "state_limits": np.array(self._state_limits),
            "policy": np.array(self.policy, np.int64),
            "gain": float(self.gain),
            "discrepancy": float(self.discrepancy),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`get_state` gave; raises ValueError if it does not fit."""
        super().set_state(state)
        self._targets = state["targets"].reshape(-1).tolist()
        self._values = state["state_values"].tolist()
        self._next_check, self.policy = state["next_check"].tolist(), state["policy"].tolist()
        self._state_limits = state["state_limits"].tolist()
        self._state_visits = self.counts.sum(axis=1).tolist()
        self._seen[:] = self.counts.any(axis=1)
        self._seen[self.target] = True
        self.gain, self.discrepancy = state["gain"], state["discrepancy"]
