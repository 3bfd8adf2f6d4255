"""Calibration of columns after fabrication: measure gain and offset in noisy reads, take them out with trim DACs."""

from __future__ import annotations

import torch
from torch import Tensor

from bitline import draws
from bitline.macro.chip import Chip
from bitline.macro.column import Spread
from bitline.macro.curves import Lookup
from bitline.macro.macro import Macro

SUMS = (1 / 8, 7 / 8)  # of full scale


def trimmed(spread: Spread, macro: Macro, chip: Chip, address: Tensor, where: str, tables: dict[str, Lookup]) -> Spread:
    """What is left of the columns' gain and offset after the macro's ``trim``.

    ``address``: physical address of each column. Reads go through the mean curve, the noise and the converter's step
    (a calibrated range counts as covering full scale), and back through the mean curve of the typical column.
    """
    trim = macro.trim
    assert trim is not None
    known = [fraction * macro.full_scale for fraction in SUMS]
    seen = [_measured(spread, k, i, macro, chip, address, where, tables) for i, k in enumerate(known)]
    gain = (seen[1] - seen[0]) / (known[1] - known[0])
    offset = seen[0] - gain * known[0]
    correction = _dac(gain - 1, trim.gain_bits, trim.gain_range)
    shift = _dac(offset, trim.offset_bits, trim.offset_range)
    return Spread((spread.gain * (1 - correction)).float(), ((spread.offset - shift) * (1 - correction)).float())


def _measured(
    spread: Spread,
    known: float,
    which: int,
    macro: Macro,
    chip: Chip,
    address: Tensor,
    where: str,
    tables: dict[str, Lookup],
) -> Tensor:
    """Estimate of gain · known + offset from repeated reads of a known sum, counts."""
    trim, adc = macro.trim, macro.converter
    assert trim is not None
    true = (spread.gain.double() * known + spread.offset).float()
    value = _through(tables["mean"], true) if "mean" in tables else true
    sigma = _through(tables["sigma"], torch.full_like(true, known)) if "sigma" in tables else None
    step = 0.0
    if adc is not None:
        step = adc.range.start(adc, *macro.value_range)[1]
    total = torch.zeros_like(value, dtype=torch.float64)
    for read in range(trim.reads):
        reading = value.double()
        if sigma is not None:
            stream = chip.stream(f"trim {which} {read}", where)
            reading = reading + sigma * draws.normal(stream, address)
        total += (reading / step + 0.5).floor() * step if step else reading
    mean = total / trim.reads
    return _inverse(tables["mean"], mean) if "mean" in tables else mean


def _through(table: Lookup, u: Tensor) -> Tensor:
    return table.at(*table.place(u.clone()))


def _inverse(table: Lookup, value: Tensor) -> Tensor:
    """Sum at which the typical column reads ``value``; raises ValueError where the curve is not rising."""
    if not bool((table.rise > 0).all()):
        raise ValueError("trim needs a mean curve that rises everywhere: sums cannot be told from reads otherwise")
    heights = table.value.double()
    i = torch.searchsorted(heights, value).clamp(1, len(heights) - 1) - 1
    return table.low + (i + (value - heights[i]) / table.rise[i]) * table.pitch


def _dac(correction: Tensor, bits: int, reach: float) -> Tensor:
    """Nearest setting of a trim DAC of ``bits`` over ± ``reach``; beyond it the last setting."""
    step = 2 * reach / ((1 << bits) - 1)
    return ((correction + reach) / step + 0.5).floor().mul_(step).clamp_(0, 2 * reach).sub_(reach)
