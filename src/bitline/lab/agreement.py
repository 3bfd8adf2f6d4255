"""Whether codes from a board follow the predicted distribution: χ² a layer and a column, with Holm's correction.

Both the prediction and the replay are counts of codes, for each physical column and ideal sum; they are compared as two
samples of one distribution, so that a prediction from few reads is not taken for the truth. Codes counted too seldom
are put together with their neighbours until five are expected of each sample (Cochran, Biometrics 1954). Valid where a
column's code depends on the ideal sum and the column alone, read by read independently.

A table of a bank, or of the whole macro, says nothing of one column: its columns differ, and a replay that uses some
more than others sees another mixture with nothing amiss. There columns, not reads, are independent. How much more the
columns of a table differ than reads do is found from χ² between them, over all tables (its moment estimate, as that of
variance components in ``macro.components``), χ² is divided by what it comes to then, and held against F. A table with
one column in use cannot be tested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Integer
from pydantic import Field

from bitline.configuration import Frozen
from bitline.lab.counts import Counts, counted
from bitline.lab.significance import f_survival, holm, survival
from bitline.macro.tables import Per

LEAST = 5.0  # expected counts of a class of codes


class Line(Frozen):
    """The comparison of a layer, or of a physical column, a bank, or all columns."""

    name: str
    conversions: int = Field(description="replayed")
    covered: float = Field(description="share of them compared: the prediction has their ideal sum, 0 … 1")
    chi2: float
    freedom: int = Field(description="degrees of freedom")
    dispersion: float = Field(default=1.0, description="χ² a degree that columns of one table differ by; 1: by chance")
    p: float = Field(description="probability of so large a χ² if the prediction holds")
    adjusted: float = Field(description="p by Holm's correction over all layers, or over all columns")
    shift: float = Field(description="mean code replayed less predicted, at equal sums, LSB")
    agrees: bool


class Agreement(Frozen):
    """Layers, and the columns (banks) that drifted."""

    alpha: float
    layers: tuple[Line, ...]
    per: Per = Field(default="column", description="what the prediction tells apart")
    drifted: tuple[Line, ...] = Field(description="columns (banks) that do not agree, the worst first")
    columns: int = Field(description="columns (banks) compared")

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
    apart: float = 0.0  # excess of χ² between the columns of a table
    apart_weight: float = 0.0  # what that comes to where columns differ by one unit of variance
    weight: dict[int, float] = field(default_factory=dict)  # table: what χ² comes to then; none where columns are told
    members: set[tuple[int, int]] = field(default_factory=set)  # (table, column) compared

    def add(self, other: _Sum) -> None:
        self.conversions += other.conversions
        self.covered += other.covered
        self.chi2 += other.chi2
        self.freedom += other.freedom
        self.shifted += other.shifted
        self.apart += other.apart
        self.apart_weight += other.apart_weight
        self.members |= other.members
        for table, weight in other.weight.items():
            self.weight[table] = self.weight.get(table, 0.0) + weight


@dataclass(frozen=True)
class _Spread:
    """How columns of one table differ: variance in units of a read's, and the degrees of freedom of its estimate."""

    variance: float
    freedom: int

    @staticmethod
    def of(whole: _Sum) -> _Spread:
        variance = max(0.0, whole.apart / whole.apart_weight) if whole.apart_weight else 0.0
        return _Spread(variance, len(whole.members) - len({table for table, _ in whole.members}))

    def dispersion(self, total: _Sum) -> float:
        """What χ² a degree comes to where all is as predicted."""
        return 1 + self.variance * sum(total.weight.values()) / max(1, total.freedom)

    def p(self, total: _Sum) -> float:
        """Probability of so large a χ² if the prediction holds."""
        if not total.weight:
            return survival(total.chi2, total.freedom)
        weights = np.array(list(total.weight.values()))
        tables = float(weights.sum() ** 2 / (weights**2).sum())  # as many of equal weight (Satterthwaite)
        return f_survival(total.chi2 / max(1, total.freedom) / self.dispersion(total), tables, self.freedom)

    def line(self, name: str, total: _Sum, adjusted: float, alpha: float) -> Line:
        """As a row of the result."""
        return Line(
            name=name,
            conversions=total.conversions,
            covered=total.covered / max(1, total.conversions),
            chi2=total.chi2,
            freedom=total.freedom,
            dispersion=self.dispersion(total),
            p=self.p(total),
            adjusted=adjusted,
            shift=total.shifted / max(1, total.covered),
            agrees=adjusted >= alpha,
        )


