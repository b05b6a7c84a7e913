"""LOOP on finitely many states and actions."""

from __future__ import annotations

from typing import ClassVar

from rlopt.agents.loop.confidence_sets.planner import Problem
from rlopt.agents.loop.confidence_sets.tabular import TabularSet
from rlopt.agents.loop.config import LOOPConfig
from rlopt.agents.loop.optimism import OptimisticAgent
from rlopt.agents.loop.states import CountedStates


class LOOP(CountedStates, OptimisticAgent):
    """Value-based LOOP (He, Zhong and Yang, ICLR 2024, algorithm 1) for finitely many states and actions.

    Acts greedily on an optimistic plan of a confidence set and makes a new plan only when the squared Bellman error of
    the present one has grown to four times the radius of the set. A step costs constant time.

    Arguments and errors are those of :class:`rlopt.agents.loop.base.ContinuingAgent`, the settings those of
    :class:`rlopt.agents.loop.config.LOOPConfig`. LOOP itself draws no random numbers.
    """

    config_class: ClassVar[type[LOOPConfig]] = LOOPConfig
    data: TabularSet

    def _complexity(self) -> tuple[int, int]:
        return self.n_states * self.n_actions, self.n_states * self.n_actions

    def _make_set(self, problem: Problem, local_beta: float) -> TabularSet:
        return TabularSet(self.n_states, self.n_actions, problem)
