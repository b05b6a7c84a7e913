"""Segments of recorded transitions, as augmentations take and give them."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Batch:
    """R transitions that make up S segments, each a run of consecutive transitions of one episode.

    Single transitions are segments of one row (S = R). Values of a segment (a parameter, its validity) have S entries;
    values of a transition have R.
    """

    observations: np.ndarray
    """[R, d] float32, flat."""
    actions: np.ndarray
    """[R, a] float32."""
    rewards: np.ndarray
    """[R] float32."""
    next_observations: np.ndarray
    """[R, d] float32: the true successors."""
    discounts: np.ndarray
    """[R] float32: 0 at a true terminal, 1 elsewhere."""
    starts: np.ndarray | None = None
    """[S] int: first row of each segment, ascending from 0; None where each row is a segment."""

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def n_segments(self) -> int:
        """How many segments the rows make."""
        return len(self) if self.starts is None else len(self.starts)

    def first(self) -> np.ndarray | slice:
        """Indexes the first row of each segment."""
        return slice(None) if self.starts is None else self.starts

    def last(self) -> np.ndarray | slice:
        """Indexes the last row of each segment."""
        return slice(None) if self.starts is None else np.append(self.starts[1:], len(self)) - 1

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Repeats the value of each segment, [S, ...], for its rows: [R, ...]."""
        if self.starts is None:
            return values
        return np.repeat(values, np.diff(np.append(self.starts, len(self))), axis=0)

    def all_rows(self, rows: np.ndarray) -> np.ndarray:
        """Which segments have all their rows marked. ``rows``: [R] bool; returns [S] bool."""
        return rows if self.starts is None else np.logical_and.reduceat(rows, self.starts)
