"""Columns of a data set as a learner takes them: scaled actions, and a fingerprint of the values."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces

from rlopt.data.dataset import Dataset

D = TypeVar("D", bound=Dataset)


def scaled_actions(actions: np.ndarray, space: spaces.Space) -> np.ndarray:
    """Actions of a Box in [-1, 1], (N, A) float32; those of a Discrete space as they are."""
    if not isinstance(space, spaces.Box):
        return actions
    flat_low, flat_high = space.low.reshape(-1), space.high.reshape(-1)
    scaled = 2.0 * (actions - flat_low) / (flat_high - flat_low) - 1.0
    return np.clip(scaled, -1.0, 1.0).astype(np.float32)


def with_images_of(dataset: D, space: spaces.Space) -> D:
    """``dataset`` with its images (H, W, C) channels first where ``space`` has them so, as Stable-Baselines3 learns."""

    def fitted(column: np.ndarray, part: spaces.Space | None) -> np.ndarray:
        shape = () if part is None else part.shape
        if column.dtype != np.uint8 or column.ndim != 4 or column.shape[1:] == shape:
            return column
        moved = np.moveaxis(column, -1, 1)
        return np.ascontiguousarray(moved) if moved.shape[1:] == shape else column

    def observations(column: Any) -> Any:
        if isinstance(column, Mapping):
            parts = space.spaces if isinstance(space, spaces.Dict) else {}
            return {key: fitted(part, parts.get(key)) for key, part in column.items()}
        return fitted(column, space)

    sides = {name: observations(getattr(dataset, name)) for name in ("observations", "next_observations")}
    return dataclasses.replace(dataset, **sides)


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of every column that learning reads."""
    digest = hashlib.sha256()
    columns = dataset.columns()
    for name in sorted(set(columns) - {"extras"}):
        column = columns[name]
        parts = column if isinstance(column, Mapping) else {"": column}
        for key in sorted(parts):
            digest.update(f"{name}/{key}/{parts[key].dtype}{parts[key].shape}".encode())
            digest.update(np.ascontiguousarray(parts[key]).view(np.uint8).data)
    return digest.hexdigest()
