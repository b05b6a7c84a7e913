"""The running means and variances of Gymnasium's normalising wrappers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np


def statistics_of(layers: Iterable[Any]) -> list[Any]:
    """The running mean and variance of each layer that normalises, from the outside in."""
    return [
        {"name": name, **{part: _number(getattr(vars(layer)[name], part)) for part in ("mean", "var", "count")}}
        for layer, name in _normalizers(layers)
    ]


def set_statistics(layers: Iterable[Any], statistics: Sequence[Any], counting: bool) -> bool:
    """Gives layers that normalise the ``statistics`` of :func:`statistics_of`; ``counting`` switches their updates.

    Returns False, with nothing changed, if the layers are not those that the statistics are of.
    """
    own = _normalizers(layers)
    shapes = [(name, np.shape(getattr(layer, name).mean)) for layer, name in own]
    if shapes != [(entry["name"], np.shape(entry["mean"])) for entry in statistics]:
        return False
    for (layer, name), entry in zip(own, statistics, strict=True):
        for part in ("mean", "var", "count"):
            setattr(getattr(layer, name), part, _number(entry[part]))
        layer.update_running_mean = counting
    return True


def _normalizers(layers: Iterable[Any]) -> list[tuple[Any, str]]:
    return [
        (layer, name)
        for layer in layers
        for name in ("obs_rms", "return_rms")
        if isinstance(vars(layer).get(name), gymnasium.wrappers.utils.RunningMeanStd)
    ]


def _number(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
