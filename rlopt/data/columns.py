"""Columns of a data set as a learner takes them: scaled actions, and a fingerprint of the values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from gymnasium import spaces

from rlopt.data.dataset import Dataset

if TYPE_CHECKING:
    pass


def scaled_actions(actions: np.ndarray, space: spaces.Space) -> np.ndarray:
    """Actions of a Box in [-1, 1], (N, A) float32; those of a Discrete space as they are."""
    if not isinstance(space, spaces.Box):
        return actions
    flat_low, flat_high = space.low.reshape(-1), space.high.reshape(-1)
    scaled = 2.0 * (actions - flat_low) / (flat_high - flat_low) - 1.0
    return np.clip(scaled, -1.0, 1.0).astype(np.float32)


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
