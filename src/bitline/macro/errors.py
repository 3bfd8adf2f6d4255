"""S0's second level: P(code | sum) from a behavioural model, exactly, as a table a network is trained with.

(Chang, Liu, Kuster, SMACD 2022; a reconstruction. Dies and patterns are pooled: nothing of the error is frozen.)
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float

from bitline.macro.behaviour import Behaviour, Values, Vectors
from bitline.macro.kinds import TableColumn
from bitline.samples import Samples

LARGEST = 2048  # codes of a table
FEWEST = 64  # patterns behind a row of the table
OWN = 16  # of them the sum's own, at least, however few of them there are
REACH = 1 / 3  # of a sum: how far off those may be that it borrows
CERTAIN = 1 - 1e-9  # probability of the last code from which further sums give no other


def error_model(behaviour: Behaviour, x: Vectors, w: Vectors) -> TableColumn:
    """P(code | sum) for each sum from 0 to the largest the converter spans, over patterns like those of (x, w); and on
    to the largest sum of these, or to one that is sure to read the last code.

    Given a pattern and its sum k, the effective sum over dies is normal, of mean k (1 + μ) and variance σ² Σ (x w)²
    and the column's own gain and offset, and of fresh noise over the curve's slope; codes follow by the curve's
    inverse, without sampling. A sum seen in fewer than 64 patterns takes those nearest to it, moved to it: see
    ``Patterns.of_sum``. The table's grid is the largest that both sums and codes fall on: with 3 counts to 2 codes,
    half a count. Raises ValueError where the curve falls, or the grid has too many entries; ``TableColumn`` rows for
    places between sums are those of the sum below.
    """
    shape = behaviour.shape
    ratio = Fraction(shape.counts, 2**shape.bits)
    step = Fraction(1, ratio.denominator)
    codes = 2**shape.bits
    size = int((codes - 1) * ratio / step) + 1
    if size > LARGEST:
        raise ValueError(
            f"{ratio} counts a code need a table of {size} × {size} entries: choose scale.counts and scale.bits whose "
            "ratio is simpler"
        )
    pool = Patterns.of(behaviour, x, w)
    rows: list[Float[np.ndarray, " codes"]] = []
    last = min(int(pool.sums.max()), (LARGEST - 1) // ratio.denominator)
    while len(rows) * ratio.denominator < size or (len(rows) <= last and rows[-1][-1] < CERTAIN):
        rows.append(law(behaviour, pool.of_sum(len(rows)), shape.readout.edges).mean(axis=0))
    size = max(size, (len(rows) - 1) * ratio.denominator + 1)
    probability = np.zeros((size, size))
    place = np.arange(codes) * ratio.numerator  # of each code on the grid
    probability[:, place] = np.stack(rows)[np.arange(size) // ratio.denominator]
    return TableColumn(probability=probability, low=0.0, step=float(step))


@dataclass(frozen=True)
class Patterns:
    """What the behavioural model knows of inputs and levels: their sum, Σ (x w)², and pattern counts, those that add
    to the value and those that add to the sum."""

    sums: Values
    squares: Values
    counts: Values
    inner: Values

    @staticmethod
    def of(behaviour: Behaviour, x: Vectors, w: Vectors) -> Patterns:
        """Those of (x, w)."""
        product = (x.astype(np.int64) * w).astype(float)
        outer, inner = behaviour.patterns(x, w), behaviour.patterns(x, w, inner=True)
        return Patterns(product.sum(axis=1), (product**2).sum(axis=1), outer, inner)

    def of_sum(self, k: int) -> Patterns:
        """Those with the sum k; where they are fewer than 64, the nearest ones beside them, moved to it.

        No pattern is moved by more than a third of the sum, unless there is no other: what makes two counts has little
        in common with what makes three. The sum's own count for a quarter of 64 where there are fewer of them.
        """
        away = np.abs(self.sums - k)
        near = np.flatnonzero(away == 0)
        if len(near) < FEWEST:
            own = np.repeat(near, -(-OWN // len(near))) if len(near) else near
            order = np.argsort(away, kind="stable")
            order = order[(away[order] > 0) & ((away[order] <= REACH * k) | (len(own) == 0))]
            near = np.concatenate([own, order[: max(0, FEWEST - len(own))]])
        moved = (k / np.maximum(self.sums[near], 1)) ** 2 if k else 0.0
        sums = np.full(len(near), float(k))
        return Patterns(sums, self.squares[near] * moved, self.counts[near], self.inner[near])


def law(behaviour: Behaviour, patterns: Patterns, edges: Float[np.ndarray, " m"]) -> Float[np.ndarray, "n cells"]:
    """Over dies and reads, the probability of each pattern's value to lie below the first edge (counts), between it and
    the next, … and above the last. Fresh noise is taken to the sum by the curve's slope at the edge."""
    from torch import as_tensor
    from torch.special import ndtr

    spread, k = behaviour.mismatch, patterns.sums[:, None]
    sums = _inverse(behaviour, edges - patterns.counts[:, None]) - patterns.inner[:, None]
    if spread is None and behaviour.fresh is None:
        below = (k < sums).astype(float)
    else:
        centre, variance = k, np.zeros_like(k)
        if spread is not None:
            centre = k * (1 + spread.cell_mean)
            variance = patterns.squares[:, None] * spread.cell_sigma**2
            gained = (centre + patterns.inner[:, None]) * (spread.gain_sigma or 0.0)
            variance = variance + gained**2 + (spread.offset_sigma or 0.0) ** 2
        if behaviour.fresh is not None:
            slope = behaviour.slope(sums + patterns.inner[:, None])
            variance = variance + (behaviour.fresh.at(k) / slope) ** 2
        below = ndtr(as_tensor((sums - centre) / np.sqrt(np.maximum(variance, 1e-18)))).numpy()
    return np.diff(below, axis=1, prepend=0.0, append=1.0)


