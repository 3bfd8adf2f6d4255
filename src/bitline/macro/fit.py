"""From samples to a curve with its frozen and fresh spread; measured tables are in ``tables``.

An ideal sum s has the ideal code floor((s - low)/step + 1/2), clipped; a code stands for low + step · code counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer

from bitline.macro.components import Components, columns_of, components, dense
from bitline.macro.curves import Points
from bitline.macro.kinds import CurveColumn
from bitline.macro.tables import code_count, one_condition, sound_scale
from bitline.samples import Samples

GROUPS = 20  # of columns, left out one after the other for standard errors
QUIET = 0.4  # steps of read noise below which a converter's steps hide mean and noise
CLIPPED = 1e-3  # share of reads at the end codes that a mean and a deviation bear


def fit_curve(
    samples: Samples,
    *,
    low: float = 0.0,
    step: float = 1.0,
    codes: int | None = None,
    found: Components | None = None,
    over: Sequence[str] = (),
) -> CurveColumn:
    """Mean curve, fresh noise against the sum, and frozen gain and offset spread of the columns.

    Moments by ``components`` (pass it as ``found`` if at hand), in counts. The fresh deviation at each ideal sum
    becomes straight lines between points; the mean, a smooth curve through those measured, whose slope at the ends
    goes on beyond them. Frozen variances, τ²(s) = m'(s)² (s² gain² + offset²) as the
    canonical column has it, give gain and offset by weighted least squares, none below zero. The converter's step
    is taken out as step²/12 of variance (Sheppard), which is right to 3 % of a variance from 0.5 steps of noise on,
    and where columns differ by a step or more from 0.4 steps on. A part that is zero is absent.

    ``codes``: number of codes of the converter, to find clipped reads at its upper end. ``over``: conditions that are
    pooled, as for ``fit_table``. Raises ValueError where another condition has several values, a sum is negative
    (curves are per leg: measure legs singly), reads are clipped, noise is hidden by the converter's steps, or fewer
    than two sums were read. Gain and offset are told apart by sums far apart: an eighth and all of full scale, say.
    Readings of more than one leg count the noise and offset of both. ``curve_errors`` gives standard errors.
    """
    sound_scale(low, step)
    one_condition(samples, over)
    last = code_count(samples, codes) - 1 if codes is not None else None
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


@dataclass(frozen=True)
class CurveErrors:
    """Standard errors of a fitted curve: of the frozen deviations, and at each of S ideal sums of mean and noise."""

    gain_sigma: float
    offset_sigma: float  # counts
    ideal: Integer[np.ndarray, " S"]  # counts
    mean: Float[np.ndarray, " S"]  # counts
    sigma: Float[np.ndarray, " S"]  # counts


def curve_errors(samples: Samples, *, groups: int = GROUPS, **how: Any) -> CurveErrors:
    """Standard errors of what ``fit_curve(samples, **how)`` finds, by a jackknife over groups of columns.

    With J ``groups`` of neighbouring columns, θ_j fitted without group j, and θ̄ the mean of all θ_j,

        se² = (J - 1)/J · Σ_j (θ_j - θ̄)²

    (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 11). Columns are the independent units: a
    column's gain and offset are in its reads at every sum, so that errors of different sums are no independent ones. A
    part that is absent counts as 0; near 0 the error is too small. It has a relative error of its own of about
    1/√(2 (J - 1)). ``found`` cannot be given. Raises ValueError for fewer than 2 groups or fewer columns than groups,
    and as ``fit_curve`` does where a sum cannot be fitted without a group.
    """
    column, labels = columns_of(samples)
    if not 2 <= groups <= len(labels):
        raise ValueError(f"groups = {groups}: 2 to {len(labels)}, the number of columns, can be left out in turn")
    units = {name: unit for name, unit in samples.units.items() if name not in ("x", "w")}
    samples = replace(samples, x=None, w=None, units=units)  # large, and of no use here
    ideal = dense(samples.ideal)[0]
    at = torch.from_numpy(ideal.astype(np.float64))
    group = column * groups // len(labels)
    fitted = []
    for left in range(groups):
        one = fit_curve(samples.take(group != left), **how)
        curves = [
            np.zeros(len(ideal)) if curve is None else curve.at(at, 1.0).numpy() for curve in (one.mean, one.sigma)
        ]
        fitted.append(np.concatenate([[one.gain_sigma or 0.0, one.offset_sigma or 0.0], *curves]))
    theta = np.stack(fitted)
    error = np.sqrt((groups - 1) / groups * ((theta - theta.mean(0)) ** 2).sum(0))
    mean, sigma = error[2:].reshape(2, -1)
    return CurveErrors(float(error[0]), float(error[1]), ideal, mean, sigma)


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
