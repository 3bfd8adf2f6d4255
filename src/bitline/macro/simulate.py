"""Monte Carlo of a macro's columns: the samples a characterisation bench would write, from the machine itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bitline.encode import BinaryWeight as Binary
from bitline.encode import BipolarInput, DifferentialWeight, Input, OffsetWeight, UnsignedInput, UnsignedWeight, Weight
from bitline.macro.chip import Chip, Reads
from bitline.macro.geometry import Dense
from bitline.macro.macro import Macro
from bitline.macro.placement import Reload, Site
from bitline.macro.program import program
from bitline.macro.read import Converters, Probe
from bitline.macro.reference import run
from bitline.samples import Samples


def simulate(
    macro: Macro,
    chips: Chip | Sequence[Chip],
    columns: int,
    reads: int,
    sums: Sequence[int],
    *,
    converters: Converters | None = None,
    site: Site | None = None,
) -> Samples:
    """Program ``columns`` columns of each chip to give each of ``sums`` in turn, and read them ``reads`` times.

    A single conversion is read: one digit of the inputs in one pass, one digit of the weights (of an offset weight its
    top digit), both legs of a pair. All active rows are driven with the largest digit (one or two with less, where the
    sum asks for it); as many cells as needed hold the largest level, the rest 0; a negative sum fills the other leg.
    Everything runs through ``program`` and the reference plan, so every effect of the macro takes part.

    ``ideal`` is the sum in counts, ``code`` the converter's code, ``column`` the physical address of the column (of
    its first leg), as a table a column with ``assign: physical`` wants it. Frozen errors are those of the silicon
    named by ``site``; absent: the chip's shared arrays where the macro has them, else arrays of their own. A
    ``converters`` range replaces the one the macro starts with. ``provenance`` keeps the range and the macro.

    Memory: the table itself, 40 bytes a read, and one chunk of conversions. Raises ValueError where the macro has no
    code to read (no converter, no digits), where a sum cannot be made, or where there are fewer columns on the chip.
    """
    chips = [chips] if isinstance(chips, Chip) else list(chips)
    if len({chip.number for chip in chips}) < len(chips):
        raise ValueError("chips must differ in number: the table tells them apart by it alone")
    if min(columns, reads, len(chips), len(sums)) < 1:
        raise ValueError(f"{len(chips)} chips, {columns} columns, {reads} reads, {len(sums)} sums: need one of each")
    small = _one_digit(macro)
    low, step = _range(small, converters)
    scale = Converters(torch.tensor(low, dtype=torch.float64), torch.tensor(step, dtype=torch.float64))
    site = site or _site(macro)
    layout = small.layout(small.on, columns)
    address = layout.columns_of(site)[0, 0, 0, 0].numpy()
    if len(np.unique(address)) < columns:
        raise ValueError(f"{columns} columns asked for, the chip's {site.pool} arrays have {len(np.unique(address))}")
    codes = np.empty((len(chips), len(sums), reads, columns), dtype=np.int64)
    for i, chip in enumerate(chips):
        for j, total in enumerate(sums):
            x, w = _pattern(small, int(total))
            column = program(w.expand(columns, -1), small, chip, site)
            keys = Reads(chip.seed, chip, 0, torch.arange(reads)).keys(site.name, call=j)
            into = _Codes(codes[i, j])
            run(x.expand(reads, 1, -1), column, Dense(), keys, scale if macro.converter else None, probe=into)
    shape = codes.shape

    def along(values: Sequence[int] | np.ndarray, axis: int) -> np.ndarray:
        view = np.asarray(values, dtype=np.int64).reshape([-1 if a == axis else 1 for a in range(4)])
        return np.broadcast_to(view, shape).reshape(-1)

    return Samples(
        ideal=along([int(s) for s in sums], 1),
        code=codes.reshape(-1),
        chip=along([chip.number for chip in chips], 0),
        column=along(address, 3),
        read=along(np.arange(reads), 2),
        units={"ideal": "counts", "code": "LSB"},
        provenance={
            "source": "Monte Carlo",
            "macro": macro.name,
            "fingerprint": macro.fingerprint,
            "seeds": sorted({chip.seed for chip in chips}),
            "low": low,
            "step": step,
        },
    )


class _Codes(Probe):
    """Writes the codes of a run, (reads, columns), in the order they are read."""

    wants_codes = True

    def __init__(self, into: np.ndarray) -> None:
        self.into, self.row = into, 0

    def codes(self, code: Tensor, clipped: Tensor, ideal: Tensor) -> None:
        block = code[0, :, 0].numpy()
        self.into[self.row : self.row + len(block)] = block
        self.row += len(block)


def _site(macro: Macro) -> Site:
    pool = macro.placement.arrays if isinstance(macro.placement, Reload) else None
    return Site("characterisation", 0, pool)


def _range(macro: Macro, converters: Converters | None) -> tuple[float, float]:
    """(low, step) of the codes, counts."""
    if macro.converter is None:
        low, step = getattr(macro.column, "low", None), getattr(macro.column, "step", None)
        if low is None or step is None:
            raise ValueError(f"macro {macro.name} has no converter: there are no codes to read")
        return float(low), float(step)
    if converters is None:
        return macro.converter.range.start(macro.converter, *macro.value_range)
    if converters.low.dim() or converters.step.dim():
        raise ValueError("converters: give one range for all columns (0-d), not one for each output")
    return float(converters.low), float(converters.step)


def _one_digit(macro: Macro) -> Macro:
    """The macro with inputs and weights of a single digit: one conversion of the same columns."""
    inputs, weights = macro.inputs, macro.weights
    if inputs is None or weights is None or not macro.sliced:
        raise ValueError(f"macro {macro.name}: only digits in cells are simulated: it needs `inputs` and `weights`")
    bits, cell = macro.digit_high.bit_length(), macro.level_high.bit_length()
    one: Input = UnsignedInput(bits=bits, digit_bits=bits)
    if isinstance(inputs, BipolarInput):
        one = BipolarInput(bits=bits, digit_bits=bits)
    stored: Weight = UnsignedWeight(bits=cell, cell_bits=cell)
    if isinstance(weights, Binary):
        stored = weights
    elif isinstance(weights, DifferentialWeight) and len(weights.signs) == 2:
        stored = DifferentialWeight(bits=cell + 1, cell_bits=cell)
    elif isinstance(weights, OffsetWeight) and weights.reference:
        stored = OffsetWeight(bits=cell, cell_bits=cell)
    return macro.model_copy(update={"inputs": one, "weights": stored})


def _pattern(macro: Macro, total: int) -> tuple[Tensor, Tensor]:
    """Inputs (rows,) and weights (1, rows) of a one-digit macro whose column sums to ``total``."""
    inputs, weights = macro.inputs, macro.weights
    assert inputs is not None
    assert weights is not None
    binary = isinstance(weights, Binary)
    most = 1 if binary else (weights.high if total >= 0 else -weights.low)
    digits = range(1, macro.digit_high + 1, inputs.stride)
    products = {d * level: (d, level) for d in digits for level in range(1, most + 1)}
    x = torch.full((macro.on,), float(macro.digit_high))
    levels = torch.zeros(macro.on)
    left, row = abs(total), 0
    while left and row < macro.on and products:
        best = max(p for p in products if p <= left)
        x[row], levels[row] = products[best]
        left, row = left - best, row + 1
    if left:
        reach = macro.on * macro.digit_high * most
        raise ValueError(
            f"macro {macro.name}: no pattern of {macro.on} rows found whose column sums to {total}; "
            f"sums of this sign reach {reach if total >= 0 else -reach} counts"
        )
    w = 2 * levels - 1 if binary else (levels if total >= 0 else -levels)
    return x, w[None]
