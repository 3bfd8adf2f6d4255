"""Arrays that are not linear as a column: fitted to the solver's truth, with what the fit leaves, or refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Integer

from bitline.circuits.crossbar import NonlinearArray, array_samples
from bitline.macro.fit import fit_curve
from bitline.macro.kinds import CurveColumn
from bitline.samples import Samples

LEAST = 8  # reads of a sum, in each of several columns together, that a mean and a spread need


@dataclass(frozen=True)
class Residual:
    """What a curve leaves of reads that it was not fitted to, counts."""

    rms: float  # about the mean curve: what the column's own spread stands for
    worst: float
    at: int  # the ideal sum of the worst read
    ideal_rms: float  # about the ideal sum: what the wires and transistors take in all
    reads: int


def lower_array(
    array: NonlinearArray,
    levels: Integer[np.ndarray, "chips R C"],
    inputs: Integer[np.ndarray, "chips n R"],
    tolerance: float,
    step: float = 1 / 64,
) -> tuple[CurveColumn, Residual]:
    """A curve column of an array with gated rows, or with cells of a sinh law, and its residual on every second input,
    held out.

    Such an array is not linear, so that no matrix stands for it: the mean of a sum becomes the column's curve, and what
    rows and neighbours make of equal sums its spread. ``tolerance``: counts rms that the curve may leave; ``step``:
    resolution in counts. Valid for weights and inputs distributed like the ones given. Raises ValueError where the
    residual is larger, naming it, and where too few sums were read often enough.
    """
    columns = levels.shape[2]
    odd = array_samples(array, levels, inputs[:, 1::2], step)
    even = array_samples(array, levels, inputs[:, ::2], step)
    sums, count = np.unique(even.ideal, return_counts=True)
    usable = sums[count >= LEAST * max(2, columns // 4)]
    if len(usable) < 2:
        raise ValueError(
            f"{len(sums)} sums were read, {len(usable)} of them {LEAST * max(2, columns // 4)} times or more: a curve "
            "needs two; give more inputs"
        )
    column = fit_curve(even.select(ideal=usable), step=step)
    found = residual(column, odd.select(ideal=usable), array.level_high * levels.shape[1], step)
    if found.rms > tolerance:
        raise ValueError(
            f"the curve leaves {found.rms:.3g} counts rms (at worst {found.worst:.3g}, at sum {found.at}), above "
            f"tolerance = {tolerance:g}: rows of lower resistance, fewer at once, or a tolerance that admits it"
        )
    return column, found


def residual(column: CurveColumn, samples: Samples, full: float, step: float = 1.0, low: float = 0.0) -> Residual:
    """What a column's mean curve leaves of samples, counts; ``full``: the largest sum of a column."""
    mean = samples.ideal.astype(np.float64)
    if column.mean is not None:
        mean = column.mean.at(torch.from_numpy(mean), full).numpy()
    value = low + step * samples.code
    off = np.abs(value - mean)
    worst = int(off.argmax())
    return Residual(
        rms=float(np.sqrt((off**2).mean())),
        worst=float(off[worst]),
        at=int(samples.ideal[worst]),
        ideal_rms=float(np.sqrt(((value - samples.ideal) ** 2).mean())),
        reads=len(samples),
    )
