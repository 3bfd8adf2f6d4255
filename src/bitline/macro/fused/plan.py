"""When the fused plan can run, and the run."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from bitline.macro.column import Column
from bitline.macro.fused import cpu, memory, native
from bitline.macro.fused.lower import After, lowered
from bitline.macro.fused.words import Quantised, Words, words_of
from bitline.macro.geometry import Conv, Geometry
from bitline.macro.kinds import CurveColumn, TableColumn
from bitline.macro.macro import Macro
from bitline.macro.placement import Layout
from bitline.macro.read import EXACT, Converters, Keep, Output, corrected

MOST_DIGIT = 255  # a digit is a byte
FINEST = 1 << 10  # multiples that cells off the integer grid need at least: ten bits


def refuses(macro: Macro, layout: Layout | None = None) -> str | None:
    """Why the kernel cannot read this macro, or a layer of this layout on it; None if it can."""
    inputs = macro.inputs
    if inputs is None:
        return "inputs are continuous"
    if macro.driver is not None:
        return "word-line drivers have levels of their own"
    table = isinstance(macro.column, TableColumn)
    if macro.converter is None and not table:
        return "values are read without a converter"
    if isinstance(macro.column, CurveColumn) and macro.column.pattern is not None:
        return "the column has pattern counts"
    if macro.cell is not None and macro.cell.read_noise is not None:
        return "read noise differs from cell to cell"
    if macro.converter is not None and macro.converter.levels is not None:
        return "the converter's levels are uneven"
    word = inputs.word
    if word is None or word.bits > 16:
        return f"{inputs.bits}-bit {inputs.kind} inputs in digits of {inputs.digit_bits} do not fit a 16-bit word"
    if max(mask for _, mask in word.fields) > MOST_DIGIT:
        return f"digits of {inputs.digit_bits} bits do not fit a byte"
    largest = macro.on * macro.digit_high * len(macro.leg_signs)
    perturbed = macro.cell is not None or not macro.sliced
    if largest * max(FINEST if perturbed else 0, macro.level_high) >= EXACT:
        return f"sums of {macro.on} rows pass 2^24"
    if layout is not None:
        codes = macro.column.codes if isinstance(macro.column, TableColumn) else 1 << macro.converter.bits  # type: ignore[union-attr]
        radix = macro.weights.radix if macro.weights is not None and macro.sliced else (1,)
        if sum(map(abs, inputs.radix)) * sum(map(abs, radix)) * layout.reads * codes >= EXACT:
            return f"totals of {layout.reads} row groups pass 2^24"
    return native.missing()


def refuses_cuda() -> str | None:
    """Why there is no kernel for CUDA, in one line, or None where there is one."""
    try:
        import triton
    except ImportError as error:
        return f"Triton is not installed ({error}): it comes with torch's own wheels for CUDA"
    if not (hasattr(triton, "knobs") and hasattr(triton, "constexpr_function")):
        return f"Triton {triton.__version__} is older than 3.4"
    return None


def run(
    x: Tensor | Quantised | Words,
    column: Column,
    geometry: Geometry,
    keys: Tensor | None,
    converters: Converters | None,
    keep: Keep,
    after: After | None = None,
) -> Output:
    """As ``reference.run``, bit for bit; ``x`` may also be inputs still to be quantised, or words already.

    ``after``: what is done to what was read, last of all.
    """
    low = lowered(column)
    layout = column.layout
    words = x if isinstance(x, Words) else words_of(x, column.macro, geometry)
    if keys is None and column.noisy:
        raise ValueError(f"{column.site.name}: the macro has fresh noise; say which samples are read")
    positions = words.positions(geometry)
    shape = (words.batch, positions, layout.groups * layout.outputs)
    if max(math.prod(shape), words.data.numel(), words.batch * positions * layout.inputs) >= 1 << 31:
        raise ValueError(
            f"{column.site.name}: {words.batch} samples of {positions} positions with {layout.inputs} inputs and "
            f"{shape[2]} outputs pass 2^31 elements: give smaller batches"
        )

    read, empty = cpu.read, memory.empty
    if words.data.is_cuda:
        from bitline.macro.fused import gpu  # needs Triton

        read, empty = gpu.read, partial(torch.empty, device=words.data.device)

    def new() -> Tensor:  # positions together for a convolution, as torch's own would lie
        if isinstance(geometry, Conv):
            return empty(shape[0], shape[2], shape[1]).mT
        return empty(*shape)

    out = Output(new())
    out.inside = new() if keep.inside and column.law is None else None
    out.slope = new() if keep.slope else None
    out.step = new() if keep.step and column.law is None else None
    if after is not None and after.add is not None:
        if tuple(after.add.shape) != tuple(geometry.restore(out.y, words.outer(geometry)).shape):
            raise ValueError(f"{column.site.name}: what is added has shape {tuple(after.add.shape)}, not the outputs'")
        after = after._replace(add=after.add.detach().float().contiguous())
    keys, at_once = keys if column.noisy else None, after if plain(column) else None
    clipped = bool(out.y.numel()) and read(words, low, geometry, keys, converters, out, at_once)
    if not clipped:
        out.inside = None
    if out.step is not None and column.factor is not None:
        out.step = out.step * column.factor
    if not plain(column):
        out.y = corrected(out.y, words.codes(), column, geometry)
        if after is not None:
            out.y = _finished(out.y, after, geometry, words)
    return out


def _finished(y: Tensor, after: After, geometry: Geometry, words: Words) -> Tensor:
    """As the kernel does it last of all, written over ``y``."""
    y = y.mul_(after.scale.detach())
    if after.bias is not None:
        y.add_(after.bias.detach())
    if after.add is not None:
        geometry.restore(y, words.outer(geometry)).add_(after.add)
    return y.relu_() if after.relu else y


def plain(column: Column) -> bool:
    """Whether what is read needs no digital correction."""
    return not (column.input_constant or column.weight_constant)
