"""The running means and variances of Gymnasium's normalising wrappers."""

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np

_PARTS = ("mean", "var", "count")


def statistics_of(layers: Iterable[Any]) -> list[Any]:
    """The running mean and variance of each layer that normalises, from the outside in."""
    return [
        {"name": name, **{part: _number(getattr(vars(layer)[name], part)) for part in _PARTS}}
        for layer, name in _normalizers(layers)
    ]


def set_statistics(layers: Iterable[Any], statistics: Sequence[Any], counting: bool) -> bool:
    """Gives layers that normalise the ``statistics`` of :func:`statistics_of`; ``counting`` switches their updates.

    Returns False, with nothing changed, if the layers are not those that the statistics are of.
    """
    own = _normalizers(layers)
    if len(own) != len(statistics) or not all(
        isinstance(entry, dict)
        and entry.get("name") == name
        and all(
            part in entry and np.shape(entry[part]) == np.shape(getattr(getattr(layer, name), part)) for part in _PARTS
        )
        and all(np.asarray(entry[part]).dtype.kind == "f" for part in _PARTS)
        for (layer, name), entry in zip(own, statistics, strict=True)
    ):
        return False
    for (layer, name), entry in zip(own, statistics, strict=True):
        for part in _PARTS:
            setattr(getattr(layer, name), part, _number(entry[part]))
        layer.update_running_mean = counting
    return True


def _normalizers(layers: Iterable[Any]) -> list[tuple[Any, str]]:
    return [
        (layer, name)
        for layer in layers
        for name in ("obs_rms", "return_rms")
        if isinstance(vars(layer).get(name), gymnasium.wrappers.utils.RunningMeanStd)
        and hasattr(layer, "update_running_mean")
    ]


def _number(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
