"""Transitions of an acting policy, or of a replay buffer, as a data set."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from rlopt.data.dataset import Dataset
from rlopt.data.metadata import Metadata
from rlopt.envs.make import make_env
from rlopt.envs.settings import EnvSettings
from rlopt.errors import DataError
from rlopt.evaluation.envs import normalised_as_trained
from rlopt.state.isolate import isolated, seed_everything


def record(policy: Any, settings: EnvSettings, n: int, metadata: Metadata, *, deterministic: bool = False) -> Dataset:
    """``n`` transitions of ``policy`` in the environments of ``settings``, one environment after the other.

    What an environment was doing at the end is cut there (discount 1). The global random states are left as they were.

    :param policy: anything with Stable-Baselines3's ``predict``
    :param settings: its ``seed`` also seeds the policy's sampling; observations are arrays or dictionaries of them
    :param deterministic: the most likely actions instead of sampled ones
    """
    env = make_env(**settings.as_dict())
    steps = -(-n // env.num_envs)
    columns: dict[str, list[Any]] = {
        name: [] for name in ("observations", "actions", "rewards", "next_observations", "discounts", "episode_ends")
    }
    try:
        with isolated(policy), normalised_as_trained(policy, env):
            seed_everything(settings.seed)
            observations: Any = env.reset()
            starts = np.ones(env.num_envs, bool)
            for _ in range(steps):
                actions, _ = policy.predict(observations, episode_start=starts, deterministic=deterministic)
                following, rewards, starts, infos = env.step(actions)
                successors = _copy(following)
                discounts = np.ones(env.num_envs, np.float32)
                for index in np.flatnonzero(starts).tolist():
                    _put(successors, index, infos[index]["terminal_observation"])
                    discounts[index] = float(infos[index].get("TimeLimit.truncated", False))
                values = (observations, actions, rewards, successors, discounts, starts)
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(_copy(value))
                observations = following
    finally:
        env.close()
    arrays = {name: _stacked(column) for name, column in columns.items()}
    return _environment_by_environment(arrays, n, metadata)


def _copy(value: Any) -> Any:
    return {key: np.array(part) for key, part in value.items()} if isinstance(value, Mapping) else np.array(value)


def _put(rows: Any, index: int, value: Any) -> None:
    if isinstance(rows, Mapping):
        for key, part in rows.items():
            part[index] = value[key]
    else:
        rows[index] = value


def _stacked(parts: list[Any]) -> Any:
    if isinstance(parts[0], Mapping):
        return {key: np.stack([part[key] for part in parts]) for key in parts[0]}
    return np.stack(parts)


def from_replay(state: Mapping[str, Any], action_space: spaces.Space, metadata: Metadata) -> Dataset:
    """All transitions of a checkpoint's replay buffer, oldest first, one environment after the other.

    :param state: the tree ``replay`` of a checkpoint
    :param action_space: action space of the environment; the buffer holds actions scaled to [-1, 1]
    :raises rlopt.errors.DataError: a buffer without next observations, of Dict observations or of frames
    """
    rows = state["rows"]
    if not all(isinstance(rows.get(name), np.ndarray) for name in ("observations", "next_observations")):
        raise DataError("the run's replay buffer does not hold arrays of observations and next observations")
    first = int(state["pos"]) if state["full"] else 0
    arrays = {name: np.roll(rows[name], -first, axis=0) for name in rows if isinstance(rows[name], np.ndarray)}
    ends = arrays["dones"] > 0
    timeouts = arrays["timeouts"] > 0
    actions = arrays["actions"]
    if isinstance(action_space, spaces.Box):
        low, high = action_space.low.reshape(-1), action_space.high.reshape(-1)
        actions = np.clip(low + (actions.astype(np.float64) + 1) / 2 * (high - low), low, high)
    columns = {
        "observations": arrays["observations"],
        "actions": actions,
        "rewards": arrays["rewards"],
        "next_observations": arrays["next_observations"],
        "discounts": 1.0 - (ends & ~timeouts),
        "episode_ends": ends,
    }
    return _environment_by_environment(columns, ends.size, metadata)


def some_episodes(dataset: Dataset, n: int, seed: int) -> Dataset:
    """``n`` transitions: episodes chosen at random, in their order, the last one cut.

    :raises rlopt.errors.DataError: there are fewer
    """
    if n > len(dataset):
        raise DataError(f"{n} transitions were asked for and there are {len(dataset)}: give --n {len(dataset)} or less")
    stops = np.flatnonzero(dataset.episode_ends) + 1
    lengths = np.diff(stops, prepend=0)
    order = np.random.default_rng(seed).permutation(len(lengths))
    count = int(np.searchsorted(np.cumsum(lengths[order]), n)) + 1
    chosen = np.zeros(len(lengths), bool)
    chosen[order[:count]] = True
    return dataset.take(np.flatnonzero(np.repeat(chosen, lengths))[:n])


def _environment_by_environment(columns: Mapping[str, np.ndarray], n: int, metadata: Metadata) -> Dataset:
    """From (steps, n_envs, ...) to (n, ...): each environment's steps together, the last of each ending its episode."""
    columns = dict(columns)
    columns["episode_ends"] = columns["episode_ends"].astype(bool)
    columns["episode_ends"][-1] = True
    discrete = columns["actions"].dtype.kind in "iu"
    dtypes = {"actions": np.int64 if discrete else np.float32, "episode_ends": np.bool_}

    def joined(name: str, column: Any) -> Any:
        if isinstance(column, Mapping):
            return {key: joined(name, part) for key, part in column.items()}
        flat = column.swapaxes(0, 1).reshape(-1, *column.shape[2:])
        return np.ascontiguousarray(flat, dtypes.get(name, np.float32))

    made = {name: joined(name, column) for name, column in columns.items()}
    if discrete:
        made["actions"] = made["actions"].reshape(-1)
    whole = Dataset(**made, metadata=metadata)
    return whole if n == len(whole) else whole.take(slice(0, n))
