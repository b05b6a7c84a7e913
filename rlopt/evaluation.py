"""Unbiased evaluation: vectorised episodes, each counted exactly once, that leave training as it was."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt
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

from rlopt.errors import ConfigError, NonFiniteError, SpaceError
from rlopt.statistics import Interval, bootstrap_interval, iqm
from rlopt.undisturbed import StateDependentNoise, seed_everything, undisturbed

MAX_DEFAULT_ENVS = 16
LONGEST_EPISODE = 100_000
"""Steps after which an episode of :func:`rlopt.make_env` is taken to have no end, unless its own limit is higher."""


class Predictor(Protocol):
    """Anything that acts: every Stable-Baselines3 model, and everything that :func:`rlopt.load` returns."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Actions for a batch of observations, and what the model remembers for the next call."""
        ...


class RandomPolicy:
    """Acts uniformly at random: the floor that a trained agent is compared with.

    :param action_space: of one environment; a box must be bounded
    :param seed: of the actions
    """

    def __init__(self, action_space: spaces.Space, seed: int = 0) -> None:
        self._space = copy.deepcopy(action_space)
        self._space.seed(seed)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Draws one action for each environment that ``episode_start`` (``[n_envs]``) counts."""
        count = 1 if episode_start is None else len(episode_start)
        return np.stack([np.asarray(self._space.sample()) for _ in range(count)]), None


@dataclass(frozen=True)
class EvaluationResult:
    """The episodes of an evaluation and what they say. Episodes are in order of environment, then of time."""

    returns: npt.NDArray[np.float64]
    """``[episodes]``: sums of un-normalised rewards, undiscounted."""
    lengths: npt.NDArray[np.int64]
    """``[episodes]``: agent steps."""
    truncated: npt.NDArray[np.bool_]
    """``[episodes]``: ended by a time limit, not by a terminal state."""
    success_rate: float | None
    """Share of episodes whose last ``info["is_success"]`` was true; None where the environment does not say."""
    interval: Interval
    """Bootstrap interval of the interquartile mean, over episodes (not over training seeds)."""
    confidence: float
    deterministic: bool
    seed: int
    n_envs: int
    env_steps: int
    """Agent steps simulated, those of unfinished episodes included."""
    seconds: float

    @property
    def iqm(self) -> float:
        """Interquartile mean of the returns."""
        return float(iqm(self.returns))

    @property
    def mean(self) -> float:
        """Mean of the returns."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the returns (divided by n)."""
        return float(self.returns.std())

    @property
    def env_steps_per_second(self) -> float:
        """Agent steps a second, over all environments."""
        return self.env_steps / max(self.seconds, 1e-9)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "episodes": len(self.returns),
            "iqm": self.iqm,
            "interval": list(self.interval),
            "confidence": self.confidence,
            "mean": self.mean,
            "std": self.std,
            "min": float(self.returns.min()),
            "max": float(self.returns.max()),
            "mean_length": float(self.lengths.mean()),
            "truncated_share": float(self.truncated.mean()),
            "success_rate": self.success_rate,
            "deterministic": self.deterministic,
            "seed": self.seed,
            "n_envs": self.n_envs,
            "env_steps": self.env_steps,
            "seconds": self.seconds,
            "env_steps_per_second": self.env_steps_per_second,
            "returns": self.returns.tolist(),
            "lengths": self.lengths.tolist(),
            "truncated": self.truncated.tolist(),
        }


def evaluate(
    model: Predictor,
    env: Any,
    n_episodes: int = 10,
    *,
    deterministic: bool = True,
    seed: int = 0,
    n_envs: int | None = None,
    backend: str = "auto",
    confidence: float = 0.95,
    on_episode: Callable[[int, int], None] | None = None,
    **env_settings: Any,
) -> EvaluationResult:
    """Plays ``n_episodes`` whole episodes and returns their returns with the interquartile mean and its interval.

    Each environment is given its number of episodes before the first step, so short episodes are not preferred, and
    rewards are the environment's own, whatever normalisation was trained with. Python's, numpy's and torch's random
    states, the model (its exploration noise included) and its training environment are left exactly as they were.

    :param model: a Stable-Baselines3 model or what :func:`rlopt.load` returns. If its own environment is a
        ``VecNormalize``, observations are normalised with those statistics, unchanged
    :param env: an id, an ``EnvSettings``, a VecEnv (which is seeded, reset and left open), or a gymnasium environment
    :param n_episodes: at least 1
    :param deterministic: the mean or mode of the policy; False samples from it
    :param seed: of the environments and of sampling; the same seed and ``n_envs`` give the same episodes
    :param n_envs: environments side by side; default at most 16. Not for a VecEnv, which has its own number
    :param backend: as in :func:`rlopt.make_env`, with an id or settings
    :param confidence: of the interval, between 0 and 1
    :param on_episode: called with (episodes finished, ``n_episodes``) after each counted episode
    :param env_settings: further arguments of :func:`rlopt.make_env`, with an id or settings
    :raises SpaceError: if the spaces of model and environment differ
    :raises NonFiniteError: if an observation, an action or a reward is NaN or infinite
    :raises ConfigError: if an argument is out of range or does not fit the kind of ``env``, or if an episode goes on
        beyond :data:`LONGEST_EPISODE` steps in an environment without a higher ``max_episode_steps``
    """
    if n_episodes < 1:
        raise ConfigError(f"n_episodes must be at least 1, not {n_episodes}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be in (0, 1), not {confidence:g}")
    with undisturbed(model):
        seed_everything(seed)
        venv, mine = _open(model, env, n_episodes, n_envs=n_envs, seed=seed, backend=backend, **env_settings)
        try:
            if not mine:
                venv.seed(seed)
            with _observed_as_trained(model, venv) as (base, seen, raw_reward):
                started = time.perf_counter()
                played = _play(model, base, seen, raw_reward, n_episodes, deterministic, on_episode)
                seconds = time.perf_counter() - started
        finally:
            if mine:
                venv.close()
    returns, lengths, truncated, success_rate, env_steps = played
    return EvaluationResult(
        returns=returns,
        lengths=lengths,
        truncated=truncated,
        success_rate=success_rate,
        interval=bootstrap_interval(returns, confidence=confidence),
        confidence=confidence,
        deterministic=deterministic,
        seed=seed,
        n_envs=venv.num_envs,
        env_steps=env_steps,
        seconds=seconds,
    )


