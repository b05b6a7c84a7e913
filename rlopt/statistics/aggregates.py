"""Aggregate scores, comparisons and profiles, with stratified bootstrap intervals. Needs numpy only.

Scores are ``[n]`` (n seeds or episodes of one task), ``[seeds, tasks]``, or a mapping from each task to its ``[n]``
scores, whose number may differ. The aggregates follow Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of
the Statistical Precipice", and agree with the authors' ``rliable``.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rlopt.errors import ConfigError, NonFiniteError

Statistic = Callable[..., Any]
"""Called as ``statistic(scores, axis=axis)``; ``axis`` names the axes to aggregate away: ``1`` or ``(1, 2)``."""

Scores = npt.ArrayLike | Mapping[str, npt.ArrayLike]
Floats = npt.NDArray[np.float64]

_CHUNK = 1 << 17
"""Resampled values held in memory at once: 1 MB of float64, which stays in the cache."""


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
        values = np.sort(values, axis=-1)[..., cut : count - cut]  # many times faster than partitioning short rows
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


def optimality_gap(scores: npt.ArrayLike, axis: int | tuple[int, ...] | None = None, *, target: float = 1.0) -> Any:
    """How far scores fall short of ``target`` on average, those above it counted as ``target``; lower is better.

    :param target: in the unit of the scores; 1 for scores that are 1 at the expert's level
    :return: arguments, result and errors otherwise as in :func:`iqm`
    """
    return _plain(target - np.minimum(_checked(scores), target).mean(axis=axis))


def stacked(scores: Mapping[str, npt.ArrayLike]) -> Floats:
    """The scores of several tasks as one array in which every task weighs the same.

    Where the numbers of seeds differ, the scores of a task are repeated until all tasks have the least common multiple
    of them. Equal numbers are left alone, so that an aggregate of the result is that of ``[seeds, tasks]``.

    :param scores: each task's ``[seeds]`` scores, or ``[seeds, points]`` curves on a common grid
    :return: ``[seeds, tasks]`` or ``[seeds, tasks, points]``
    :raises ConfigError: if there are no scores, their shapes do not fit, or the common multiple is beyond 100,000
    :raises NonFiniteError: if a score is NaN or infinite
    """
    strata = _strata(scores)
    rows = _common_rows([len(values) for values in strata])
    return np.stack([np.repeat(values, rows // len(values), axis=0) for values in strata], axis=1)


def bootstrap_interval(
    scores: Scores, statistic: Statistic = iqm, confidence: float = 0.95, n_resamples: int = 5000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of a statistic; scores of several tasks are resampled within each task.

    Few seeds give intervals that are too narrow: with three of them, 95% is nominal.

    :param scores: ``[n]``, ``[seeds, tasks]``, or a mapping from tasks to ``[n]``, finite
    :param statistic: :func:`iqm`, :func:`mean`, :func:`median`, or any numpy-like function that takes ``axis``
    :param confidence: between 0 and 1
    :param n_resamples: bootstrap replicates, at least 1
    :param seed: the same seed gives the same interval
    :raises NonFiniteError: if a score is NaN or infinite
    :raises ConfigError: if the scores are empty or of another shape, or an argument is out of range
    """
    check_confidence(confidence)
    replicates = bootstrap_replicates(scores, statistic, n_resamples, seed)
    low, high = np.quantile(replicates, _tails(confidence))
    return Interval(float(low), float(high))


def bootstrap_replicates(
    scores: Scores, statistic: Statistic = iqm, n_resamples: int = 5000, seed: int = 0, n_draws: int | None = None
) -> Floats:
    """The statistic of bootstrap replicates, ``[n_resamples]``; arguments and errors as in :func:`bootstrap_interval`.

    :param n_draws: seeds drawn for each task, to see how the statistic would scatter with another number of them;
        default as many as there are
    """
    values = _strata(scores) if isinstance(scores, Mapping) else _checked(scores)
    n_axes = 1 + values[0].ndim if isinstance(values, list) else values.ndim
    if n_axes not in (1, 2):
        shape = values[0].shape if isinstance(values, list) else values.shape
        raise ConfigError(f"scores must be [n] or [seeds, tasks], or for each task [n], not of shape {shape}")
    return _replicates(values, statistic, n_resamples, seed, n_draws, n_axes)