def _inverse(behaviour: Behaviour, value: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
    """Sums at which the curve takes values; beyond its ends along its end lines."""
    u, v = np.asarray(behaviour.mean.u), np.asarray(behaviour.mean.value)
    if (np.diff(v) <= 0).any():
        at = int(np.argmax(np.diff(v) <= 0))
        raise ValueError(f"the mean curve falls at the sum {u[at]:g}: codes do not follow from it one way")
    found = np.interp(value, v, u)
    first, last = (v[1] - v[0]) / (u[1] - u[0]), (v[-1] - v[-2]) / (u[-1] - u[-2])
    found = np.where(value < v[0], u[0] + (value - v[0]) / first, found)
    return np.where(value > v[-1], u[-1] + (value - v[-1]) / last, found)


@dataclass(frozen=True)
class Rates:
    """Share of reads whose code is not that of their sum: sums ``low`` … ``high``, n reads of the circuit, and what the
    circuit, its behavioural model and the error model say."""

    low: int
    high: int
    n: int
    circuit: float
    model: float
    table: float

    @property
    def deviation(self) -> float:
        """Of the circuit's share, by chance: √(p (1 - p)/n) with the model's."""
        return float(np.sqrt(max(self.model * (1 - self.model), 1e-12) / self.n))


def error_rates(samples: Samples, behaviour: Behaviour, table: TableColumn, bins: int = 8) -> tuple[Rates, ...]:
    """Error rates of simulated reads on dies beside those that both models give the same patterns, by sum: S0's
    verification, on conversions of a network or any others.

    ``samples``: x, w and codes of the circuit, as ``characterize`` gives them. Raises ValueError on an empty table.
    """
    if not len(samples):
        raise ValueError("the samples are empty: nothing to compare")
    shape, sums, every = behaviour.shape, samples.ideal, np.arange(len(samples))
    right = shape.readout.code(sums).astype(np.int64)
    model = 1 - law(behaviour, Patterns.of(behaviour, samples["x"], samples["w"]), shape.readout.edges)[every, right]
    place, coded = (np.round(v / table.step).astype(np.int64) for v in (sums, right * shape.step))
    pooled = 1 - table.probability[0, np.minimum(place, table.probability.shape[1] - 1), coded]
    wrong = samples.code != right
    group = np.minimum(sums * bins // (shape.counts + 1), bins - 1)
    return tuple(
        Rates(
            int(sums[of].min()),
            int(sums[of].max()),
            int(of.sum()),
            float(wrong[of].mean()),
            float(model[of].mean()),
            float(pooled[of].mean()),
        )
        for b in np.unique(group)
        if (of := group == b).any()
    )
