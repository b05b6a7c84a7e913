"""Offline data: one :class:`Dataset`, and the formats, names and scores it is read from and written to.

Names are loaded when first used, so that importing this package imports neither torch nor h5py.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {
    "Dataset": "rlopt.data.dataset",
    "Metadata": "rlopt.data.dataset",
    "generate": "rlopt.data.generators",
}

__all__ = ["Dataset", "Metadata", "generate"]

if TYPE_CHECKING:
    from rlopt.data.dataset import Dataset, Metadata
    from rlopt.data.generators import generate


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'rlopt.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
