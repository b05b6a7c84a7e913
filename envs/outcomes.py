"""Checks what an environment returns against its spaces and Gymnasium's interface, where it enters rlopt.

Types and shapes are compared, never values, so that a step costs less than a microsecond more. numpy would broadcast
an observation of another shape, and make a number of the text "1.5".
"""

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rlopt.errors import OutcomeError, one_line

_KINDS = {"f": "fiub", "i": "iub", "u": "iub", "b": "iub"}
"""Kind of a space's dtype -> kinds of the observations that it takes. Floats would be cut to integers."""


class Interface:
    """What one environment may return.

    :param name: name of the environment, for people
    :param space: its observation space; parts that are not arrays are not looked at
    """

    def __init__(self, name: str, space: spaces.Space[Any]) -> None:
        self.name = name
        parts: Mapping[Any, spaces.Space[Any]] = space.spaces if isinstance(space, spaces.Dict) else {None: space}
        self._keys = frozenset(parts) if isinstance(space, spaces.Dict) else None
        self._parts = [
            (key, part.shape, _KINDS.get(part.dtype.kind, part.dtype.kind))
            for key, part in parts.items()
            if part.shape is not None and part.dtype is not None
        ]

    def step(self, outcome: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Observation, reward, terminated, truncated and info of a step, as Python's own numbers.

        :raises rlopt.errors.OutcomeError: for anything else
        """
        if not isinstance(outcome, (tuple, list)) or len(outcome) != 5:
            raise self._no_step(outcome)
        observation, reward, terminated, truncated, info = outcome
        self.check_observation(observation, "step")
        if not isinstance(reward, float):
            reward = self._number(reward)
        if type(terminated) is not bool or type(truncated) is not bool:
            terminated, truncated = self._flag("terminated", terminated), self._flag("truncated", truncated)
        if not isinstance(info, dict):
            info = self._info(info, "step")
        if "episode" in info and not isinstance(info["episode"], Mapping):
            raise OutcomeError(
                f"{self.name} gave info['episode'] = {_shown(info['episode'])} in step(): rename the key, which is the "
                "one of an episode's statistics"
            )
        return observation, float(reward), terminated, truncated, info

    def reset(self, outcome: Any) -> tuple[Any, dict[str, Any]]:
        """Observation and info of a reset.

        :raises rlopt.errors.OutcomeError: for anything else
        """
        if not isinstance(outcome, (tuple, list)) or len(outcome) != 2:
            raise OutcomeError(
                f"{self.name}: reset() does not return observation and info, but {_shown(outcome)}: "
                "make it return (observation, info), with info a dictionary"
            )
        observation, info = outcome
        if not isinstance(info, Mapping):  # a wrapper may have taken the observation alone apart
            raise OutcomeError(
                f"{self.name} gave the info {_shown(info)} in reset(): make it a dictionary, reset() "
                "returns (observation, info)"
            )
        self.check_observation(observation, "reset")
        return observation, dict(info)

    def check_observation(self, observation: Any, what: str) -> None:
        """Raises :class:`rlopt.errors.OutcomeError` for an observation that is not one of the space.

        :param what: the call that returned it: "step", "reset"
        """
        if self._keys is not None and not (isinstance(observation, Mapping) and self._keys <= observation.keys()):
            found = f"the keys {sorted(map(str, observation))}" if isinstance(observation, Mapping) else "no dictionary"
            raise OutcomeError(
                f"{self.name} gave an observation with {found} in {what}(), its observation_space says "
                f"{sorted(map(str, self._keys))}: make the two agree"
            )
        for key, shape, kinds in self._parts:
            part = observation if key is None else observation[key]
            try:
                same = part.shape == shape and part.dtype.kind in kinds
            except AttributeError:
                same = False
            if not same:
                self._check_part(key, part, shape, kinds, what)

    def _check_part(self, key: Any, part: Any, shape: tuple[int, ...], kinds: str, what: str) -> None:
        """The same for lists, numbers and tensors; one number may have any shape of one number."""
        try:
            array = np.asarray(part)
        except (TypeError, ValueError, RuntimeError):  # ragged, or on a GPU
            array = np.array(None)
        same = array.shape == shape or (array.size == 1 and math.prod(shape) == 1)
        if same and array.dtype.kind in kinds:
            return
        numbers = array.dtype.kind in "fiub"
        found = f"of shape {array.shape}" if not same and numbers else f"of dtype {array.dtype}" if numbers else ""
        where = f"{'' if key is None else f' {key!r}'} {found or f'that is {_shown(part)}'}"
        says = shape if not same else {"fiub": "floats", "iub": "integers"}.get(kinds, "others")
        raise OutcomeError(
            f"{self.name} gave an observation{where} in {what}(), its observation_space says {says}: make the two agree"
        )

    def _number(self, reward: Any) -> float:
        number = reward
        if not isinstance(reward, (int, np.integer, np.floating)):
            try:
                array = np.asarray(reward)
            except (TypeError, ValueError, RuntimeError):
                array = np.array(None)
            number = array.item() if array.size == 1 else None
        if not hasattr(number, "__float__"):
            raise OutcomeError(f"{self.name} gave the reward {_shown(reward)} in step(): make it one number")
        return float(number)

    def _flag(self, name: str, value: Any) -> bool:
        if isinstance(value, (bool, np.bool_)):
            return bool(value)
        array = np.asarray(value)
        if array.size == 1 and array.dtype.kind in "iub" and array.item() in (0, 1):
            return bool(array.item())
        raise OutcomeError(f"{self.name} gave {name} = {_shown(value)} in step(): make it True or False")

    def _info(self, info: Any, what: str) -> dict[str, Any]:
        if not isinstance(info, Mapping):
            raise OutcomeError(f"{self.name} gave the info {_shown(info)} in {what}(): make it a dictionary")
        return dict(info)

    def _no_step(self, outcome: Any) -> OutcomeError:
        message = f"{self.name}: step() does not return observation, reward, terminated, truncated and info"
        if isinstance(outcome, (tuple, list)) and len(outcome) == 4:
            return OutcomeError(
                f"{message}, but four values: it has the old interface of Gym, wrap it with "
                "shimmy.GymV21CompatibilityV0"
            )
        return OutcomeError(f"{message}, but {_shown(outcome)}")


class CheckedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Compares what an environment returns with its observation space.

    :param env: whose steps and resets raise :class:`rlopt.errors.OutcomeError` from now on
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._interface = Interface(name_of(env), env.observation_space)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._interface.step(self.env.step(action))

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        # Only what was given: environments that were written for Stable-Baselines3 may take a seed alone.
        return self._interface.reset(self.env.reset(**arguments))


def name_of(env: gymnasium.Env[Any, Any]) -> str:
    """The id of an environment, or its class."""
    return type(env.unwrapped).__name__ if env.spec is None else str(env.spec.id)


def check_batch(observations: Any, rewards: Any, dones: Any, space: spaces.Space[Any], n_envs: int) -> None:
    """Raises :class:`rlopt.errors.OutcomeError` unless a ``VecEnv`` returned ``n_envs`` of everything.

    :param space: space of the observations of one environment
    """
    if not isinstance(space, spaces.Dict):
        _check_array("observation", observations, (n_envs, *(space.shape or ())))
    elif not isinstance(observations, Mapping) or observations.keys() != space.spaces.keys():
        raise OutcomeError(f"the VecEnv gave observations that have not the keys of {space}: make the two agree")
    else:
        for key, part in space.spaces.items():
            _check_array(f"observation {key!r}", observations[key], (n_envs, *(part.shape or ())))
    _check_array("reward", rewards, (n_envs,))
    _check_array("done", dones, (n_envs,))


def _check_array(name: str, values: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(values, np.ndarray) or values.shape != shape or values.dtype.kind not in "fiub":
        found = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise OutcomeError(
            f"the VecEnv gave {name}s as {found}, not numbers of shape {shape}: make its spaces and its steps agree"
        )


def _shown(value: Any) -> str:
    """A value in few words."""
    if isinstance(value, (tuple, list)):
        return f"{len(value)} values"
    shown = one_line(repr(value))
    return shown if len(shown) <= 40 else type(value).__name__
