"""What surrounds a measured table P(code | ideal code), D-MAC-EM: is it complete, what of it is frozen, what does the
analytic rival say, and were there reads enough (Lin et al., JETCAS 2022, as far as published).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Integer

from bitline.macro.components import Components, components
from bitline.macro.kinds import TableColumn
from bitline.macro.tables import Counts, Per, count_codes, fit_table, shifted
from bitline.samples import Samples

CLIPPED = 1e-3  # share of reads at the end codes that a variance bears
SURE = 4.0  # standard errors by which a mean code must fall to be no accident


@dataclass(frozen=True)
class Coverage:
    """How well samples cover the T tables of I ideal codes that would be fitted to them."""

    found: Counts
    source: Integer[np.ndarray, "T I"]  # ideal code whose row is used; -1: none in reach
    falls: Integer[np.ndarray, "k 2"]  # (table, ideal code) whose mean code falls to the next, beyond chance

    @property
    def missing(self) -> Bool[np.ndarray, "T I"]:
        """Rows that nothing can be said of."""
        return self.source < 0

    @property
    def borrowed(self) -> Bool[np.ndarray, "T I"]:
        """Rows that are a neighbour's, shifted."""
        return ~self.missing & (self.source != np.arange(self.source.shape[1]))

    def text(self) -> str:
        """In words: every row that is missing, borrowed or falls, by table."""
        lines = []
        for table in range(len(self.source)):
            falling = np.zeros(self.source.shape[1], dtype=bool)
            falling[self.falls[self.falls[:, 0] == table, 1]] = True
            parts = [
                f"{what} {_spans(rows)}"
                for what, rows in (
                    ("not read and without a neighbour in reach:", self.missing[table]),
                    ("borrowed from a neighbour:", self.borrowed[table]),
                    ("mean code falls after:", falling),
                )
                if rows.any()
            ]
            if parts:
                lines.append(f"{self.found.name(table)}ideal codes {'; '.join(parts)}")
        tables, reads = self.found.counts.shape[0], int(self.found.reads.sum())
        return "\n".join([f"{tables} table{'s' * (tables > 1)} from {reads} reads", *(lines or ["all codes covered"])])


def coverage(
    samples: Samples,
    per: Per = "pooled",
    *,
    low: float = 0.0,
    step: float = 1.0,
    codes: int | None = None,
    least: int = 8,
    reach: int = 4,
    bank: int | None = None,
    over: Sequence[str] = (),
) -> Coverage:
    """Which rows of a table were read, which would be borrowed, which are missing, and where it is not monotone.

    Arguments as for ``fit_table``. A fall of the mean code counts where it is more than four standard errors of the
    two means, each read ``least`` times or more.
    """
    found = count_codes(samples, per, low=low, step=step, codes=codes, bank=bank, over=over)
    reads = np.maximum(found.reads, 1)
    value = np.arange(found.counts.shape[2])
    mean = found.counts @ value / reads
    error = np.maximum(found.counts @ value**2 / reads - mean**2, 0) / reads
    fall = -np.diff(mean, axis=1)
    enough = found.reads >= least
    sure = (fall > SURE * np.sqrt(error[:, 1:] + error[:, :-1])) & (fall > 0) & enough[:, 1:] & enough[:, :-1]
    return Coverage(found, found.source(least, reach), np.argwhere(sure))


@dataclass(frozen=True)
class Split:
    """Frozen and fresh error apart: T columns, I ideal codes."""

    columns: TableColumn  # a table a column: the frozen part is which one, the fresh part is what it draws
    fresh: TableColumn  # pooled: what a read scatters by about its own column's mean
    shift: Float[np.ndarray, "T I"]  # mean code of each column less that of all; NaN where it was not read
    parts: Components  # deviations at each ideal sum, unbiased

    @property
    def share(self) -> float:
        """Share of the variance that is frozen, 0 … 1, weighted by reads. A pooled table redraws all of it."""
        frozen, total = (float((v**2 * self.parts.reads).sum()) for v in (self.parts.frozen, self.parts.total))
        return frozen / total if total else 0.0


def split_table(
    samples: Samples, *, low: float = 0.0, step: float = 1.0, codes: int | None = None, **how: Any
) -> Split:
    """Frozen and fresh parts of samples that read each column repeatedly; ``how`` goes to ``fit_table``.

    ``fresh``: each column's reads moved back by its mean's distance from that of all columns, to the whole code, so
    that up to 1/12 code² of the frozen variance is left in it. ``shift`` has the sampling error of a column's mean.
    Raises ValueError where columns are not told apart or were read once only (``components``), or rows lack reads.
    """
    columns = fit_table(samples, "column", low=low, step=step, codes=codes, **how)
    found = count_codes(samples, "column", low=low, step=step, codes=codes, over=how.get("over", ()))
    reads, value = found.reads, np.arange(found.counts.shape[2])
    seen = np.maximum(reads, 1)
    all_reads = np.maximum(reads.sum(0), 1)
    shift = np.where(reads > 0, found.counts @ value / seen - (found.counts @ value).sum(0) / all_reads, np.nan)
    whole = np.where(reads > 0, np.floor(np.nan_to_num(shift) + 0.5), 0).astype(np.int64)
    moved = np.zeros_like(found.counts)
    for by in np.unique(whole):
        at = np.nonzero(whole == by)
        moved[at] = shifted(found.counts[at], -int(by))
    pooled = moved.sum(0)
    ideal, code = np.nonzero(pooled)
    number = pooled[ideal, code].astype(np.int64)
    again = Samples(ideal=np.repeat(ideal, number), code=np.repeat(code, number))
    kept = {name: value for name, value in how.items() if name not in ("assign", "over")}
    fresh = fit_table(again, codes=len(value), **kept).model_copy(update={"low": low, "step": step})
    return Split(columns, fresh, shift, components(samples))


