"""The reference plan: the machine in plain torch, slow and clear, and the oracle of the others.

Work is cut into chunks of positions that stay in the cache, and into row groups: no tensor ever spans digits × tiles ×
outputs of a batch. Sums of codes are exact: float32 while every partial sum stays below 2^24, else float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bitline import draws
from bitline.macro.column import Column
from bitline.macro.conversion import Reader
from bitline.macro.geometry import Conv, Geometry
from bitline.macro.program import with_cells
from bitline.macro.read import Converters, Keep, Output, Probe, corrected
from bitline.macro.sums import Convolved, Gathered, convolved, kernel

CHUNK = 1 << 17  # conversions held at once
NOTHING = Keep()


def run(
    x: Tensor,
    column: Column,
    geometry: Geometry,
    keys: Tensor | None,
    converters: Converters | None = None,
    keep: Keep = NOTHING,
    probe: Probe | None = None,
) -> Output:
    """Read ``x`` (integer-valued codes, padded, in the layer's layout) through ``column``.

    ``keys``: one int64 key a sample (``Reads.keys``) for the fresh noise, needed where the column has any;
    ``converters``: needed where the macro has a converter.
    """
    column = with_cells(column)
    reader = Reader(column, converters, keep, probe, x.device)
    layout = column.layout
    outputs = layout.groups * layout.outputs
    positions = 1
    for extent in geometry.shape(x, outputs)[:-1]:
        positions *= extent
    out = Output(torch.empty(len(x), positions, outputs, dtype=reader.total, device=x.device))
    if keep.inside and reader.clips:
        out.inside = torch.empty(out.y.shape, device=x.device)
    if keep.slope:
        out.slope = torch.empty(out.y.shape, device=x.device)
    if keep.step and column.code is not None:
        out.step = torch.empty(out.y.shape, device=x.device)
    if keys is None and reader.draws:
        raise ValueError(f"{column.site.name}: the macro has fresh noise; say which samples are read")
    for samples, part, sums in chunks(x, reader, geometry, positions):
        first = None if keys is None or not reader.draws else row_keys(keys[samples], part, positions, reader.words)
        found = reader.read(sums, (samples.stop - samples.start) * (part.stop - part.start), first)
        pairs = ((out.y, found.y), (out.inside, found.inside), (out.slope, found.slope), (out.step, found.step))
        for whole, piece in pairs:
            if whole is not None and piece is not None:
                whole[samples, part] = piece.view(whole[samples, part].shape)
    if not reader.clipped:
        out.inside = None
    out.y = corrected(out.y, x, column, geometry)
    return out


def chunks(
    x: Tensor, reader: Reader, geometry: Geometry, positions: int
) -> Iterator[tuple[slice, slice, Gathered | Convolved]]:
    """(samples, positions, their columns' sums) in pieces of at most ``CHUNK`` conversions where one sample fits."""
    column, layout = reader.column, reader.column.layout
    inputs, passes = column.macro.inputs, len(column.pass_radix)
    weight = None if reader.needs_rows else kernel(column, geometry, reader.cells)
    columns = passes * layout.groups * layout.conversions * layout.outputs
    if weight is not None and positions * columns > CHUNK:
        weight = None  # one sample would not fit
    each = max(1, CHUNK // columns)
    batch = max(1, each // max(1, positions))
    for first in range(0, len(x), batch):
        samples = slice(first, min(first + batch, len(x)))
        codes = x[samples].to(reader.sums)
        planes = (inputs.digits(codes) if inputs else codes[None]).flatten(0, 1)
        if weight is not None:
            assert isinstance(geometry, Conv)
            yield samples, slice(0, positions), convolved(planes, weight, geometry, column, reader.legs)
            continue
        rows = geometry.rows(planes).unflatten(0, (passes, -1))  # P b S G K
        stride = each if batch == 1 else max(1, positions)
        for start in range(0, positions, stride):
            part = slice(start, min(start + stride, positions))
            some = rows[:, :, part].flatten(0, 2).movedim(1, 0)  # G M K
            yield samples, part, Gathered(column, some, reader.cells, reader.legs)


def row_keys(keys: Tensor, part: slice, positions: int, words: int) -> Tensor:
    """First noise counter of each row (sample, position): (m,) int64."""
    place = torch.arange(part.start, part.stop, device=keys.device) * words
    return (keys[:, None] + place * draws.GOLDEN).flatten()
