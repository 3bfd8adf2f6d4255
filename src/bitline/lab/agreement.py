"""Whether codes from a board follow the predicted distribution: χ² a layer and a column, with Holm's correction.

Both the prediction and the replay are counts of codes, for each physical column and ideal sum; they are compared as two
samples of one distribution, so that a prediction from few reads is not taken for the truth. Codes counted too seldom
are put together with their neighbours until five are expected of each sample (Cochran, Biometrics 1954). Valid where a
column's code depends on the ideal sum and the column alone, read by read independently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer
from pydantic import BaseModel, ConfigDict, Field

LEAST = 5.0  # expected counts of a class of codes
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
        self._late.append(_counted(rows, np.ones(len(rows), dtype=np.int64)))
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
            self.rows, self.counts = _counted(rows, counts)
            self._late = []
        return self


def _counted(rows: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


class Line(BaseModel):
    """The comparison of a layer, or of a physical column."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    conversions: int = Field(description="replayed")
    covered: float = Field(description="share of them at ideal sums that the prediction has, 0 … 1")
    chi2: float
    freedom: int = Field(description="degrees of freedom")
    p: float = Field(description="probability of so large a χ² if the prediction holds")
    adjusted: float = Field(description="p by Holm's correction over all layers, or over all columns")
    shift: float = Field(description="mean code replayed less predicted, at equal sums, LSB")
    agrees: bool


class Agreement(BaseModel):
    """Layers, and the columns that drifted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float
    layers: tuple[Line, ...]
    drifted: tuple[Line, ...] = Field(description="columns that do not agree, the worst first")
    columns: int = Field(description="columns compared")

    @property
    def agrees(self) -> bool:
        """Whether all layers and columns agree."""
        return not self.drifted and all(line.agrees for line in self.layers)


@dataclass
class _Sum:
    conversions: int = 0
    covered: int = 0
    chi2: float = 0.0
    freedom: int = 0
    shifted: float = 0.0

    def add(self, other: _Sum) -> None:
        self.conversions += other.conversions
        self.covered += other.covered
        self.chi2 += other.chi2
        self.freedom += other.freedom
        self.shifted += other.shifted

    def line(self, name: str, p: float, adjusted: float, alpha: float) -> Line:
        """As a row of the result."""
        return Line(
            name=name,
            conversions=self.conversions,
            covered=self.covered / max(1, self.conversions),
            chi2=self.chi2,
            freedom=self.freedom,
            p=p,
            adjusted=adjusted,
            shift=self.shifted / max(1, self.covered),
            agrees=adjusted >= alpha,
        )


def reconcile(predicted: Counts, seen: Mapping[str, Counts], width: int, alpha: float = 0.01) -> Agreement:
    """Compare what was ``seen`` in each layer with what was ``predicted``.

    ``width``: columns of an array, to name a column by its array and number. ``alpha``: probability of naming anything
    at all, layers and columns each, where all is as predicted. Sums that the prediction lacks are not compared.
    """
    expected = _groups(predicted.settle())
    layers: dict[str, _Sum] = {}
    columns: dict[int, _Sum] = {}
    for name, counts in seen.items():
        whole = layers.setdefault(name, _Sum())
        for (column, ideal), found in _groups(counts.settle()).items():
            part = _compared(expected.get((column, ideal)), found)
            whole.add(part)
            columns.setdefault(column, _Sum()).add(part)

    def named(address: int) -> str:
        return f"array {address // width} column {address % width}"

    lines = _lines(layers, alpha)
    each = _lines({named(address): total for address, total in sorted(columns.items())}, alpha)
    drifted = sorted((line for line in each if not line.agrees), key=lambda line: (line.p, -abs(line.shift)))
    return Agreement(alpha=alpha, layers=lines, drifted=tuple(drifted), columns=len(each))


def _lines(sums: Mapping[str, _Sum], alpha: float) -> tuple[Line, ...]:
    p = np.array([survival(total.chi2, total.freedom) for total in sums.values()])
    return tuple(
        total.line(name, float(p[i]), float(adjusted), alpha)
        for i, ((name, total), adjusted) in enumerate(zip(sums.items(), holm(p), strict=True))
    )


Group = tuple[np.ndarray, np.ndarray]  # codes in order, and their counts


def _groups(counts: Counts) -> dict[tuple[int, int], Group]:
    rows, numbers = counts.rows, counts.counts
    if not len(rows):
        return {}
    starts = np.flatnonzero(np.r_[True, (rows[1:, :2] != rows[:-1, :2]).any(1)])
    ends = np.r_[starts[1:], len(rows)]
    return {(int(rows[a, 0]), int(rows[a, 1])): (rows[a:b, 2], numbers[a:b]) for a, b in zip(starts, ends, strict=True)}


def _compared(expected: Group | None, found: Group) -> _Sum:
    """χ² of two samples of codes (Press et al., Numerical Recipes, 14.3), classes of codes put together."""
    n = int(found[1].sum())
    if expected is None:
        return _Sum(conversions=n)
    m = int(expected[1].sum())
    codes = np.union1d(expected[0], found[0])
    pair = np.zeros((2, len(codes)))
    pair[0, np.searchsorted(codes, expected[0])] = expected[1]
    pair[1, np.searchsorted(codes, found[0])] = found[1]
    shift = float(codes @ pair[1] / n - codes @ pair[0] / m)
    classes = _classes(pair.sum(0) * min(n, m) / (n + m))
    total = _Sum(conversions=n, covered=n, shifted=shift * n)
    if classes[-1] > 0:
        pooled = np.stack([np.bincount(classes, row) for row in pair])
        difference = np.sqrt(n / m) * pooled[0] - np.sqrt(m / n) * pooled[1]
        total.chi2, total.freedom = float((difference**2 / pooled.sum(0)).sum()), int(classes[-1])
    return total


def _classes(expected: Float[np.ndarray, " codes"]) -> Integer[np.ndarray, " codes"]:
    """A class for each code, neighbours together until ``LEAST`` are expected of each class."""
    classes, held, number = np.zeros(len(expected), dtype=np.int64), 0.0, 0
    for i, value in enumerate(expected):
        classes[i] = number
        held += value
        if held >= LEAST:
            number, held = number + 1, 0.0
    if held or number > classes[-1]:
        classes[classes >= max(number - 1, 0)] = max(number - 1, 0)
    return classes


def survival(chi2: float, freedom: int) -> float:
    """Probability that χ² with ``freedom`` degrees exceeds ``chi2``; 1 without any."""
    if freedom == 0:
        return 1.0
    half = torch.tensor([freedom / 2, chi2 / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def holm(p: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Adjusted probabilities (Holm, Scand. J. Statist. 1979): those below α are significant together at level α."""
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)) if len(p) else p
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted
