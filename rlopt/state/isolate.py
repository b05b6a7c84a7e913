"""Lets a model act in the middle of its training and leaves no trace: random states, modes, exploration noise."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.distributions import Distribution, StateDependentNoiseDistribution

from rlopt.state.rng import capture_random, restore_random


@contextmanager
def isolated(model: Any) -> Iterator[None]:
    """Restores on exit, whatever happens inside, all that acting changes in the process and in ``model``.

    These are the global random states of Python, numpy and torch (CPU, and CUDA where it is in use), torch's number of
    threads, the generator of the model's action space, the training or evaluation mode of each module, and what the
    action distributions hold, such as gSDE's exploration matrices.

    :param model: a Stable-Baselines3 model, or any object (then only what it has of these)
    """
    space = getattr(model, "action_space", None)
    generators = capture_random(space)
    modes = [(module, module.training) for module in _modules(model)]
    held = [(distribution, dict(vars(distribution))) for distribution in _distributions(model)]
    try:
        yield
    finally:
        for distribution, attributes in held:
            vars(distribution).clear()
            vars(distribution).update(attributes)
        for module, training in modes:
            module.training = training
        restore_random(generators, space)


def seed_everything(seed: int) -> None:
    """Seeds Python's, numpy's and torch's global generators; CUDA's only where CUDA is already in use."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


class StateDependentNoise:
    """Draws gSDE noise as training does: per environment, anew with each episode and every ``sde_sample_freq`` steps.

    :param model: a model whose policy has ``reset_noise``
    :param n_envs: how many observations ``predict`` gets at once
    """

    def __init__(self, model: Any, noise: StateDependentNoiseDistribution, n_envs: int) -> None:
        self._policy, self._noise, self._n_envs = model.policy, noise, n_envs
        self._every = int(getattr(model, "sde_sample_freq", -1))

    @classmethod
    def of(cls, model: Any, n_envs: int) -> StateDependentNoise | None:
        """The noise of ``model``; None if it does not explore with gSDE."""
        for distribution in _distributions(model):
            if isinstance(distribution, StateDependentNoiseDistribution):
                return cls(model, distribution, n_envs)
        return None

    def draw(self, step: int, starts: npt.NDArray[np.bool_]) -> None:
        """Call it before each step; ``starts`` (``[n_envs]``) says where an episode begins."""
        if step == 0 or (self._every > 0 and step % self._every == 0):
            self._policy.reset_noise(self._n_envs)
        elif starts.any():
            old = self._noise.exploration_matrices
            self._policy.reset_noise(self._n_envs)
            new = self._noise.exploration_matrices
            fresh = torch.as_tensor(starts, device=new.device)[:, None, None]
            self._noise.exploration_matrices = torch.where(fresh, new, old)


def _modules(model: Any) -> list[torch.nn.Module]:
    policy = getattr(model, "policy", None)
    return list(policy.modules()) if isinstance(policy, torch.nn.Module) else []


def _distributions(model: Any) -> list[Distribution]:
    found = {
        id(value): value
        for module in _modules(model)
        for value in vars(module).values()
        if isinstance(value, Distribution)
    }
    return list(found.values())