def reconcile(
    predicted: Counts,
    seen: Mapping[str, Counts],
    width: int,
    alpha: float = 0.01,
    per: Per = "column",
    bank: int | None = None,
) -> Agreement:
    """Compare what was ``seen`` in each layer with what was ``predicted``.

    ``width``: columns of an array, to name a column by its array and number. ``alpha``: probability of naming anything
    at all, layers and columns each, where all is as predicted. ``per``: what the prediction tells apart, each column,
    every ``bank`` columns, or nothing. Sums that the prediction lacks are not compared.
    """

    def table(column: np.ndarray) -> np.ndarray:
        return column if per == "column" else np.zeros_like(column) if bank is None else column // bank

    expected = _groups(_by_table(predicted, table))
    layers: dict[str, _Sum] = {}
    tables: dict[int, _Sum] = {}
    for name, counts in seen.items():
        whole = layers.setdefault(name, _Sum())
        columns: dict[tuple[int, int], list[tuple[int, Group]]] = {}
        if per != "column":
            for (column, ideal), found in _groups(counts.settle()).items():
                number = 0 if bank is None else column // bank
                columns.setdefault((number, ideal), []).append((column, found))
        for key, found in _groups(_by_table(counts, table)).items():
            alike = columns.get(key, [])
            part = _compared(None if len(alike) == 1 else expected.get(key), found, [each for _, each in alike])
            if part.weight:
                part.weight = {key[0]: part.weight[0]}
                part.members = {(key[0], column) for column, _ in alike}
            whole.add(part)
            tables.setdefault(key[0], _Sum()).add(part)

    def named(number: int) -> str:
        if per == "pooled":
            return "all columns"
        first = number * (bank or 1)
        last = f"s {first % width}–{first % width + bank - 1}" if bank else f" {first % width}"
        return f"array {first // width} column{last}"

    together = _Sum()
    for total in layers.values():
        together.add(total)
    spread = _Spread.of(together)
    lines = _lines(layers, spread, alpha)
    each = _lines({named(number): total for number, total in sorted(tables.items())}, spread, alpha)
    drifted = sorted((line for line in each if not line.agrees), key=lambda line: (line.p, -abs(line.shift)))
    return Agreement(alpha=alpha, layers=lines, per=per, drifted=tuple(drifted), columns=len(each))


def _by_table(counts: Counts, table: Callable[[np.ndarray], np.ndarray]) -> Counts:
    rows = counts.settle().rows.copy()
    rows[:, 0] = table(rows[:, 0])
    return Counts(*counted(rows, counts.counts))


def _lines(sums: Mapping[str, _Sum], spread: _Spread, alpha: float) -> tuple[Line, ...]:
    adjusted = holm(np.array([spread.p(total) for total in sums.values()]))
    return tuple(
        spread.line(name, total, float(p), alpha) for (name, total), p in zip(sums.items(), adjusted, strict=True)
    )


Group = tuple[np.ndarray, np.ndarray]  # codes in order, and their counts


def _groups(counts: Counts) -> dict[tuple[int, int], Group]:
    rows, numbers = counts.rows, counts.counts
    if not len(rows):
        return {}
    starts = np.flatnonzero(np.r_[True, (rows[1:, :2] != rows[:-1, :2]).any(1)])
    ends = np.r_[starts[1:], len(rows)]
    return {(int(rows[a, 0]), int(rows[a, 1])): (rows[a:b, 2], numbers[a:b]) for a, b in zip(starts, ends, strict=True)}


def _compared(expected: Group | None, found: Group, columns: Sequence[Group] = ()) -> _Sum:
    """χ² of two samples of codes (Press et al., Numerical Recipes, 14.3), classes of codes put together; and how far
    ``columns``, which make up ``found``, differ among themselves."""
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
        if columns:
            _apart(total, [(classes[np.searchsorted(codes, some)], c) for some, c in columns], pooled[1], m)
    return total


def _apart(total: _Sum, columns: Sequence[Group], pooled: np.ndarray, m: int) -> None:
    """Add to ``total`` how the classes of codes of ``columns`` differ among themselves, and what follows for χ²."""
    n, there = pooled.sum(), pooled > 0
    reads = np.array([counts.sum() for _, counts in columns])
    for (classes, counts), own in zip(columns, reads, strict=True):
        wanted = pooled[there] * own / n
        each = np.bincount(classes, counts, len(pooled))[there]
        total.apart += float(((each - wanted) ** 2 / wanted).sum())
    total.apart -= (len(columns) - 1) * (there.sum() - 1)
    crowded = float((reads**2).sum() / n)  # reads of a column, were all read alike
    total.apart_weight = float(n - crowded)
    total.weight = {0: crowded * m / (n + m)}


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