def _play(
    model: Predictor,
    env: VecEnv,
    seen: Callable[[Any], Any],
    raw_reward: Callable[[Any], Any],
    n_episodes: int,
    deterministic: bool,
    on_episode: Callable[[int, int], None] | None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.bool_], float | None, int]:
    n = env.num_envs
    quota = np.full(n, n_episodes // n)
    quota[: n_episodes % n] += 1
    episodes: list[list[tuple[float, int, bool, Any]]] = [[] for _ in range(n)]
    counts, lengths = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    returns = np.zeros(n)
    starts = np.ones(n, dtype=bool)
    state, steps = None, 0
    settings = getattr(_base(env), "settings", None)
    longest = math.inf if settings is None else max(LONGEST_EPISODE, settings.max_episode_steps or 0)
    noise = None if deterministic else StateDependentNoise.of(model, n)
    observations = env.reset()
    while (counts < quota).any():
        _check_observations(observations, steps)
        if noise is not None:
            noise.draw(steps, starts)
        actions, state = model.predict(
            seen(observations), state=state, episode_start=starts, deterministic=deterministic
        )
        if not np.isfinite(actions).all():
            raise NonFiniteError(
                f"the model's action is NaN or infinite at evaluation step {steps}: evaluate an earlier checkpoint"
            )
        observations, rewards, starts, infos = env.step(actions)
        rewards = np.asarray(raw_reward(rewards), dtype=np.float64)
        if not np.isfinite(rewards).all():
            bad = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise NonFiniteError(
                f"the reward is {rewards[bad]} in environment {bad} at evaluation step {steps}: check the environment"
            )
        steps += 1
        returns += rewards
        lengths += 1
        if lengths.max() > longest:
            raise ConfigError(
                f"an episode has not ended after {longest:,} steps: give the environment a limit, max_episode_steps"
            )
        for i in np.flatnonzero(starts):
            if counts[i] < quota[i]:
                info = infos[i]
                truncated = bool(info.get("TimeLimit.truncated", False))
                episodes[i].append((float(returns[i]), int(lengths[i]), truncated, info.get("is_success")))
                counts[i] += 1
                if on_episode is not None:
                    on_episode(int(counts.sum()), n_episodes)
            returns[i], lengths[i] = 0.0, 0
    flat = [episode for column in episodes for episode in column]
    successes = [bool(episode[3]) for episode in flat if episode[3] is not None]
    return (
        np.array([episode[0] for episode in flat], dtype=np.float64),
        np.array([episode[1] for episode in flat], dtype=np.int64),
        np.array([episode[2] for episode in flat], dtype=np.bool_),
        float(np.mean(successes)) if len(successes) == len(flat) else None,
        steps * n,
    )


def _check_observations(observations: Any, step: int) -> None:
    for key, part in observations.items() if isinstance(observations, dict) else [("", observations)]:
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            name = f"observation {key!r}" if key else "observation"
            raise NonFiniteError(f"the {name} is NaN or infinite at evaluation step {step}: check the environment")


def _open(
    model: Any, env: Any, n_episodes: int, *, n_envs: int | None, seed: int, backend: str, **env_settings: Any
) -> tuple[VecEnv, bool]:
    """The VecEnv to evaluate in, and whether it is ours to close."""
    if isinstance(env, VecEnv) and _base(env) is _base(getattr(model, "env", None)):
        env = getattr(_base(env), "settings", None)
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


def _base(env: Any) -> Any:
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return env if env is not None else object()


@contextmanager
def _observed_as_trained(
    model: Any, env: VecEnv
) -> Iterator[tuple[VecEnv, Callable[[Any], Any], Callable[[Any], Any]]]:
    """Yields the environment to step, how its observations look to the model, and how to get the raw rewards."""
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
