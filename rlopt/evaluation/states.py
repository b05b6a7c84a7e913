"""The states that an evaluation visits: those in which episodes start, or all of a policy's episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlopt.envs.make import make_env
from rlopt.envs.settings import EnvSettings
from rlopt.state.isolate import isolated, seed_everything

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
