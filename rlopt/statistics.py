"""Aggregate scores with intervals: interquartile mean and stratified bootstrap. Needs numpy only.

Scores are ``[n]`` (n seeds or episodes of one task) or ``[seeds, tasks]``. The aggregates follow Agarwal et al. 2021,
"Deep Reinforcement Learning at the Edge of the Statistical Precipice", and agree with the authors' ``rliable``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rlopt.errors import ConfigError, NonFiniteError

Statistic = Callable[..., Any]
"""Called as ``statistic(scores, axis=axis)``; ``axis`` names the axes to aggregate away: ``1`` or ``(1, 2)``."""

_CHUNK = 1 << 21
"""Resampled values held in memory at once (16 MB of float64)."""


class Interval(NamedTuple):
    """A confidence interval, in the unit of the scores."""

    low: float
    high: float


def iqm(scores: npt.ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """Interquartile mean: the mean of what is left without the ``floor(n / 4)`` lowest and as many highest values.

    :param scores: any shape, at least one value, all finite
    :param axis: the axes to aggregate together; None for all of them
    :return: a float, or an array of the shape that is left over
    :raises NonFiniteError: if a score is NaN or infinite
    :raises ConfigError: if there are no scores
    """
    values = _together(_checked(scores), axis)
    count = values.shape[-1]
    cut = count // 4
    if cut:
        values = np.partition(values, [cut, count - cut - 1], axis=-1)[..., cut : count - cut]
    return _plain(values.mean(axis=-1))


def mean(scores: npt.ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """The mean over ``axis``; arguments, result and errors as in :func:`iqm`."""
    return _plain(_checked(scores).mean(axis=axis))


def median(scores: npt.ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """The median of ``[n]`` scores; of ``[seeds, tasks]`` the median over tasks of the mean over seeds, as in rliable.

    Arguments, result and errors as in :func:`iqm`; of two axes, the first holds the seeds.
    """
    values = _checked(scores)
    axes = _axes(values, axis)
    if len(axes) == 1:
        return _plain(np.median(values, axis=axes[0]))
    if len(axes) != 2:
        raise ConfigError(f"the median needs scores [n] or [seeds, tasks], not {len(axes)} axes")
    return _plain(np.median(values.mean(axis=axes[0], keepdims=True), axis=axes))


def bootstrap_interval(
    scores: npt.ArrayLike,
    statistic: Statistic = iqm,
    confidence: float = 0.95,
    n_resamples: int = 5000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic; ``[seeds, tasks]`` scores are resampled within each task.

    Few seeds give intervals that are too narrow: with three of them, 95% is nominal.

    :param scores: ``[n]`` or ``[seeds, tasks]``, finite
    :param statistic: :func:`iqm`, :func:`mean`, :func:`median`, or any numpy-like function that takes ``axis``
    :param confidence: between 0 and 1
    :param n_resamples: bootstrap replicates, at least 1
    :param seed: the same seed gives the same interval
    :raises NonFiniteError: if a score is NaN or infinite
    :raises ConfigError: if the scores are empty or of another shape, or an argument is out of range
    """
    values = _checked(scores)
    if values.ndim not in (1, 2):
        raise ConfigError(f"scores must be [n] or [seeds, tasks], not of shape {values.shape}")
    replicates = _replicates(values, statistic, confidence, n_resamples, seed, stratified=True)
    low, high = np.quantile(replicates, _tails(confidence))
    return Interval(float(low), float(high))


def bootstrap_band(
    curves: npt.ArrayLike,
    statistic: Statistic = iqm,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Pointwise bootstrap intervals of a statistic over seeds, for learning curves on a common grid.

    Whole curves are resampled, so that neighbouring points of the band stay consistent.

    :param curves: ``[seeds, points]``, finite
    :return: the band's lower and upper edge, each ``[points]``
    :raises NonFiniteError: if a value is NaN or infinite
    :raises ConfigError: if the curves are empty or of another shape, or an argument is out of range
    """
    values = _checked(curves)
    if values.ndim != 2:
        raise ConfigError(f"curves must be [seeds, points], not of shape {values.shape}")
    replicates = _replicates(values, statistic, confidence, n_resamples, seed, stratified=False)
    low, high = np.quantile(replicates, _tails(confidence), axis=0)
    return low, high


def _replicates(
    values: npt.NDArray[np.float64],
    statistic: Statistic,
    confidence: float,
    n_resamples: int,
    seed: int,
    *,
    stratified: bool,
) -> npt.NDArray[np.float64]:
    """The statistic of each bootstrap replicate: ``[n_resamples]`` if stratified, else ``[n_resamples, points]``."""
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be in (0, 1), not {confidence:g}")
    if n_resamples < 1:
        raise ConfigError(f"n_resamples must be at least 1, not {n_resamples}")
    rng = np.random.default_rng(seed)
    seeds = values.shape[0]
    chunk = max(1, _CHUNK // values.size)
    parts = []
    for start in range(0, n_resamples, chunk):
        count = min(chunk, n_resamples - start)
        if values.ndim == 1:
            sample = values[rng.integers(seeds, size=(count, seeds))]
            axis: int | tuple[int, int] = 1
        elif stratified:
            rows = rng.integers(seeds, size=(count, *values.shape))
            sample = values[rows, np.arange(values.shape[1])]
            axis = (1, 2)
        else:
            sample = values[rng.integers(seeds, size=(count, seeds))]
            axis = 1
        parts.append(np.asarray(statistic(sample, axis=axis), dtype=np.float64))
    return np.concatenate(parts)


def _tails(confidence: float) -> tuple[float, float]:
    return (1 - confidence) / 2, (1 + confidence) / 2


def _checked(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        raise ConfigError("no scores to aggregate")
    if not np.isfinite(values).all():
        raise NonFiniteError("a score is NaN or infinite: leave it out on purpose or repair the run that gave it")
    return values


def _axes(values: npt.NDArray[np.float64], axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(values.ndim))
    return (axis,) if isinstance(axis, int) else axis


def _together(values: npt.NDArray[np.float64], axis: int | tuple[int, ...] | None) -> npt.NDArray[np.float64]:
    """Moves the axes to aggregate to the end and flattens them into one."""
    axes = _axes(values, axis)
    last = tuple(range(-len(axes), 0))
    moved = np.moveaxis(values, axes, last)
    return moved.reshape(*moved.shape[: moved.ndim - len(axes)], -1)


def _plain(value: Any) -> Any:
    return float(value) if np.ndim(value) == 0 else value
