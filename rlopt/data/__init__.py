"""Offline data: one :class:`Dataset`, and the formats, names and scores it is read from and written to.

Names are loaded when first used, so that importing this package imports neither torch nor h5py.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {
    "D4RLOptions": "rlopt.data.formats.d4rl_conversion",
    "Dataset": "rlopt.data.dataset",
    "DemonstrationMetadata": "rlopt.data.metadata",
    "Demonstrations": "rlopt.data.demonstrations",
    "Metadata": "rlopt.data.metadata",
    "check_spaces": "rlopt.data.checks",
    "generate": "rlopt.collect.generators",
    "load_dataset": "rlopt.data.loading",
    "load_demonstrations": "rlopt.data.demonstration_loading",
    "normalized_score": "rlopt.data.scores",
    "read_d4rl": "rlopt.data.formats.d4rl",
    "read_minari": "rlopt.data.formats.minari",
    "record_demonstrations": "rlopt.collect.demonstration_recording",
    "score": "rlopt.data.scores",
    "to_pointmaze": "rlopt.data.formats.maze2d",
    "write_d4rl": "rlopt.data.formats.d4rl",
    "write_minari": "rlopt.data.formats.minari",
}

__all__ = [
    "D4RLOptions",
    "Dataset",
    "DemonstrationMetadata",
    "Demonstrations",
    "Metadata",
    "check_spaces",
    "generate",
    "load_dataset",
    "load_demonstrations",
    "normalized_score",
    "read_d4rl",
    "read_minari",
    "record_demonstrations",
    "score",
    "to_pointmaze",
    "write_d4rl",
    "write_minari",
]

if TYPE_CHECKING:
    from rlopt.collect.demonstration_recording import record_demonstrations
    from rlopt.collect.generators import generate
    from rlopt.data.checks import check_spaces
    from rlopt.data.dataset import Dataset
    from rlopt.data.demonstration_loading import load_demonstrations
    from rlopt.data.demonstrations import Demonstrations
    from rlopt.data.formats.d4rl import read_d4rl, write_d4rl
    from rlopt.data.formats.d4rl_conversion import D4RLOptions
    from rlopt.data.formats.maze2d import to_pointmaze
    from rlopt.data.formats.minari import read_minari, write_minari
    from rlopt.data.loading import load_dataset
    from rlopt.data.metadata import DemonstrationMetadata, Metadata
    from rlopt.data.scores import normalized_score, score


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'rlopt.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
