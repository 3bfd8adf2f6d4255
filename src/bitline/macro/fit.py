"""From samples to a column: a measured table, or a curve with its frozen and fresh spread.

An ideal sum s has the ideal code floor((s - low)/step + 1/2), clipped; a code stands for low + step · code counts.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from jaxtyping import Float, Integer

from bitline.macro.components import Components, columns_of, components, dense
from bitline.macro.curves import Points
from bitline.macro.kinds import CurveColumn, TableColumn
from bitline.samples import Samples

MOST_ENTRIES = 1 << 28  # of a table, 2 GiB of float64
QUIET = 0.4  # steps of read noise below which a converter's steps hide mean and noise
CLIPPED = 1e-3  # share of reads at the end codes that a mean and a deviation bear


def fit_table(
    samples: Samples,
    per: Literal["pooled", "column"] = "pooled",
    *,
    low: float = 0.0,
    step: float = 1.0,
    codes: int | None = None,
    least: int = 8,
    reach: int = 4,
    smoothing: float = 0.0,
    band: int = 1,
    assign: Literal["drawn", "physical"] = "drawn",
) -> TableColumn:
    """P(code | ideal code) by counting: D-NAT's macro error model (Lin et al., JETCAS 2022; the treatment of rare codes
    is a reconstruction, the paper's is not public).

    ``per``: ``pooled`` makes one table, drawn anew at every read: it holds the total error, but none of it frozen, so
    that what differs between chips comes out far too small. ``column`` makes a table for each (chip, column) of the
    samples, in that order. ``codes``: number of codes of the converter; absent: the largest one seen, plus one.
    ``smoothing`` is added to the counts of codes at most ``band`` from the ideal one. Ideal codes read fewer than
    ``least`` times borrow the row of the nearest code that was, shifted by their distance, up to ``reach`` codes
    away. ``assign: physical`` is the measured die itself: one chip, whose columns are numbered from 0 without a gap.

    Raises ValueError naming the first code, or the column and code, that was not read and has no neighbour in reach.
    ``falls`` tells where the mean code of the result is not monotone. Valid for the sums' distribution of neighbours
    that was measured: a table knows the sum only, not which rows made it.
    """
    _scale(low, step)
    if least < 1 or reach < 0 or band < 0 or not (math.isfinite(smoothing) and smoothing >= 0):
        raise ValueError(
            f"least = {least} must be at least 1; reach = {reach}, band = {band}, smoothing = {smoothing:g} at least 0"
        )
    if not len(samples):
        raise ValueError("the samples are empty: nothing to fit")
    codes = _codes(samples, codes)
    ideal = np.clip(np.floor((samples.ideal - low) / step + 0.5), 0, codes - 1).astype(np.int64)
    which, labels = columns_of(samples) if per == "column" else (0, np.zeros((1, 2), dtype=np.int64))
    if per == "column" and assign == "physical":
        _physical(labels)
    tables = len(labels)
    if tables * codes * codes > MOST_ENTRIES:
        raise ValueError(f"{tables} tables of {codes} × {codes} codes do not fit: fit fewer columns, or a pooled table")
    place = (which * codes + ideal) * codes + samples.code
    counts = np.bincount(place, minlength=tables * codes * codes).reshape(tables, codes, codes).astype(np.float64)
    counts = _borrowed(counts, least, reach, labels if per == "column" else None)
    if smoothing:
        away = np.abs(np.arange(codes)[:, None] - np.arange(codes))
        counts += smoothing * (away <= band)
    return TableColumn(
        probability=counts / counts.sum(axis=2, keepdims=True), low=low, step=step, per=per, assign=assign
    )


def falls(column: TableColumn, tolerance: float = 0.0) -> Integer[np.ndarray, "k 2"]:
    """(table, ideal code) at which the mean code falls by more than ``tolerance`` codes to the next ideal code.

    Empty for a monotone table. A measured table falls by chance too where it was read seldom.
    """
    mean = column.probability @ np.arange(column.codes)
    return np.argwhere(np.diff(mean, axis=1) < -tolerance)


def fit_curve(
    samples: Samples, *, low: float = 0.0, step: float = 1.0, codes: int | None = None, found: Components | None = None
) -> CurveColumn:
    """Mean curve, fresh noise against the sum, and frozen gain and offset spread of the columns.

    Moments by ``components`` (pass it as ``found`` if at hand), in counts. The fresh deviation at each ideal sum
    becomes straight lines between points; the mean, a smooth curve through those measured, whose slope at the ends
    goes on beyond them. Frozen variances, τ²(s) = m'(s)² (s² gain² + offset²) as the
    canonical column has it, give gain and offset by weighted least squares, none below zero. The converter's step
    is taken out as step²/12 of variance (Sheppard), which is right to 3 % of a variance from 0.5 steps of noise on,
    and where columns differ by a step or more from 0.4 steps on. A part that is zero is absent.

    ``codes``: number of codes of the converter, to find clipped reads at its upper end. Raises ValueError where a
    sum is negative (curves are per leg: measure legs singly), reads are clipped, noise is hidden by the converter's
    steps, or fewer than two sums were read. Gain and offset are told apart by sums far apart: an eighth and all of
    full scale, say. Readings of more than one leg count the noise and offset of both.
    """
    _scale(low, step)
    last = _codes(samples, codes) - 1 if codes is not None else None
    found = found or components(samples)
    s = found.ideal.astype(np.float64)
    if len(s) < 2:
        raise ValueError(f"a curve needs two ideal sums or more; the samples have {len(s)}")
    if s[0] < 0:
        raise ValueError(f"ideal sum {found.ideal[0]} is negative: fit a curve to reads of one leg, sums from 0 on")
    mean = low + step * found.mean
    noiseless = not found.fresh.any()
    if not noiseless:
        _unclipped(samples, last)
    fresh, frozen = (step * found.fresh) ** 2, step**2 * found.frozen_variance
    if noiseless:
        frozen = frozen - step**2 / 12  # without noise the step's error is the same at every read
    else:
        fresh = fresh - step**2 / 12
        hidden = fresh < (QUIET * step) ** 2
        if hidden.any():
            i = int(np.argmax(hidden))
            raise ValueError(
                f"ideal sum {found.ideal[i]}: reads of a column scatter by {found.fresh[i]:.3g} codes, which the "
                f"converter's steps hide (below {math.sqrt(QUIET**2 + 1 / 12):.2g}): read with a finer step, "
                "or use fit_table"
            )
    slope = np.gradient(mean, s, edge_order=2 if len(s) > 2 else 1)
    gain, offset = _gain_and_offset(s, slope, frozen, fresh, found)
    points = tuple(map(float, s))
    return CurveColumn(
        mean=_through(s, mean, slope),
        sigma=None if noiseless else Points(u=points, value=tuple(map(float, np.sqrt(fresh)))),
        gain_sigma=gain or None,
        offset_sigma=offset or None,
    )


def _gain_and_offset(
    s: np.ndarray, slope: np.ndarray, frozen: np.ndarray, fresh: np.ndarray, found: Components
) -> tuple[float, float]:
    """(gain deviation, offset deviation in counts) from frozen variances (counts²), non-negative least squares."""
    usable = np.abs(slope) > 1e-3
    if not usable.any():
        raise ValueError("the mean code does not change with the sum: gain and offset cannot be told from it")
    each = found.reads / found.columns
    error = (np.maximum(frozen, 0) + fresh / each + 1e-12) * np.sqrt(2 / np.maximum(found.columns - 1, 1))
    weight = (slope**2 / error)[usable]
    target = (frozen / np.where(usable, slope, 1) ** 2)[usable] * weight
    basis = np.stack([s[usable] ** 2, np.ones(int(usable.sum()))], axis=1) * weight[:, None]
    both = np.linalg.lstsq(basis, target, rcond=None)[0]
    if (both < 0).any():  # the best of one part alone, if it is above zero
        alone = np.maximum((basis * target[:, None]).sum(0) / np.maximum((basis**2).sum(0), 1e-300), 0)
        left = [((target - basis[:, i] * alone[i]) ** 2).sum() for i in (0, 1)]
        keep = int(np.argmin(left))
        both = np.where(np.arange(2) == keep, alone, 0.0)
    return float(np.sqrt(both[0])), float(np.sqrt(both[1]))


def _through(s: np.ndarray, mean: np.ndarray, slope: np.ndarray) -> Points:
    """Cubic Hermite curve through the measured means, in straight pieces of a count or an eighth of an interval."""
    u, value = [], []
    for i, width in enumerate(np.diff(s)):
        pieces = min(8, int(width))
        t = np.arange(pieces) / pieces
        rise, left, right = mean[i + 1] - mean[i], slope[i] * width, slope[i + 1] * width
        u.append(s[i] + width * t)
        value.append(mean[i] + left * t + (3 * rise - 2 * left - right) * t**2 + (left + right - 2 * rise) * t**3)
    before, under = ([s[0] - 1], [mean[0] - slope[0]]) if s[0] > 0 else ([], [])
    places = np.concatenate([before, *u, [s[-1], s[-1] + 1]])
    heights = np.concatenate([under, *value, [mean[-1], mean[-1] + slope[-1]]])
    return Points(u=tuple(map(float, places)), value=tuple(map(float, heights)))


def _scale(low: float, step: float) -> None:
    if not (math.isfinite(low) and math.isfinite(step) and step > 0):
        raise ValueError(f"low = {low:g}, step = {step:g}: a code stands for low + step · code counts, step above 0")


def _codes(samples: Samples, codes: int | None) -> int:
    """Number of codes; raises ValueError naming the first code outside."""
    most = codes if codes is not None else int(samples.code.max()) + 1
    outside = (samples.code < 0) | (samples.code >= most)
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(f"code {samples.code[row]} in row {row} is outside 0 … {most - 1}")
    return most


def _unclipped(samples: Samples, last: int | None) -> None:
    """Raise ValueError naming the first ideal sum whose reads pile up at an end of the converter."""
    sums, which = dense(samples.ideal)
    ends = (samples.code <= 0) if last is None else (samples.code <= 0) | (samples.code >= last)
    share = np.bincount(which, ends, len(sums)) / np.bincount(which)
    if (share > CLIPPED).any():
        i = int(np.argmax(share > CLIPPED))
        raise ValueError(
            f"ideal sum {sums[i]}: {100 * share[i]:.3g} % of the codes are at an end of the converter and may be "
            "clipped; leave such sums out (the end lines of the curve go on), or measure with a wider range"
        )


def _physical(labels: np.ndarray) -> None:
    chips = np.unique(labels[:, 0])
    if len(chips) > 1:
        raise ValueError(f"assign: physical describes one die; the samples have {len(chips)} chips, select one")
    missing = np.setdiff1d(np.arange(labels[:, 1].max() + 1), labels[:, 1])
    if labels[0, 1] != 0 or len(missing):
        raise ValueError(
            f"column {missing[0] if len(missing) else 0} was never read: assign: physical needs every column from 0 to "
            f"{labels[-1, 1]}; use assign: drawn"
        )


def _borrowed(counts: Float[np.ndarray, "T I J"], least: int, reach: int, labels: np.ndarray | None) -> np.ndarray:
    """Rows read seldom replaced by the nearest row that was not, shifted; the lower one of two equally near."""
    _, ideals, codes = counts.shape
    enough = counts.sum(axis=2) >= least
    if enough.all():
        return counts
    index, none = np.arange(ideals), ideals + reach + codes  # `none` is out of everybody's reach
    below = np.maximum.accumulate(np.where(enough, index, -none), axis=1)
    above = np.minimum.accumulate(np.where(enough, index, none + ideals)[:, ::-1], axis=1)[:, ::-1]
    source = np.where(index - below <= above - index, below, above)
    far = np.abs(source - index) > reach
    if far.any():
        table, code = (int(i) for i in np.argwhere(far)[0])
        owner = "" if labels is None else f"chip {labels[table, 0]}, column {labels[table, 1]}: "
        seen = int(counts[table, code].sum())
        raise ValueError(
            f"{owner}ideal code {code} was read {seen} times, fewer than least = {least}, and no code within "
            f"reach = {reach} was read more; {int(far.sum())} rows lack reads: measure them, or raise reach"
        )
    filled = np.zeros_like(counts)
    for distance in np.unique(index - source):
        tables, rows = np.nonzero(index - source == distance)
        shift = np.zeros((codes, codes))  # code j becomes j + distance; what falls off stays at the end
        shift[np.arange(codes), np.clip(np.arange(codes) + distance, 0, codes - 1)] = 1
        filled[tables, rows] = counts[tables, rows - distance] @ shift
    return filled
