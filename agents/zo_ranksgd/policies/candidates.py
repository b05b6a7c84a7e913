"""The returns of all candidates of a round, run in parallel: one environment per candidate and episode."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv

from rlopt.agents.zo_ranksgd.policies.observations import FloatArray, Moments, Normalizer, take
from rlopt.agents.zo_ranksgd.policies.vector import PolicyVector, inputs_of
from rlopt.envs.settings import derive_seeds
from rlopt.errors import ConfigError, NonFiniteError
from rlopt.evaluation.evaluate import LONGEST_EPISODE


class RoundStopped(Exception):
    """A request to stop came before the round was complete; nothing of it counts."""


@dataclass(frozen=True)
class Evaluation:
    """What the candidates of a round did."""

    episode_returns: FloatArray
    """``[m, episodes]``: undiscounted sums of rewards; not finite where an action or a reward was not."""
    lengths: npt.NDArray[np.int64]
    """``[m, episodes]``: agent steps."""
    seeds: npt.NDArray[np.int64]
    """``[m, episodes]``: of the environments."""
    moments: Moments
    """Moments of the observations that all candidates saw."""

    @property
    def returns(self) -> FloatArray:
        """``[m]``: mean over the episodes of a candidate, which is what is ranked."""
        return np.asarray(self.episode_returns.mean(axis=1))

    @property
    def steps(self) -> int:
        """Agent steps of all episodes together."""
        return int(self.lengths.sum())


@dataclass(frozen=True)
class Episodes:
    """What n episodes came to, a row each. Sums are kept apart until all are there, so that the order in which they
    are added never depends on who played what."""

    returns: FloatArray
    """``[n]``: undiscounted sums of rewards."""
    lengths: npt.NDArray[np.int64]
    """``[n]``: agent steps."""
    sums: FloatArray
    """``[n, features]``: of observations, relative to the frozen mean."""
    squares: FloatArray
    """``[n, features]``: of their squares."""
    seen: npt.NDArray[np.int64]
    """``[n]``: observations that were finite."""

    @classmethod
    def empty(cls, count: int, size: int) -> Episodes:
        """Before the first step."""
        sums, squares = np.zeros((count, size)), np.zeros((count, size))
        return cls(np.zeros(count), np.zeros(count, np.int64), sums, squares, np.zeros(count, np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Episodes]) -> Episodes:
        """One behind the other."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def part(self, rows: slice) -> Episodes:
        """Views of some of them."""
        return Episodes(*(getattr(self, field.name)[rows] for field in fields(self)))

    def evaluation(self, seeds: npt.NDArray[np.int64], normalizer: Normalizer) -> Evaluation:
        """The evaluation of the candidates whose episodes had ``seeds`` ``[m, episodes]``."""
        total, square = self.sums.sum(axis=0), self.squares.sum(axis=0)
        moments = Moments(normalizer.mean.copy(), int(self.seen.sum()), total, square)
        returns, lengths = self.returns.reshape(seeds.shape), self.lengths.reshape(seeds.shape)
        return Evaluation(returns, lengths, np.array(seeds, np.int64), moments)


def round_seeds(seed: int, query: int, candidates: int, episodes: int, common: bool) -> npt.NDArray[np.int64]:
    """Environment seeds ``[candidates, episodes]`` of the ``query``-th query of a search.

    :param common: whether all candidates play the same episodes (common random numbers)
    """
    count = episodes if common else candidates * episodes
    drawn = np.array(derive_seeds(seed, count, generation=query), np.int64)
    return np.broadcast_to(drawn, (candidates, episodes)) if common else drawn.reshape(candidates, episodes)


class _Slots(Protocol):
    """Environments that play one episode each, and are not reset when it ends."""

    def start(self, seeds: list[int]) -> Any: ...

    def step(self, rows: npt.NDArray[np.intp], actions: npt.NDArray[Any]) -> tuple[Any, Any, Any]: ...


class _OwnSlots:
    """Steps an environment of :func:`rlopt.make_env`: only those whose episode continues."""

    def __init__(self, env: Any) -> None:
        self._env = env

    def start(self, seeds: list[int]) -> Any:
        return self._env.start_episodes(seeds)

    def step(self, rows: npt.NDArray[np.intp], actions: npt.NDArray[Any]) -> tuple[Any, Any, Any]:
        observations, rewards, ended = self._env.step_rows(rows, actions)
        return observations, rewards, ended


class _ForeignSlots:
    """Steps any other VecEnv, which resets by itself: all of it, and what follows an end is ignored."""

    def __init__(self, env: VecEnv) -> None:
        self._env = env
        self._actions: npt.NDArray[Any] | None = None

    def start(self, seeds: list[int]) -> Any:
        count = self._env.num_envs
        # The public seed() gives each environment another seed; common random numbers want the same.
        self._env.unwrapped._seeds = [*seeds, *seeds[:1] * (count - len(seeds))]
        self._actions = None
        return self._env.reset()

    def step(self, rows: npt.NDArray[np.intp], actions: npt.NDArray[Any]) -> tuple[Any, Any, Any]:
        if self._actions is None:
            self._actions = np.repeat(actions[:1], self._env.num_envs, axis=0)
        self._actions[rows] = actions
        observations, rewards, dones, _ = self._env.step(self._actions)
        return observations, rewards[rows], dones[rows]


