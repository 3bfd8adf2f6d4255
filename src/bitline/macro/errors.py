"""S0's second level: P(code | sum) from a behavioural model, exactly, as a table a network is trained with.

(Chang, Liu, Kuster, SMACD 2022; a reconstruction. Dies and patterns are pooled: nothing of the error is frozen.)
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Integer

from bitline.macro.behaviour import Behaviour, Shape, Vectors
from bitline.macro.kinds import TableColumn
from bitline.samples import Samples

LARGEST = 2048  # codes of a table
FEWEST = 64  # patterns behind a row of the table


def error_model(behaviour: Behaviour, x: Vectors, w: Vectors) -> TableColumn:
    """P(code | sum) for each sum from 0 to the largest the converter spans, over patterns like those of (x, w).

    Given a pattern and its sum k, the effective sum over dies is normal, of mean k (1 + μ) and variance σ² Σ (x w)²
    and the column's own gain and offset; codes follow by the curve's inverse, without sampling. A sum seen in fewer
    than 64 patterns takes those nearest to it, moved to it. The table's grid is the largest that both sums and codes
    fall on: with 3 counts to 2 codes, half a count. Raises ValueError where the curve falls, or the grid has too many
    entries; ``TableColumn`` rows for places between sums are those of the sum below.
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
    probability = np.zeros((size, size))
    place = np.arange(codes) * ratio.numerator  # of each code on the grid
    sums = np.einsum("nr,nr->n", x, w, dtype=np.int64)
    order = np.argsort(sums, kind="stable")
    sums, x, w = sums[order], x[order], w[order]
    power = ((x.astype(np.int64) * w) ** 2).sum(axis=1)
    offsets = behaviour.patterns(x, w)
    for i in range(size):
        k = i // ratio.denominator
        if i % ratio.denominator:
            probability[i] = probability[i - 1]
            continue
        near = _near(sums, k)
        squares = power[near] * (k / np.maximum(sums[near], 1)) ** 2 if k else np.zeros(len(near))
        probability[i, place] = law(behaviour, k, squares, offsets[near]).mean(axis=0)
    return TableColumn(probability=probability, low=0.0, step=float(step))


def law(
    behaviour: Behaviour, k: int, squares: Float[np.ndarray, " n"], patterns: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n codes"]:
    """P(code) over dies of patterns with the sum k, Σ (x w)² ``squares`` and pattern counts ``patterns``."""
    from torch import as_tensor
    from torch.special import ndtr

    shape, spread = behaviour.shape, behaviour.mismatch
    edges = (np.arange(1, 2**shape.bits) - 0.5) * shape.step - patterns[:, None]
    sums = _inverse(behaviour, edges)
    if spread is None:
        below = (k < sums).astype(float)
    else:
        centre = k * (1 + spread.cell_mean)
        variance = squares * spread.cell_sigma**2
        variance = variance + (centre * (spread.gain_sigma or 0.0)) ** 2 + (spread.offset_sigma or 0.0) ** 2
        sigma = np.sqrt(np.maximum(variance, 1e-18))[:, None]
        below = ndtr(as_tensor((sums - centre) / sigma)).numpy()
    zero, one = np.zeros((len(below), 1)), np.ones((len(below), 1))
    return np.diff(np.concatenate([zero, below, one], axis=1), axis=1)


def _near(sums: np.ndarray, k: int) -> np.ndarray:
    """Rows with the sum k; where they are few, the nearest ones."""
    low, high = np.searchsorted(sums, [k, k + 1])
    if high - low >= FEWEST:
        return np.arange(low, high)
    first, last = max(0, int(low) - FEWEST), min(len(sums), int(high) + FEWEST)
    close = np.argsort(np.abs(sums[first:last] - k), kind="stable")[:FEWEST]
    return first + close


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


def ideal_codes(sums: Integer[np.ndarray, " n"], shape: Shape) -> Integer[np.ndarray, " n"]:
    """Codes of sums on an ideal column: rounded half up, clipped."""
    return np.clip(np.floor(sums / shape.step + 0.5), 0, 2**shape.bits - 1).astype(np.int64)


@dataclass(frozen=True)
class Expected:
    """What a model says of each pattern, over dies: probability that its code is not that of its sum, and the mean of
    code less ideal code, LSB."""

    rate: Float[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]


def expected_errors(x: Vectors, w: Vectors, behaviour: Behaviour, table: TableColumn) -> tuple[Expected, Expected]:
    """Errors of patterns by the behavioural model and by the error model."""
    shape, sums = behaviour.shape, np.einsum("nr,nr->n", x, w, dtype=np.int64)
    right = ideal_codes(sums, shape)
    power, offsets = ((x.astype(np.int64) * w) ** 2).sum(axis=1).astype(float), behaviour.patterns(x, w)
    model = np.empty((len(x), 2**shape.bits))
    for k in np.unique(sums):
        of = np.flatnonzero(sums == k)
        model[of] = law(behaviour, int(k), power[of], offsets[of])
    place = np.minimum(np.round(sums / table.step).astype(np.int64), table.codes - 1)
    coded = np.round(np.arange(2**shape.bits) * shape.step / table.step).astype(np.int64)
    pooled = table.probability[0, place][:, coded]
    every, codes = np.arange(len(x)), np.arange(2**shape.bits)
    of_model, of_table = (Expected(1 - p[every, right], p @ codes - right) for p in (model, pooled))
    return of_model, of_table


def error_rates(samples: Samples, behaviour: Behaviour, table: TableColumn, bins: int = 8) -> tuple[Rates, ...]:
    """Error rates of simulated reads on dies beside those that both models give the same patterns, by sum: S0's
    verification, on conversions of a network or any others.

    ``samples``: x, w and codes of the circuit, as ``characterize`` gives them. Raises ValueError on an empty table.
    """
    if not len(samples):
        raise ValueError("the samples are empty: nothing to compare")
    shape, sums = behaviour.shape, samples.ideal
    model, pooled = (each.rate for each in expected_errors(samples["x"], samples["w"], behaviour, table))
    wrong = samples.code != ideal_codes(sums, shape)
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
