"""Whole episodes chosen from a data set by what they are."""

import dataclasses

import numpy as np

from rlopt.data.dataset import Dataset
from rlopt.data.metadata import DemonstrationMetadata
from rlopt.errors import DataError


def filter_episodes(
    data: Dataset,
    *,
    min_return: float | None = None,
    max_return: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    best: float | None = None,
    episodes: int | None = None,
    seed: int | None = None,
) -> Dataset:
    """The episodes that meet all conditions, in their order; a note says what was left out.

    Augmented pieces of episodes count with the return of the recorded episode that they come from.

    :param best: share in (0, 1] of the episodes that meet the others, those with the highest returns
    :param episodes: as many of those at most: the first, or with ``seed`` drawn without replacement
    :raises rlopt.errors.DataError: no episode is left, or a share out of range
    """
    source = data.extras.get("source_return")
    returns = data.episode_returns() if source is None else source[data.episode_ends]
    lengths = np.diff(np.flatnonzero(data.episode_ends) + 1, prepend=0)
    chosen = np.ones(len(returns), bool)
    for values, low, high in ((returns, min_return, max_return), (lengths, min_length, max_length)):
        chosen &= (values >= (-np.inf if low is None else low)) & (values <= (np.inf if high is None else high))
    kept = np.flatnonzero(chosen)
    if best is not None:
        kept = np.sort(best_of(returns[kept], best, kept))
    if episodes is not None and episodes < len(kept):
        drawn = np.arange(episodes) if seed is None else np.random.default_rng(seed).permutation(len(kept))[:episodes]
        kept = np.sort(kept[drawn])
    if len(kept) == 0:
        raise DataError(
            f"no episode is left: returns are {returns.min():g} to {returns.max():g}, lengths {lengths.min()} to "
            f"{lengths.max()}; ask for less"
        )
    if len(kept) == len(returns):
        return data
    chosen[:] = False
    chosen[kept] = True
    part = data.take(np.repeat(chosen, lengths))
    metadata = part.metadata.noted(f"{len(kept)} of {len(returns)} episodes chosen, {len(part)} of {len(data)} rows")
    if isinstance(metadata, DemonstrationMetadata) and metadata.expert_return is not None:
        metadata = dataclasses.replace(metadata, expert_return=float(returns[kept].mean()))
    return dataclasses.replace(part, metadata=metadata)


def best_of(returns: np.ndarray, fraction: float, numbers: np.ndarray) -> np.ndarray:
    """Those of ``numbers`` with the highest returns, a share ``fraction`` in (0, 1] of them, rounded, at least one."""
    if not 0 < fraction <= 1:
        raise DataError(f"a share of {fraction:g} of the episodes: give one above 0 and at most 1")
    return numbers[np.argsort(-returns, kind="stable")[: max(round(fraction * len(returns)), 1)]]