class CandidateEvaluator:
    """Plays the episodes of candidates in a VecEnv, as many side by side as it has environments.

    :param env: seeded and reset in every round; one of :func:`rlopt.make_env` steps only episodes that continue
    :param policy: whose parameters the candidates are
    """

    def __init__(self, env: VecEnv, policy: PolicyVector) -> None:
        self.env, self.policy = env, policy
        self._slots: _Slots = _OwnSlots(env) if hasattr(env, "start_episodes") else _ForeignSlots(env)
        settings = getattr(env, "settings", None)
        self._longest = max(LONGEST_EPISODE, getattr(settings, "max_episode_steps", None) or 0)
        self.stopping: Callable[[], bool] = lambda: False
        """Asked at every step; the episodes are given up where it says True."""

    def evaluate(self, candidates: FloatArray, seeds: npt.NDArray[np.int64], normalizer: Normalizer) -> Evaluation:
        """Plays one episode for each seed of each candidate.

        The result is bit for bit that of the candidates one by one. A candidate whose action or reward is not finite
        has the return NaN; its episode ends there.

        :param candidates: ``[m, d]``, finite
        :param seeds: ``[m, episodes]``
        :param normalizer: of the features of observations; not changed
        :raises rlopt.errors.NonFiniteError: for parameters that are not finite
        :raises rlopt.errors.ConfigError: an episode does not end
        :raises RoundStopped: ``stopping`` said so
        """
        require_finite(candidates)
        m, episodes = seeds.shape
        played = self.play(candidates, np.repeat(np.arange(m), episodes), seeds.reshape(-1), normalizer)
        return played.evaluation(seeds, normalizer)

    def play(
        self, candidates: FloatArray, owners: npt.NDArray[np.intp], seeds: npt.NDArray[np.int64], normalizer: Normalizer
    ) -> Episodes:
        """Plays n episodes, as many side by side as there are environments.

        :param candidates: ``[m, d]``, finite
        :param owners: ``[n]``: whose candidate's an episode is
        :param seeds: ``[n]``
        """
        count, size = len(seeds), normalizer.size or 0
        played = Episodes.empty(count, size)
        for first in range(0, count, self.env.num_envs):
            jobs = slice(first, min(first + self.env.num_envs, count))
            self._play(candidates[owners[jobs]], seeds[jobs].tolist(), normalizer, played.part(jobs))
        return played

    def _play(self, parameters: FloatArray, seeds: list[int], normalizer: Normalizer, batch: Episodes) -> None:
        policy, space = self.policy, self.env.observation_space
        observations = self._slots.start(seeds)
        live, steps = _Live(batch, policy, parameters), 0
        while len(live.rows):
            if self.stopping():
                raise RoundStopped
            everyone = len(live.rows) == self.env.num_envs
            inputs = inputs_of(policy, space, observations if everyone else take(observations, live.rows))
            if normalizer.size is not None:
                live.see(inputs - normalizer.mean)
                inputs = normalizer.apply(inputs)
            actions = policy.act(live.acting, inputs)
            if actions.dtype.kind == "f" and not np.isfinite(actions).all():
                possible = np.isfinite(actions.reshape(len(actions), -1)).all(axis=1)
                live.returns[~possible] = math.nan
                live.keep(possible, steps)
                actions = actions[possible]
                if not len(actions):
                    break
            observations, rewards, ended = self._slots.step(live.rows, actions)
            live.returns += rewards
            steps += 1
            over = ended | ~np.isfinite(live.returns)
            if over.any():
                live.keep(~over, steps)
            elif steps > self._longest:
                raise ConfigError(
                    f"an episode has not ended after {self._longest:,} steps: give the environment a limit, "
                    "max_episode_steps"
                )
        batch.returns[~np.isfinite(batch.returns)] = math.nan


class _Live:
    """Those of the episodes played side by side that continue, without gaps, so that a step need not index them."""

    def __init__(self, batch: Episodes, policy: PolicyVector, parameters: FloatArray) -> None:
        self._batch, self._policy = batch, policy
        self.rows = np.arange(len(parameters))
        self._parameters = parameters
        self.acting = policy.prepare(parameters)
        self.returns, self._seen = batch.returns.copy(), batch.seen.copy()
        self._sums, self._squares = batch.sums.copy(), batch.squares.copy()

    def see(self, deviations: FloatArray) -> None:
        """Counts observations, those of which that are not finite excepted."""
        if np.isfinite(deviations).all():
            self._sums += deviations
            self._squares += deviations**2
            self._seen += 1
            return
        finite = np.isfinite(deviations).all(axis=1)
        self._sums[finite] += deviations[finite]
        self._squares[finite] += deviations[finite] ** 2
        self._seen[finite] += 1

    def keep(self, kept: npt.NDArray[np.bool_], steps: int) -> None:
        """Writes down all but ``kept``, which have ended after ``steps`` steps."""
        over, batch = ~kept, self._batch
        rows = self.rows[over]
        batch.returns[rows], batch.lengths[rows], batch.seen[rows] = self.returns[over], steps, self._seen[over]
        batch.sums[rows], batch.squares[rows] = self._sums[over], self._squares[over]
        self.rows, self._parameters = self.rows[kept], self._parameters[kept]
        self.acting = self._policy.prepare(self._parameters)
        self.returns, self._seen = self.returns[kept], self._seen[kept]
        self._sums, self._squares = self._sums[kept], self._squares[kept]


def require_finite(candidates: FloatArray) -> None:
    """Raises :class:`rlopt.errors.NonFiniteError` unless all parameters are finite."""
    if not np.isfinite(candidates).all():
        bad = int(np.flatnonzero(~np.isfinite(candidates).all(axis=1))[0])
        raise NonFiniteError(f"candidate {bad} has parameters that are NaN or infinite: lower the learning rate")
