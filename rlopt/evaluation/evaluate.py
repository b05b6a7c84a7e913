"""Unbiased evaluation: vectorised episodes, each counted exactly once, that leave training as it was."""

import copy
import inspect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from rlopt.errors import (
    ConfigError,
    NonFiniteError,
    NonFiniteOutcomeError,
    StoppedError,
    refuse_unknown_arguments,
    unknown_name,
)
from rlopt.evaluation.envs import base_env, observed_as_trained, open_env
from rlopt.state.isolate import StateDependentNoise, isolated, seed_everything
from rlopt.statistics.aggregates import Interval, bootstrap_interval, iqm

LONGEST_EPISODE = 100_000
"""Steps after which an episode of :func:`rlopt.make_env` is taken to have no end, unless its own limit is higher."""


STRETCH = 1000
"""Steps that a run evaluates as an episode where episodes have no end: a return is then 1000 times a reward rate."""


_OF_SB3 = {
    "n_eval_episodes": "its name is n_episodes",
    "callback": "on_episode is called after each episode",
    "return_episode_rewards": "the result has the returns and lengths of all episodes",
    "reward_threshold": "compare the result's mean or iqm",
    "render": "rlopt.evaluation.video.record_video draws episodes",
    "warn": "leave it out: episodes are always whole",
}
"""Arguments of Stable-Baselines3's ``evaluate_policy`` -> what there is in their place."""


class Predictor(Protocol):
    """Anything that acts: every Stable-Baselines3 model, and every result of :func:`rlopt.load`."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Actions for a batch of observations, and the model's state for the next call."""
        ...


class RandomPolicy:
    """Acts uniformly at random, as a baseline for trained agents.

    :param action_space: action space of one environment; a box must be bounded
    :param seed: seed of the actions
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
    """The episodes of an evaluation and their statistics. Episodes are in order of environment, then of time."""

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
    stop: Callable[[], bool] | None = None,
    **env_settings: Any,
) -> EvaluationResult:
    """Runs ``n_episodes`` whole episodes and returns their returns with the interquartile mean and its interval.

    The number of episodes of each environment is fixed before the first step, so short episodes are not preferred.
    Rewards are the environment's own, without the normalisation of training. The evaluation leaves the random states of
    Python, numpy and torch, the model (including its exploration noise) and its training environment exactly as they
    were.

    :param model: a Stable-Baselines3 model or what :func:`rlopt.load` returns. If its own environment is a
        ``VecNormalize``, observations are normalised with those statistics, unchanged
    :param env: an id, an ``EnvSettings``, a VecEnv (which is seeded, reset and left open), or a gymnasium environment
    :param n_episodes: at least 1
    :param deterministic: the mean or mode of the policy; False samples from it
    :param seed: seed of the environments and of sampling; the same seed and ``n_envs`` give the same episodes
    :param n_envs: parallel environments; default at most 16. Not for a VecEnv, which has its own number
    :param backend: as in :func:`rlopt.make_env`, with an id or settings
    :param confidence: confidence level of the interval, between 0 and 1
    :param on_episode: called with (episodes finished, ``n_episodes``) after each counted episode
    :param stop: called at every step; the evaluation stops once it returns True
    :param env_settings: further arguments of :func:`rlopt.make_env`, with an id or settings
    :raises StoppedError: because of ``stop``
    :raises SpaceError: if the spaces of model and environment differ
    :raises NonFiniteError: if an observation, an action or a reward is NaN or infinite
    :raises ConfigError: if an argument is out of range or does not fit the kind of ``env``, or if an episode continues
        beyond :data:`LONGEST_EPISODE` steps in an environment without a higher ``max_episode_steps``
    """
    from rlopt.envs.make import make_env

    own = (set(inspect.signature(evaluate).parameters) | set(inspect.signature(make_env).parameters)) - {"env_settings"}
    refuse_unknown_arguments("rlopt.evaluate", env_settings, own, _OF_SB3)
    check_arguments(n_episodes, confidence)
    with isolated(model):
        seed_everything(seed)
        venv, mine = open_env(model, env, n_episodes, n_envs=n_envs, seed=seed, backend=backend, **env_settings)
        try:
            if not mine:
                venv.seed(seed)
            with observed_as_trained(model, venv) as (base, seen, raw_reward):
                started = time.perf_counter()
                episodes, env_steps = _play(model, base, seen, raw_reward, n_episodes, deterministic, on_episode, stop)
                seconds = time.perf_counter() - started
        finally:
            if mine:
                venv.close()
    columns = episodes.columns()
    return EvaluationResult(
        **columns,
        interval=bootstrap_interval(columns["returns"], confidence=confidence),
        confidence=confidence,
        deterministic=deterministic,
        seed=seed,
        n_envs=venv.num_envs,
        env_steps=env_steps,
        seconds=seconds,
    )


def check_arguments(n_episodes: int, confidence: float) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for what :func:`evaluate` cannot play or say."""
    if n_episodes < 1:
        raise ConfigError(f"n_episodes must be at least 1, not {n_episodes}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be in (0, 1), not {confidence:g}")