def fit_gaussian(
    samples: Samples,
    *,
    low: float = 0.0,
    step: float = 1.0,
    codes: int | None = None,
    spread: Literal["one", "converters"] = "converters",
    match: Literal["variance", "rms"] = "variance",
    over: Sequence[str] = (),
) -> TableColumn:
    """A-MAC-EM, the analytic rival: a zero-mean Gaussian about the ideal code, rounded and clipped, as a pooled table.

    ``spread``: ``converters``, σ² = adc² + (dac · ideal code)², an error of the ADC and one of the DACs that grows with
    the sum (Lin et al. say that variation is assumed in both; the law is a reconstruction), by weighted non-negative
    least squares of the variances; or ``one`` for all codes. ``match``: what the samples' variance is taken about, the
    mean code of each ideal code, or the ideal code itself (``rms``, bias counted). The variance is that of whole codes:
    rounding is taken into account. Ideal codes whose reads reach the first or last code do not count while others are
    there: their variance is cut. ``over``: as for ``fit_table``.
    """
    found = count_codes(samples, low=low, step=step, codes=codes, over=over)
    counts, reads = found.counts[0], found.reads[0]
    value, seen = np.arange(counts.shape[1]), np.maximum(found.reads[0], 1)
    about = counts @ value / seen if match == "variance" else np.arange(len(counts), dtype=np.float64)
    variance = ((value - about[:, None]) ** 2 * counts).sum(1) / seen
    whole = (counts[:, 0] + counts[:, -1] <= CLIPPED * reads) & (reads > 0)
    reads = np.where(whole, reads, 0) if whole.any() else reads
    if spread == "one":
        sigma = np.full(len(counts), _sigma(np.array([(variance * reads).sum() / reads.sum()]))[0])
    else:
        sigma = _converters(_sigma(variance) ** 2, np.arange(len(counts)), reads)
    return TableColumn(probability=_gaussian(sigma, len(value)), low=low, step=step)


def _converters(variance: np.ndarray, ideal: np.ndarray, reads: np.ndarray) -> np.ndarray:
    """σ of each ideal code with σ² = adc² + (dac · ideal)², by least squares weighted by the variances' own errors."""
    weight = np.sqrt(reads) / (variance + variance[reads > 0].mean() + 1e-12)
    basis = np.stack([np.ones(len(ideal)), ideal.astype(np.float64) ** 2], axis=1) * weight[:, None]
    target = variance * weight
    both = np.linalg.lstsq(basis, target, rcond=None)[0]
    if (both < 0).any():
        alone = np.maximum((basis * target[:, None]).sum(0) / (basis**2).sum(0), 0)
        keep = int(np.argmin([((target - basis[:, i] * alone[i]) ** 2).sum() for i in (0, 1)]))
        both = np.where(np.arange(2) == keep, alone, 0.0)
    return np.sqrt(both[0] + both[1] * ideal.astype(np.float64) ** 2)


def _gaussian(sigma: Float[np.ndarray, " I"], codes: int) -> Float[np.ndarray, "I J"]:
    """P of a Gaussian about each ideal code, rounded to whole codes and clipped to those there are."""
    edges = np.arange(codes - 1) + 0.5
    z = (edges - np.arange(len(sigma))[:, None]) / np.maximum(sigma, 1e-9)[:, None]
    below = 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))
    return np.diff(np.concatenate([np.zeros((len(sigma), 1)), below, np.ones((len(sigma), 1))], axis=1), axis=1)


def _sigma(variance: np.ndarray) -> np.ndarray:
    """Deviation of the Gaussian whose rounded values have this variance (codes²)."""
    coarse = np.linspace(0, 2, 401)
    away = np.arange(-12, 13)
    upper = np.vectorize(math.erf)((away + 0.5) / (math.sqrt(2) * np.maximum(coarse, 1e-9)[:, None]))
    lower = np.vectorize(math.erf)((away - 0.5) / (math.sqrt(2) * np.maximum(coarse, 1e-9)[:, None]))
    rounded = (away**2 * (upper - lower) / 2).sum(1)
    fine = np.sqrt(np.maximum(variance - 1 / 12, 0))
    return np.where(variance < rounded[-1], np.interp(variance, rounded, coarse), fine)


def _spans(rows: Bool[np.ndarray, " I"]) -> str:
    """The codes where ``rows`` holds, runs as first–last."""
    codes = np.flatnonzero(rows)
    runs = np.split(codes, np.flatnonzero(np.diff(codes) > 1) + 1)
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
