"""Environments to evaluate in: made or given, and seen by the model as the one that it was trained in."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    unwrap_vec_normalize,
)

from rlopt.envs.make import make_env
from rlopt.envs.settings import EnvSettings
from rlopt.errors import ConfigError, SpaceError
from rlopt.state.envs import wrapper_statistics
from rlopt.state.isolate import isolated, seed_everything

MAX_DEFAULT_ENVS = 16


def open_env(
    model: Any, env: Any, n_episodes: int, *, n_envs: int | None, seed: int, backend: str, **env_settings: Any
) -> tuple[VecEnv, bool]:
    """The VecEnv to evaluate ``model`` in, and whether it is ours to close. Arguments as of :func:`rlopt.evaluate`.

    :raises rlopt.errors.ConfigError: for the training environment, settings beside an environment that exists, or what
        is not an environment
    """
    if isinstance(env, VecEnv) and base_env(env) is base_env(getattr(model, "env", None)):
        env = getattr(base_env(env), "settings", None)
        if env is None:
            raise ConfigError(
                "evaluating in the training environment would disturb training: pass its id or a second environment"
            )
    if isinstance(env, VecEnv | gym.Env):
        given = [name for name, value in {"n_envs": n_envs, **env_settings}.items() if value is not None]
        if given or backend != "auto":
            raise ConfigError(
                f"{', '.join(given or ['backend'])}: only for an environment id or EnvSettings, not for an instance"
            )
        return (env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])), False
    from rlopt.envs.make import make_env

    n_envs = min(n_episodes, MAX_DEFAULT_ENVS) if n_envs is None else n_envs
    if isinstance(env, str):
        return make_env(env, n_envs=n_envs, seed=seed, backend=backend, **env_settings), True
    if dataclasses.is_dataclass(env) and hasattr(env, "as_dict"):
        changed = {"n_envs": n_envs, "seed": seed, "backend": backend, **env_settings}
        return make_env(**{**env.as_dict(), **changed}), True
    raise ConfigError(f"env must be an id, EnvSettings or an environment, not {type(env).__name__}")


def base_env(env: Any) -> Any:
    """The environment under all wrappers; an object like no other for None."""
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return env if env is not None else object()


@contextmanager
def normalised_as_trained(model: Any, env: Any) -> Iterator[None]:
    """Within, Gymnasium's normalising wrappers in ``env`` have the statistics of the training, and count no more.

    :param env: what :func:`rlopt.make_env` made, wrapped or not; in others, nothing is changed
    """
    base = base_env(env)
    before = base.statistics() if hasattr(base, "set_statistics") else []
    trained_in = getattr(model, "env", None)
    statistics = getattr(model, "wrapper_statistics", None)
    if isinstance(trained_in, VecEnv):
        statistics = wrapper_statistics(trained_in)
    if not any(before) or statistics is None:  # such as a random policy, which was trained nowhere
        yield
        return
    if not base.set_statistics(statistics, counting=False):
        warnings.warn(
            "this environment's NormalizeObservation or NormalizeReward has no statistics from the training: they "
            "start again, so the policy may see observations that differ from those of its training",
            stacklevel=2,
        )
    try:
        yield
    finally:
        base.set_statistics(before, counting=True)


@contextmanager
def observed_as_trained(model: Any, env: VecEnv) -> Iterator[tuple[VecEnv, Callable[[Any], Any], Callable[[Any], Any]]]:
    """Yields the environment to step, how its observations look to the model, and how to get the raw rewards.

    :raises rlopt.errors.SpaceError: if the spaces of model and environment differ
    """
    with normalised_as_trained(model, env), _vec_normalised_as_trained(model, env) as seen:
        yield seen


@contextmanager
def _vec_normalised_as_trained(
    model: Any, env: VecEnv
) -> Iterator[tuple[VecEnv, Callable[[Any], Any], Callable[[Any], Any]]]:
    trained_in = getattr(model, "env", None)
    norm = unwrap_vec_normalize(trained_in) if isinstance(trained_in, VecEnv) else None
    while isinstance(env, VecMonitor | VecNormalize) and unwrap_vec_normalize(env) is not None:
        # a loaded model normalises in predict, with its own statistics
        if isinstance(env, VecNormalize) and norm is None and getattr(model, "observation_statistics", None) is None:
            norm = env
        env = env.venv
    inner = unwrap_vec_normalize(env)
    if inner is not None:  # under a wrapper that changes observations: they come out normalised by the env itself
        _check_spaces(model, _transposed_if_needed(env, getattr(model, "observation_space", None)))
        was_training, inner.training = inner.training, False
        try:
            yield env, lambda observation: observation, lambda reward: inner.get_original_reward()
        finally:
            inner.training = was_training
        return
    if norm is None:
        env = _transposed_if_needed(env, getattr(model, "observation_space", None))
        _check_spaces(model, env)
        yield env, lambda observation: observation, lambda reward: reward
        return
    env = _transposed_if_needed(env, norm.observation_space)
    _check_spaces(model, env)
    yield env, norm.normalize_obs, lambda reward: reward


def _transposed_if_needed(env: VecEnv, wanted: spaces.Space | None) -> VecEnv:
    """Puts image channels first if that, and only that, is what ``wanted`` needs."""
    if wanted is None or _alike(env.observation_space, wanted):
        return env
    space = env.observation_space
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    images = [part for part in parts if isinstance(part, spaces.Box) and is_image_space(part)]
    if not images or any(is_image_space_channels_first(image) for image in images):
        return env
    transposed = VecTransposeImage(env)
    return transposed if _alike(transposed.observation_space, wanted) else env


def _check_spaces(model: Any, env: VecEnv) -> None:
    for kind in ("observation", "action"):
        wanted, got = getattr(model, f"{kind}_space", None), getattr(env, f"{kind}_space")
        if wanted is not None and not _alike(wanted, got, bounds=kind == "action"):
            raise SpaceError(
                f"the model's {kind} space {wanted} differs from the environment's {got}: evaluate in the environment "
                "(id, action repeat, frame stack) that the model was trained in"
            )


def _alike(first: spaces.Space, second: spaces.Space, *, bounds: bool = False) -> bool:
    """Equal for a network: same structure and shapes, float widths aside; bounds count for actions, scaled by them."""
    if isinstance(first, spaces.Dict) and isinstance(second, spaces.Dict):
        return first.spaces.keys() == second.spaces.keys() and all(
            _alike(first[key], second[key], bounds=bounds) for key in first.spaces
        )
    if isinstance(first, spaces.Box) and isinstance(second, spaces.Box):
        same = first.shape == second.shape and first.dtype.kind == second.dtype.kind
        return same and (not bounds or (np.allclose(first.low, second.low) and np.allclose(first.high, second.high)))
    return first == second


N_ENVS = 8


def start_states(env: EnvSettings, count: int = 200, seed: int = 0) -> Any:
    """Observations in which ``count`` episodes start, [count, ...] or a dictionary of such arrays.

    :raises rlopt.errors.ConfigError: the environment cannot be made
    """
    made = make_env(**dataclasses.replace(env, n_envs=N_ENVS, seed=seed, backend="gymnasium").as_dict())
    try:
        return _joined([made.reset() for _ in range(-(-count // N_ENVS))], count)
    finally:
        made.close()


def visited_states(run: str, env: EnvSettings, count: int = 5000, seed: int = 0) -> Any:
    """The first ``count`` observations of the deterministic episodes of a run's policy, as :func:`start_states`.

    :param run: run folder
    :raises rlopt.errors.RloptError: the run cannot be read, or the environment not be made
    """
    from rlopt.checkpoint.load import load

    model = load(run, device="cpu")
    made = make_env(**dataclasses.replace(env, n_envs=N_ENVS, seed=seed, backend="gymnasium").as_dict())
    try:
        with isolated(model):
            seed_everything(seed)
            seen = [made.reset()]
            while len(seen) * N_ENVS < count:
                actions, _ = model.predict(seen[-1], deterministic=True)
                seen.append(made.step(actions)[0])
    finally:
        made.close()
    return _joined(seen, count)


def _joined(parts: list[Any], count: int) -> Any:
    if isinstance(parts[0], Mapping):
        return {key: _joined([part[key] for part in parts], count) for key in parts[0]}
    return np.concatenate(parts)[:count]
