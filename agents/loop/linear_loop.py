"""LOOP with values linear in features of state and action."""

from typing import Any, ClassVar

from gymnasium import spaces

from rlopt.agents.loop.confidence_sets.linear import LinearSet
from rlopt.agents.loop.confidence_sets.planner import Problem
from rlopt.agents.loop.config import LinearLOOPConfig, PlannerConfig
from rlopt.agents.loop.optimism import OptimisticAgent
from rlopt.agents.loop.states import FeatureStates


class LinearLOOP(FeatureStates, OptimisticAgent):
    """Value-based LOOP with values linear in features phi(s, a), for finitely many actions.

    The confidence set is that of FOPO (Wei, Jafarnia-Jahromi, Luo and Jain 2021), and the rule for a new plan is
    LOOP's. A step costs O(d^2). A plan costs some hundred sweeps over the states visited so far, so its cost grows with
    the steps if observations do not recur.

    Observations may be of any kind. Further arguments and errors are those of
    :class:`rlopt.agents.loop.base.ContinuingAgent`, the settings those of
    :class:`rlopt.agents.loop.config.LinearLOOPConfig`. LOOP itself draws no random numbers.

    :param feature_map: None takes the features of an environment that knows them (``mdp.features``)
    :raises ModelError: features of the wrong shape, not finite, or of norm above sqrt 2
    """

    config_class: ClassVar[type[PlannerConfig]] = LinearLOOPConfig
    data: LinearSet
    config: LinearLOOPConfig

    def _complexity(self) -> tuple[int, int]:
        return self.dimension, self.dimension

    def _data_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"inverse": (self.dimension, self.dimension)}

    def _make_set(self, problem: Problem) -> LinearSet:
        # What lets weights reach the largest residual for features of norm 1, and no more: beta / (d (H + R)^2).
        ridge = self.config.ridge or self._scale() * self._logarithm()
        return LinearSet(self.dimension, int(self.action_space.n), problem, ridge)  # type: ignore[attr-defined]

    def _left(self, state: int) -> None:
        if not isinstance(self.observation_space, spaces.Discrete):
            self.data.forget(state)

    def _greedy(self, state: int) -> int:
        return self.data.evaluate(state).action

    def _greedy_of(self, observation: Any) -> int:
        self._check_observation(observation)
        return self.data.evaluate_features(self._features(observation)).action
