"""The transitions of a rollout for a discriminator: a wrapper records them and hides the rewards."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor

from rlopt.envs.flat import flat_rows


class Transitions(NamedTuple):
    """N transitions, T steps of each environment in turn: row ``step * n_envs + environment``."""

    observations: Any
    """(N, ...) as the environment gives them, before a VecNormalize; or a dict of such arrays."""
    actions: np.ndarray
    """(N, ...) in the environment's units, within its bounds."""
    next_observations: Any
    """Like ``observations``; at an episode's end its last observation."""
    ended: np.ndarray
    """(N,) bool: the episode truly ended, by a terminal and not by a time limit."""


class RolloutRecord(VecEnvWrapper):
    """Records every step of ``venv`` and gives rewards of 0; the episodes' returns in ``infos`` stay the real ones.

    :param last_observations: gives the observations that the first step is taken at, asked for at that step
    """

    def __init__(self, venv: VecEnv, last_observations: Callable[[], Any]) -> None:
        super().__init__(venv)
        self._normalize = unwrap_vec_normalize(venv)
        self._last_observations = last_observations
        self._steps: list[tuple[Any, ...]] = []
        self._here: Any = None

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        if self._here is None:
            self._here = self._original(self._last_observations())
        self._actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        following = self._original(observations)
        last = _copied(following)
        for index in np.flatnonzero(dones).tolist():
            terminal = infos[index].get("terminal_observation")
            if terminal is not None:
                if self._normalize is not None:
                    terminal = self._normalize.unnormalize_obs(terminal)
                _put(last, index, terminal)
        cut = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos])
        self._steps.append((self._here, self._actions, last, np.asarray(dones, bool) & ~cut))
        self._here = following
        return observations, np.zeros_like(rewards), dones, infos

    def transitions(self) -> Transitions:
        """All that was recorded."""
        observations, actions, following, ended = zip(*self._steps, strict=True)
        return Transitions(_joined(observations), _joined(actions), _joined(following), _joined(ended))

    def _original(self, observations: Any) -> Any:
        if self._normalize is not None and self._normalize.norm_obs:
            observations = self._normalize.get_original_obs()
        return _copied(observations)


def flat_observations(observations: Any, space: spaces.Space) -> Tensor:
    """(N, O) float32, see :func:`rlopt.envs.flat.flat_rows`."""
    return torch.from_numpy(flat_rows(observations, space))


def _copied(observations: Any) -> Any:
    if isinstance(observations, dict):
        return {key: np.array(part) for key, part in observations.items()}
    return np.array(observations)


def _put(observations: Any, index: int, value: Any) -> None:
    if isinstance(observations, dict):
        for key, part in observations.items():
            part[index] = value[key]
    else:
        observations[index] = value


def _joined(steps: tuple[Any, ...]) -> Any:
    if isinstance(steps[0], dict):
        return {key: np.concatenate([step[key] for step in steps]) for key in steps[0]}
    return np.concatenate(steps)
