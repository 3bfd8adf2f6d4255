"""Variance components of measured codes: what is frozen with a column and what is fresh at each read.

One-way random-effects analysis of variance for each ideal sum (Searle, Casella, McCulloch, *Variance Components*,
1992, section 3.6: unbalanced data): with n_g reads of column g, k columns and N reads,

    fresh²  = MSW = Σ_g Σ_r (code - mean_g)² / (N - k)
    frozen² = (MSB - MSW) / n0        MSB = Σ_g n_g (mean_g - mean)² / (k - 1),   n0 = (N - Σ n_g²/N) / (k - 1)

so that the share of read noise in the spread of column means is taken out: both are unbiased for any law of the
errors. Everything is in codes (LSB) as read, quantisation included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from bitline.samples import Samples


@dataclass(frozen=True)
class Components:
    """Mean and standard deviations of the code at each of S ideal sums, with standard errors, in codes (LSB).

    ``total``² = ``frozen``² + ``fresh``². ``frozen_variance`` is the unbiased estimate itself, which may fall below
    zero where ``frozen`` is 0. Standard errors take the columns as the independent units, whatever the law of the
    errors; that of a standard deviation is variance's / (2 · deviation), meaningless (NaN) where the deviation is 0.
    """

    ideal: Integer[np.ndarray, " S"]  # counts
    mean: Float[np.ndarray, " S"]
    total: Float[np.ndarray, " S"]
    frozen: Float[np.ndarray, " S"]
    fresh: Float[np.ndarray, " S"]
    total_error: Float[np.ndarray, " S"]
    frozen_error: Float[np.ndarray, " S"]
    fresh_error: Float[np.ndarray, " S"]
    frozen_variance: Float[np.ndarray, " S"]  # codes²
    columns: Integer[np.ndarray, " S"]
    reads: Integer[np.ndarray, " S"]  # of all columns together

    def table(self) -> str:
        """The numbers as text, a line an ideal sum: deviation ± standard error."""
        lines = ["ideal     mean     total             frozen            fresh             columns    reads"]
        for i in range(len(self.ideal)):
            parts = "".join(
                f"  {getattr(self, name)[i]:7.4f} ± {getattr(self, f'{name}_error')[i]:6.4f}"
                for name in ("total", "frozen", "fresh")
            )
            lines.append(f"{self.ideal[i]:5d} {self.mean[i]:8.3f}{parts}  {self.columns[i]:8d} {self.reads[i]:8d}")
        return "\n".join(lines)


def components(samples: Samples) -> Components:
    """Frozen and fresh spread of the codes at each ideal sum of ``samples``.

    A column is a (chip, column) pair: what chips have in common among their columns counts as frozen too. Raises
    ValueError where the table does not tell columns apart, or where a sum was read in one column only, or only once
    in each: frozen and fresh error cannot be separated then.
    """
    column, labels = columns_of(samples)
    sums, which = dense(samples.ideal)
    columns = len(labels)
    cell = which * columns + column
    size = len(sums) * columns
    number = np.bincount(cell, minlength=size).reshape(-1, columns)
    shift = round(float(samples.code.mean()))
    code = samples.code - shift  # small numbers: squares add up exactly
    total = np.bincount(cell, code, size).reshape(-1, columns)
    square = np.bincount(cell, code.astype(np.float64) ** 2, size).reshape(-1, columns)
    found = [_one(int(s), n, t, q) for s, n, t, q in zip(sums, number, total, square, strict=True)]
    mean, frozen, fresh, e_total, e_frozen, e_fresh, used, reads = (np.array(v) for v in zip(*found, strict=True))
    total_variance = np.maximum(frozen, 0) + fresh
    total_sigma, frozen_sigma, fresh_sigma = (np.sqrt(np.maximum(v, 0)) for v in (total_variance, frozen, fresh))
    return Components(
        ideal=sums,
        mean=mean + shift,
        total=total_sigma,
        frozen=frozen_sigma,
        fresh=fresh_sigma,
        total_error=_sigma_error(e_total, total_sigma),
        frozen_error=_sigma_error(e_frozen, frozen_sigma),
        fresh_error=_sigma_error(e_fresh, fresh_sigma),
        frozen_variance=frozen,
        columns=used,
        reads=reads,
    )


def _sigma_error(variance_error: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sigma > 0, variance_error / (2 * sigma), np.nan)


def _one(
    ideal: int, number: np.ndarray, total: np.ndarray, square: np.ndarray
) -> tuple[float, float, float, float, float, float, int, int]:
    """(mean, frozen², fresh², errors of total², frozen², fresh², columns, reads) of one ideal sum."""
    n = number[number > 0].astype(np.float64)
    k, reads = len(n), float(n.sum())
    if k < 2:
        raise ValueError(
            f"ideal sum {ideal} was read in {k} column only: frozen spread needs two columns or more, "
            "and its error falls with their number"
        )
    if reads <= k:
        raise ValueError(
            f"ideal sum {ideal} was read once in each of {k} columns: frozen and fresh error cannot be told apart; "
            "read each column at least twice"
        )
    means = total[number > 0] / n
    inside = np.maximum(square[number > 0] - n * means**2, 0.0)  # sum of squares within each column
    grand = float((n * means).sum() / reads)
    within = float(inside.sum() / (reads - k))
    between = n * (means - grand) ** 2
    n0 = (reads - float((n**2).sum()) / reads) / (k - 1)
    msb = float(between.sum() / (k - 1))
    weight = k / (k - 1)  # of deviations from a mean that was itself estimated
    within_part = (inside - (n - 1) * within) / (reads - k)  # what each column adds to the estimates
    between_part = (between - between.mean()) / (k - 1)
    frozen_part = (between_part - within_part) / n0
    errors = [
        float(np.sqrt(weight * (part**2).sum())) for part in (frozen_part + within_part, frozen_part, within_part)
    ]
    return grand, (msb - within) / n0, within, errors[0], errors[1], errors[2], k, int(reads)


def columns_of(samples: Samples) -> tuple[Integer[np.ndarray, " n"], Integer[np.ndarray, "columns 2"]]:
    """(number of each row's column, (chip, column) of each number); one chip where chips are not told apart.

    Raises ValueError on an empty table and where columns are not told apart.
    """
    if not len(samples):
        raise ValueError("the samples are empty: nothing to fit")
    if samples.column is None:
        raise ValueError("the samples do not tell columns apart: frozen error cannot be found without 'column'")
    columns, number = dense(samples.column)
    if samples.chip is None:
        return number, np.stack([np.zeros_like(columns), columns], axis=1)
    chips, chip = dense(samples.chip)
    pairs, number = dense(chip * len(columns) + number)
    return number, np.stack([chips[pairs // len(columns)], columns[pairs % len(columns)]], axis=1)


def dense(values: Integer[np.ndarray, " n"]) -> tuple[Integer[np.ndarray, " k"], Integer[np.ndarray, " n"]]:
    """(the k different values in order, the place of each row's value among them); quick where they lie close."""
    low = int(values.min())
    span = int(values.max()) - low + 1
    if span > 4 * len(values) + 1024:
        different, place = np.unique(values, return_inverse=True)
        return different, place.reshape(-1)
    shifted = values - low
    seen = np.zeros(span, dtype=bool)
    seen[shifted] = True
    return np.flatnonzero(seen) + low, (seen.cumsum() - 1)[shifted]
