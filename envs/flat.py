"""Observations as vectors."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rlopt.errors import SpaceError


def flatten(parts: Mapping[str, np.ndarray], keys: Sequence[str]) -> np.ndarray:
    """Concatenates the entries ``keys`` of an observation, or of a batch of them, along the last axis."""
    return np.concatenate([parts[key] for key in keys], axis=-1)


class FlatObservation(gymnasium.ObservationWrapper[np.ndarray, Any, Any]):
    """Observes the entries ``keys`` of a dictionary of vectors, one behind the other.

    :raises SpaceError: an observation that is not a dictionary, or an entry that is missing or no vector
    """

    def __init__(self, env: gymnasium.Env[Any, Any], keys: Sequence[str]) -> None:
        super().__init__(env)
        space = env.observation_space
        entries = dict(space.spaces) if isinstance(space, spaces.Dict) else {}
        boxes = [entries.get(key) for key in keys]
        if not boxes or any(not isinstance(box, spaces.Box) or len(box.shape) != 1 for box in boxes):
            raise SpaceError(f"cannot flatten the entries {list(keys)} of {space}: each must be a vector in it")
        self.keys = tuple(keys)
        low, high = (np.concatenate([getattr(box, side) for box in boxes]) for side in ("low", "high"))
        self.observation_space = spaces.Box(low, high, dtype=low.dtype.type)

    def observation(self, observation: Any) -> np.ndarray:
        return flatten(observation, self.keys)


def flat_size(space: spaces.Space[Any]) -> int:
    """Numbers in one observation as :func:`flat_rows` gives it."""
    return sum(spaces.flatdim(part) for _, part in _parts(space))


def flat_rows(observations: Any, space: spaces.Space[Any]) -> np.ndarray:
    """(N, O) float32 from observations (N, ...) or a dict of those, in the order of the space; Discrete as one-hot."""
    columns = []
    for key, part in _parts(space):
        values = np.asarray(observations[key] if isinstance(space, spaces.Dict) else observations)
        if isinstance(part, spaces.Discrete):
            columns.append(np.eye(int(part.n), dtype=np.float32)[values.reshape(-1) - int(part.start)])
        elif isinstance(part, spaces.MultiDiscrete):
            columns += [
                np.eye(int(n), dtype=np.float32)[column]
                for n, column in zip(part.nvec, (values - part.start).T, strict=True)
            ]
        else:
            columns.append(values.reshape(len(values), -1).astype(np.float32))
    return np.concatenate(columns, axis=1)


def _parts(space: spaces.Space[Any]) -> list[tuple[str, spaces.Space[Any]]]:
    return list(space.spaces.items()) if isinstance(space, spaces.Dict) else [("", space)]
