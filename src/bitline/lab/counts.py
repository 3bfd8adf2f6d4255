"""How often each code was read."""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer

DENSE = 1 << 24  # (column, sum, code) up to which counts are kept in one table while they are added up


class Counts:
    """How often each code was read for each ideal sum on each physical column; grows as reads come."""

    def __init__(self, rows: Integer[np.ndarray, "n 3"] | None = None, counts: np.ndarray | None = None) -> None:
        self.rows = np.zeros((0, 3), dtype=np.int64) if rows is None else rows.astype(np.int64)
        self.counts = np.zeros(len(self.rows), dtype=np.int64) if counts is None else counts.astype(np.int64)
        self._late: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, column: np.ndarray, ideal: np.ndarray, code: np.ndarray) -> None:
        """Count reads, one an entry."""
        rows = np.stack([column.reshape(-1), ideal.reshape(-1), code.reshape(-1)], axis=1).astype(np.int64)
        self._late.append(counted(rows, np.ones(len(rows), dtype=np.int64)))
        if len(self._late) > 64:
            self.settle()

    def merge(self, other: Counts) -> None:
        """Add the counts of another."""
        other.settle()
        self._late.append((other.rows, other.counts))
        if len(self._late) > 64:
            self.settle()

    def settle(self) -> Counts:
        """Put together what was added."""
        if self._late:
            rows = np.concatenate([self.rows, *(rows for rows, _ in self._late)])
            counts = np.concatenate([self.counts, *(counts for _, counts in self._late)])
            self.rows, self.counts = counted(rows, counts)
            self._late = []
        return self


def counted(rows: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Different rows in order, and the sum of the counts of each."""
    if not len(rows):
        return rows, counts
    low = rows.min(0)
    span = rows.max(0) - low + 1
    key = ((rows[:, 0] - low[0]) * span[1] + rows[:, 1] - low[1]) * span[2] + rows[:, 2] - low[2]
    if span.prod() <= DENSE:
        each = np.bincount(key, counts, minlength=0).astype(np.int64)
        there = np.flatnonzero(each)
        code, above = there % span[2], there // span[2]
        return np.stack([above // span[1], above % span[1], code], axis=1) + low, each[there]
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    return rows[first], np.bincount(which, counts).astype(np.int64)
