"""The interface between an agent of a never-ending task and its base, and its settings of the task."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from gymnasium import spaces

from rlopt.agents.loop.saving import number
from rlopt.errors import ConfigError


@dataclass(frozen=True)
class Switch:
    """One switch of the policy, as kept in the history of an agent."""

    step: int
    """Environment steps before it."""
    gain: float
    """The gain that the new policy was planned to have: optimistic, or that of a sampled process."""


class Learner(Protocol):
    """What an agent has learnt: everything that its next step depends on, besides the environment and its state."""

    @property
    def gain(self) -> float:
        """The present estimate of the best gain."""
        ...

    def get_state(self) -> dict[str, Any]:
        """Everything that :meth:`set_state` needs: numbers, texts and arrays."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues as the learner whose :meth:`get_state` it was."""
        ...


class AgentParts:
    """What a subclass of :class:`rlopt.agents.loop.base.ContinuingAgent` gives."""

    config_class: ClassVar[type[Any]]
    data: Any
    """The learner (:class:`Learner`); made when the horizon is known."""
    span: float
    """H, bound of max - min of the optimal bias, in units of reward; NaN for an agent that has none."""
    reward_range: tuple[float, float]
    begun: bool
    plans: list[Any]

    config: Any

    def _needs_span(self) -> bool:
        """Whether the agent uses a bound of the span from outside, which is given or the environment's own."""
        return hasattr(self.config, "span")

    @classmethod
    def _former_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings of a file, which may be of an earlier version, as settings of today."""
        return settings

    def _check_spaces(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        raise NotImplementedError

    def _begin(self) -> None:
        """Makes the learner ``data``; ``horizon``, ``span`` and ``reward_range`` are known."""
        raise NotImplementedError

    def _start(self) -> None:
        """Called at the beginning of every call of learn; makes the first plan if there is to be one."""

    def _arrive(self, observation: Any) -> int:
        """The state of the learner that ``observation`` is."""
        raise NotImplementedError

    def _act(self, state: int) -> int:
        """The action to take, exploration included."""
        return self._greedy(state)

    def _greedy(self, state: int) -> int:
        raise NotImplementedError

    def _greedy_of(self, observation: Any) -> int:
        """The greedy action for an observation, without taking it in."""
        raise NotImplementedError

    def _take_in(self, state: int, action: int, reward: float, arrived: int) -> None:
        """Learns from a transition; ``n_transitions`` counts it already."""
        self.data.add(state, action, reward, arrived)

    def _record(self) -> None:
        """Adds rows of its own to the log."""

    def _extra_state(self) -> dict[str, Any]:
        """What the next step depends on outside the learner."""
        return {}

    def _set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes what :meth:`_extra_state` gave; raises ValueError if it does not fit."""

    def _data_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the largest arrays of the learner's state, by name: checked before a learner is made for them."""
        return {}

    def _known_model(self) -> Any:
        """Arrays that were given to the constructor, such as the known kernels of a mixture; None if there are none."""
        return None

    def _set_known_model(self, known: Any) -> None:
        """Takes what :meth:`_known_model` gave; raises ValueError if it does not fit."""

    def _plan_record(self, plan: dict[str, Any]) -> Any:
        """An entry of ``plans`` from its fields; raises ValueError if they do not fit."""
        return Switch(int(plan["step"]), number(plan["gain"]))


def span_of(process: Any, given: float | None) -> float:
    """``given``, or the exact span of an environment that knows it; ConfigError without either."""
    if given is not None:
        return float(given)
    mdp = getattr(process, "mdp", None)
    if mdp is None:
        raise ConfigError(
            "span is not given and the environment does not know it: give a bound of max - min of the optimal bias, "
            "such as the reward lost while getting from the worst state to the best"
        )
    return max(float(mdp.span), 1e-6)


def range_of(process: Any, given: tuple[float, float] | None) -> tuple[float, float]:
    """``given``, or that of an environment that knows it, checked; ConfigError without either."""
    if given is None:
        given = getattr(getattr(process, "mdp", process), "reward_range", None)
    if given is None:
        raise ConfigError(
            "reward_range is not given and the environment does not know it: give the smallest and the largest reward "
            "of a step, reward_range=(0, 1) or --reward-range 0 1"
        )
    low, high = float(given[0]), float(given[1])
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigError(f"reward_range is {given}: give two finite numbers, the smaller first")
    return low, high