def bootstrap_band(
    curves: Scores, statistic: Statistic = iqm, confidence: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> tuple[Floats, Floats]:
    """Pointwise bootstrap intervals of a statistic over seeds and tasks, for learning curves on a common grid.

    Whole curves are resampled, within each task, so that neighbouring points of the band stay consistent.

    :param curves: ``[seeds, points]``, ``[seeds, tasks, points]``, or a mapping from tasks to ``[seeds, points]``
    :return: the band's lower and upper edge, each ``[points]``
    :raises NonFiniteError: if a value is NaN or infinite
    :raises ConfigError: if the curves are empty or of another shape, or an argument is out of range
    """
    check_confidence(confidence)
    values = _strata(curves) if isinstance(curves, Mapping) else _checked(curves)
    n_axes = values[0].ndim if isinstance(values, list) else values.ndim - 1
    if n_axes not in (1, 2) or (isinstance(values, list) and n_axes == 1):
        shape = values[0].shape if isinstance(values, list) else values.shape
        raise ConfigError(f"curves must be [seeds, (tasks,) points], or for each task [seeds, points], not {shape}")
    replicates = _replicates(values, statistic, n_resamples, seed, None, n_axes)
    low, high = np.quantile(replicates, _tails(confidence), axis=0)
    return low, high


def probability_of_improvement(scores: Scores, reference: Scores) -> float:
    """How probable it is that a run scores higher than one of the reference on the same task, averaged over tasks.

    The Mann-Whitney statistic over pairs of runs; a tie counts one half. The numbers of seeds may differ.

    :param scores: ``[n]``, ``[seeds, tasks]``, or a mapping from tasks to ``[n]``
    :param reference: the same kind, of the same tasks
    :return: in [0, 1]; 0.5 says that neither is better
    :raises NonFiniteError: if a score is NaN or infinite
    :raises ConfigError: if there are no scores or their tasks differ
    """
    return float(np.mean([wins.mean() for wins in _wins(scores, reference)]))


def improvement_interval(
    scores: Scores, reference: Scores, confidence: float = 0.95, n_resamples: int = 5000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of :func:`probability_of_improvement`; both sides are resampled, within each task.

    Arguments and errors as there and in :func:`bootstrap_interval`.
    """
    check_confidence(confidence)
    _check_resamples(n_resamples)
    rng = np.random.default_rng(seed)
    wins = _wins(scores, reference)
    replicates = np.zeros(n_resamples)
    for matrix in wins:
        ours, theirs = (_weights(rng, count, n_resamples) for count in matrix.shape)
        replicates += ((ours @ matrix) * theirs).sum(axis=1)
    low, high = np.quantile(replicates / len(wins), _tails(confidence))
    return Interval(float(low), float(high))


def performance_profile(scores: Scores, thresholds: npt.ArrayLike) -> Floats:
    """The share of runs that score above each threshold, every task with the same weight.

    :param scores: ``[n]``, ``[seeds, tasks]``, or a mapping from tasks to ``[n]``
    :param thresholds: ``[points]``, in the unit of the scores
    :return: ``[points]``, in [0, 1]
    :raises NonFiniteError: if a score or a threshold is NaN or infinite
    :raises ConfigError: if there are no scores or thresholds
    """
    taus = _checked(thresholds)
    return np.mean([(values[:, None] > taus).mean(axis=0) for values in by_task(scores)], axis=0)


def profile_band(
    scores: Scores, thresholds: npt.ArrayLike, confidence: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> tuple[Floats, Floats]:
    """Pointwise bootstrap intervals of :func:`performance_profile`, resampled within each task.

    :return: the band's lower and upper edge, each ``[points]``; arguments and errors otherwise as there
    """
    check_confidence(confidence)
    _check_resamples(n_resamples)
    taus = _checked(thresholds)
    rng = np.random.default_rng(seed)
    strata = by_task(scores)
    replicates = np.zeros((n_resamples, len(taus)))
    for values in strata:
        replicates += _weights(rng, len(values), n_resamples) @ (values[:, None] > taus)
    low, high = np.quantile(replicates / len(strata), _tails(confidence), axis=0)
    return low, high


def _weights(rng: np.random.Generator, count: int, n_resamples: int) -> Floats:
    """``[n_resamples, count]``: the share of each of ``count`` scores in replicates of as many draws."""
    drawn = rng.integers(count, size=(n_resamples, count)) + count * np.arange(n_resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=n_resamples * count).reshape(n_resamples, count) / count


def _wins(scores: Scores, reference: Scores) -> list[Floats]:
    """For each task ``[n, m]``: 1 where a run is better than one of the reference, one half where equal."""
    if isinstance(scores, Mapping) and isinstance(reference, Mapping):
        if scores.keys() != reference.keys():
            only = sorted(scores.keys() ^ reference.keys())[0]
            raise ConfigError(f"task {only!r} has scores on one side only: compare the same tasks")
        reference = {task: reference[task] for task in scores}
    ours, theirs = by_task(scores), by_task(reference)
    if len(ours) != len(theirs):
        raise ConfigError(f"{len(ours)} tasks cannot be compared with {len(theirs)}: give scores of the same tasks")
    return [(x[:, None] > y) + 0.5 * (x[:, None] == y) for x, y in zip(ours, theirs, strict=True)]


def by_task(scores: Scores) -> list[Floats]:
    """The ``[n]`` scores of each task, checked; errors as in :func:`bootstrap_interval`."""
    if isinstance(scores, Mapping):
        found = _strata(scores)
    else:
        values = _checked(scores)
        found = [values] if values.ndim == 1 else list(values.T) if values.ndim == 2 else []
    if not found or found[0].ndim != 1:
        raise ConfigError("scores must be [n] or [seeds, tasks], or for each task [n]")
    return found


def _strata(scores: Mapping[str, npt.ArrayLike]) -> list[Floats]:
    """The checked scores of each task, ``[seeds]`` or ``[seeds, points]``."""
    found = [_checked(values) for values in scores.values()]
    if not found:
        raise ConfigError("no scores to aggregate")
    if {values.ndim for values in found} not in ({1}, {2}) or len({values.shape[1:] for values in found}) > 1:
        shapes = ", ".join(f"{task} {values.shape}" for task, values in zip(scores, found, strict=True))
        raise ConfigError(f"the scores of a task must be [seeds] or [seeds, points] on a common grid, not {shapes}")
    return found


def _common_rows(counts: list[int]) -> int:
    rows = math.lcm(*counts)
    if rows > 100_000:
        raise ConfigError(f"numbers of seeds {sorted(set(counts))} have no small common multiple: leave out a few runs")
    return rows


def _replicates(
    values: Floats | list[Floats], statistic: Statistic, n_resamples: int, seed: int, n_draws: int | None, n_axes: int
) -> Floats:
    """The statistic of each bootstrap replicate, ``[n_resamples]`` or ``[n_resamples, points]``.

    :param values: ``[seeds]``, ``[seeds, tasks]`` or a list of each task's ``[seeds]``; any with a last axis of points
    :param n_axes: how many axes of seeds and tasks there are to aggregate
    """
    _check_resamples(n_resamples)
    if n_draws is not None and n_draws < 1:
        raise ConfigError(f"n_draws must be at least 1, not {n_draws}")
    draw, rows = _sampler(values, n_draws, n_axes)
    size = rows * (sum(task[0].size for task in values) if isinstance(values, list) else values[0].size)
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // size)
    axis: int | tuple[int, int] = 1 if n_axes == 1 else (1, 2)
    parts = [
        np.asarray(statistic(draw(rng, min(chunk, n_resamples - start)), axis=axis), dtype=np.float64)
        for start in range(0, n_resamples, chunk)
    ]
    return np.concatenate(parts)


def _sampler(
    values: Floats | list[Floats], n_draws: int | None, n_axes: int
) -> tuple[Callable[[np.random.Generator, int], Floats], int]:
    """What draws ``count`` replicates, ``[count, rows, ...]`` like the values, and their number of rows."""
    if not isinstance(values, list):
        rows = n_draws or len(values)
        shape = (rows,) if n_axes == 1 else (rows, values.shape[1])
        tasks = () if n_axes == 1 else (np.arange(values.shape[1]),)
        return (lambda rng, count: values[(rng.integers(len(values), size=(count, *shape)), *tasks)]), rows
    draws = [n_draws or len(task) for task in values]
    rows = _common_rows(draws)

    def draw(rng: np.random.Generator, count: int) -> Floats:
        samples = [task[rng.integers(len(task), size=(count, k))] for task, k in zip(values, draws, strict=True)]
        return np.stack([np.repeat(part, rows // part.shape[1], axis=1) for part in samples], axis=2)

    return draw, rows


def check_confidence(confidence: float) -> None:
    """Raises :class:`rlopt.errors.ConfigError` for what is not a confidence."""
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be in (0, 1), not {confidence:g}")


def _check_resamples(n_resamples: int) -> None:
    if n_resamples < 1:
        raise ConfigError(f"n_resamples must be at least 1, not {n_resamples}")


def _tails(confidence: float) -> tuple[float, float]:
    return (1 - confidence) / 2, (1 + confidence) / 2


def _checked(scores: npt.ArrayLike) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        raise ConfigError("no scores to aggregate")
    if not np.isfinite(values).all():
        raise NonFiniteError("a score is NaN or infinite: leave it out on purpose or repair the run that gave it")
    return values


def _axes(values: Floats, axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(values.ndim))
    return (axis,) if isinstance(axis, int) else axis


def _together(values: Floats, axis: int | tuple[int, ...] | None) -> Floats:
    """Moves the axes to aggregate to the end and flattens them into one."""
    axes = _axes(values, axis)
    last = tuple(range(-len(axes), 0))
    moved = np.moveaxis(values, axes, last)
    return moved.reshape(*moved.shape[: moved.ndim - len(axes)], -1)


def _plain(value: Any) -> Any:
    return float(value) if np.ndim(value) == 0 else value
