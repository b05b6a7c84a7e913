"""Arrays that grow by rows, with the cost of one copy over a whole run."""

from typing import Any

import numpy as np


class GrowingArray:
    """Rows of one shape and dtype.

    :param row_shape: of one row
    :param dtype: dtype of all
    """

    def __init__(self, row_shape: tuple[int, ...], dtype: Any) -> None:
        self._rows = np.zeros((64, *row_shape), dtype)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, row: Any) -> int:
        """Adds a row; returns its index."""
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._rows[self._count] = row
        self._count += 1
        return self._count - 1

    def part(self, row: int, part: int) -> np.ndarray:
        """A view of entry ``part`` of a row."""
        view: np.ndarray = self._rows[row, part]
        return view

    @property
    def rows(self) -> np.ndarray:
        """[n, ...], a view of the rows so far: not to be kept over an append."""
        return self._rows[: self._count]

    def replace(self, rows: np.ndarray) -> None:
        """Takes ``rows`` [n, ...] in place of all; ValueError if they are of another shape or dtype."""
        if rows.shape[1:] != self._rows.shape[1:] or rows.dtype != self._rows.dtype:
            raise ValueError(f"rows {rows.shape} of {rows.dtype} do not fit {self._rows.shape[1:]} {self._rows.dtype}")
        self._rows = np.concatenate([rows, np.zeros((max(64, len(rows)), *rows.shape[1:]), rows.dtype)])
        self._count = len(rows)