def named_policy(model: Any, name: str) -> Any:
    """The model itself for ``last``, or another policy that it holds, such as ``mixture``.

    :raises rlopt.errors.UnknownNameError: it holds none of this name
    """
    policies = {"last": model, **getattr(model, "further_policies", dict)()}
    if name not in policies:
        raise unknown_name("policy", name, policies, hint=f"this {type(model).__name__} has {', '.join(policies)}")
    return policies[name]


class _Episodes:
    """The episodes that count: each environment's first ones, as many as were decided before the first step."""

    def __init__(self, n_envs: int, n_episodes: int) -> None:
        self.quota = np.full(n_envs, n_episodes // n_envs)
        self.quota[: n_episodes % n_envs] += 1
        self.counts = np.zeros(n_envs, dtype=np.int64)
        self.returns, self.lengths = np.zeros(n_envs), np.zeros(n_envs, dtype=np.int64)
        self._kept: list[list[tuple[float, int, bool, Any]]] = [[] for _ in range(n_envs)]

    @property
    def complete(self) -> bool:
        return not (self.counts < self.quota).any()

    def add_step(self, rewards: np.ndarray) -> None:
        self.returns += rewards
        self.lengths += 1

    def end(self, index: int, info: dict[str, Any]) -> bool:
        """Ends the episode of an environment; whether it counts."""
        counted = bool(self.counts[index] < self.quota[index])
        if counted:
            truncated = bool(info.get("TimeLimit.truncated", False))
            episode = (float(self.returns[index]), int(self.lengths[index]), truncated, info.get("is_success"))
            self._kept[index].append(episode)
            self.counts[index] += 1
        self.returns[index], self.lengths[index] = 0.0, 0
        return counted

    def columns(self) -> dict[str, Any]:
        """What :class:`EvaluationResult` says of them."""
        flat = [episode for column in self._kept for episode in column]
        successes = [bool(episode[3]) for episode in flat if episode[3] is not None]
        return {
            "returns": np.array([episode[0] for episode in flat], dtype=np.float64),
            "lengths": np.array([episode[1] for episode in flat], dtype=np.int64),
            "truncated": np.array([episode[2] for episode in flat], dtype=np.bool_),
            "success_rate": float(np.mean(successes)) if len(successes) == len(flat) else None,
        }


def _play(
    model: Predictor,
    env: VecEnv,
    seen: Callable[[Any], Any],
    raw_reward: Callable[[Any], Any],
    n_episodes: int,
    deterministic: bool,
    on_episode: Callable[[int, int], None] | None,
    stop: Callable[[], bool] | None = None,
) -> tuple[_Episodes, int]:
    """The episodes, and how many steps all environments took together."""
    n = env.num_envs
    episodes = _Episodes(n, n_episodes)
    starts = np.ones(n, dtype=bool)
    state, steps = None, 0
    settings = getattr(base_env(env), "settings", None)
    longest = math.inf if settings is None else max(LONGEST_EPISODE, settings.max_episode_steps or 0)
    noise = None if deterministic else StateDependentNoise.of(model, n)
    observations = env.reset()
    while not episodes.complete:
        if stop is not None and stop():
            raise StoppedError(f"the evaluation was stopped at step {steps}")
        _check_observations(observations, steps)
        if noise is not None:
            noise.draw(steps, starts)
        try:
            actions, state = model.predict(
                seen(observations), state=state, episode_start=starts, deterministic=deterministic
            )
            finite = bool(np.isfinite(actions).all())
        except ValueError as error:  # torch's distributions refuse NaN themselves
            if "nan" not in str(error):
                raise
            finite = False
        if not finite:
            raise NonFiniteError(
                f"the model's action is NaN or infinite at evaluation step {steps}: evaluate an earlier checkpoint"
            )
        observations, rewards, starts, infos = env.step(actions)
        rewards = np.asarray(raw_reward(rewards), dtype=np.float64)
        _check_rewards(rewards, steps)
        steps += 1
        episodes.add_step(rewards)
        if episodes.lengths.max() > longest:
            raise ConfigError(
                f"an episode has not ended after {longest:,} steps: give the environment a limit, "
                "max_episode_steps, or measure its reward rate with rlopt.evaluation.gain.evaluate_average_reward"
            )
        for index in np.flatnonzero(starts).tolist():
            if episodes.end(index, infos[index]) and on_episode is not None:
                on_episode(int(episodes.counts.sum()), n_episodes)
    return episodes, steps * n


def _check_rewards(rewards: np.ndarray, step: int) -> None:
    if not np.isfinite(rewards).all():
        bad = int(np.flatnonzero(~np.isfinite(rewards))[0])
        raise NonFiniteOutcomeError(
            f"the reward is {rewards[bad]} in environment {bad} at evaluation step {step}: check the environment"
        )


def _check_observations(observations: Any, step: int) -> None:
    for key, part in observations.items() if isinstance(observations, dict) else [("", observations)]:
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            name = f"observation {key!r}" if key else "observation"
            raise NonFiniteOutcomeError(
                f"the {name} is NaN or infinite at evaluation step {step}: check the environment"
            )
