"""Rewards, observations, losses and parameters that are NaN or infinite end training with the cause."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import nn

from rlopt.envs.outcomes import check_batch
from rlopt.errors import NonFiniteError, NonFiniteOutcomeError

_OUTCOMES = ("observation", "reward", "terminal observation", "observation or reward")


def check_finite(name: str, values: Any, step: int) -> None:
    """Raises :class:`rlopt.errors.NonFiniteError` if ``values`` holds a NaN or an infinity.

    For observations and rewards it is a :class:`rlopt.errors.NonFiniteOutcomeError`.

    :param name: what the values are, for people: "reward", "observation[position]", "policy loss"
    :param values: a number, array, tensor, or a mapping of those (Dict observations)
    :param step: the environment step at which they were seen
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            check_finite(f"{name}[{key}]", value, step)
        return
    if isinstance(values, torch.Tensor):
        finite = bool(torch.isfinite(values).all())
    else:
        array = np.asarray(values)
        finite = array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
    if not finite:
        what = name.split("[")[0]
        if what in _OUTCOMES:
            raise NonFiniteOutcomeError(f"{name} is NaN or infinite at step {step}: check the environment's {what}s")
        source = "the size of the environment's rewards" if what.endswith("loss") else f"the environment's {what}s"
        raise NonFiniteError(
            f"{name} is NaN or infinite at step {step}: check {source}, lower the "
            "learning rate, or continue from the last good checkpoint"
        )


def check_parameters(network: nn.Module, step: int) -> None:
    """Raises :class:`rlopt.errors.NonFiniteError` if an update left a NaN or an infinity in ``network``."""
    for name, parameter in network.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise NonFiniteError(
                f"the update at step {step} made the parameter {name} NaN or infinite: lower the learning rate, or "
                "continue from the last good checkpoint"
            )


def check_step(
    observations: Any,
    rewards: np.ndarray,
    dones: np.ndarray,
    infos: list[dict[str, Any]],
    step: int,
    space: spaces.Space[Any],
    n_envs: int,
) -> None:
    """:func:`check_finite` for what a ``VecEnv`` returned from step number ``step``, terminal observations included.

    :param space: space of the observations
    :param n_envs: environments; those that have not ended need no ``infos``
    :raises rlopt.errors.OutcomeError: for what has not the shape that ``space`` and the number of environments say
    """
    check_batch(observations, rewards, dones, space, n_envs)
    check_finite("observation", observations, step)
    check_finite("reward", rewards, step)
    for index in np.flatnonzero(dones):
        check_finite("terminal observation", infos[index].get("terminal_observation", 0.0), step)


class FiniteVecEnv(VecEnvWrapper):
    """Stops at the first step whose observation, terminal observation or reward is NaN or infinite.

    :param venv: the training environment
    :param step: environment steps done so far, for the message
    """

    def __init__(self, venv: VecEnv, step: int) -> None:
        super().__init__(venv)
        self._step = step

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        self._step += self.num_envs
        check_step(observations, rewards, dones, infos, self._step, self.observation_space, self.num_envs)
        return observations, rewards, dones, infos
