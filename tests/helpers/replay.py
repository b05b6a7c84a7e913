"""Random transitions for replay buffers, and comparisons of what buffers give."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

import rlopt.algorithms.spaces_only_env

ACTIONS = spaces.Box(-1, 1, (2,), np.float32)


def observe(space: spaces.Space, n_envs: int, rng: np.random.Generator) -> Any:
    """Observations of ``n_envs`` environments as a VecEnv gives them; goals are drawn from few, to be met again."""
    if isinstance(space, spaces.Dict):
        return {key: observe(part, n_envs, rng) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return rng.integers(0, space.n, n_envs)
    if isinstance(space, spaces.Box) and space.dtype is not None and space.dtype.kind == "f":
        return rng.normal(size=(n_envs, *space.shape)).astype(space.dtype)
    return rng.integers(0, 2, (n_envs, *(space.shape or ()))).astype(space.dtype)


def fill(buffers: list[ReplayBuffer], steps: int, seed: int = 0, end: float = 0.2) -> None:
    """Adds ``steps`` random transitions of each environment, the same to all ``buffers``.

    An episode ends at a step with probability ``end``: half of them by a time limit.
    """
    rng = np.random.default_rng(seed)
    first = buffers[0]
    for _ in range(steps):
        observations, next_observations = (observe(first.observation_space, first.n_envs, rng) for _ in range(2))
        actions = observe(first.action_space, first.n_envs, rng)
        rewards = rng.normal(size=first.n_envs)
        done = rng.random(first.n_envs) < end
        infos = [{"TimeLimit.truncated": bool(d and rng.random() < 0.5), "bonus": float(rng.normal())} for d in done]
        for buffer in buffers:
            buffer.add(observations, next_observations, actions, rewards, done, infos)


def normalizer(space: spaces.Space, n_envs: int, **settings: Any) -> VecNormalize:
    """A VecNormalize with statistics that differ from dimension to dimension and clip some values."""
    placeholder = rlopt.algorithms.spaces_only_env.SpacesOnlyVecEnv(n_envs, space, ACTIONS)
    env = VecNormalize(placeholder, clip_obs=1.0, clip_reward=1.5, **settings)
    rng = np.random.default_rng(7)
    for statistics in env.obs_rms.values() if isinstance(env.obs_rms, dict) else [env.obs_rms]:
        statistics.update(rng.normal(1.0, 3.0, (50, *statistics.mean.shape)))
    env.ret_rms.update(rng.normal(0.0, 2.0, 50))
    return env


def draw(buffer: ReplayBuffer, batch_size: int = 64, seed: int = 1, env: VecNormalize | None = None) -> Any:
    np.random.seed(seed)
    return buffer.sample(batch_size, env)


def assert_equal_batches(expected: Any, got: Any) -> None:
    """Equal bit for bit, in dtype and shape too."""
    assert type(expected) is type(got)
    for name, wanted, found in zip(expected._fields, expected, got, strict=True):
        assert (wanted is None) == (found is None), name
        parts = wanted if isinstance(wanted, dict) else {"": wanted}
        for key, part in parts.items():
            own = found[key] if isinstance(found, dict) else found
            if part is not None:
                assert part.dtype == own.dtype and part.shape == own.shape, (name, key)
                assert torch.equal(part, own), (name, key)
