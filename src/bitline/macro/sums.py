"""Sums of columns, Σ x̂·g: either rows are gathered and multiplied by cells, or a convolution makes all tiles at once.

Both give the same whole numbers. Gathering copies each input once for each position of the kernel; convolving runs
each tile over the whole kernel, zero outside the tile, and wins while there are few tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bitline.macro.column import Column
from bitline.macro.geometry import Conv, Geometry

MOST_TILES = 4  # up to which a convolution is faster than gathering


@dataclass(frozen=True)
class Gathered:
    """Digits of rows (G, M, K) that meet cells (G, T, R, C·L·N), ``legs`` columns a conversion."""

    column: Column
    rows: Tensor
    cells: Tensor
    legs: int

    def digits(self, t: int) -> Tensor:
        """Digits of row group ``t``, (G, M, rows on)."""
        start, count, _, _ = self.column.layout.spans[t]
        return self.rows[:, :, start : start + count]

    def driven(self, t: int) -> Tensor:
        """What the word lines of row group ``t`` drive, (G, M, rows on): each driver's own error included."""
        column, inputs, digits = self.column, self.column.macro.inputs, self.digits(t)
        if column.drive is None or inputs is None:
            return digits
        index = (digits - inputs.digit_low).long()
        driven = column.drive.to(digits.dtype)[index]
        if column.drive_error is not None:
            row = torch.arange(digits.shape[2], device=digits.device)
            group = torch.arange(len(digits), device=digits.device).view(-1, 1, 1)
            driven = driven + column.drive_error[:, t].to(digits.dtype)[group, row, index]
        return driven * (digits != 0) if inputs.stride == 2 else driven  # a bipolar 0 is a row that is off

    def sums(self, t: int) -> Tensor:
        """Sums of each column in units of its cells, (G, M, C, L, N)."""
        x, layout = self.driven(t), self.column.layout
        cells = self.cells[:, t, : x.shape[2]]
        u = torch.mm(x[0], cells[0])[None] if len(x) == 1 else torch.bmm(x, cells)
        return u.view(len(x), -1, layout.conversions, self.legs, layout.outputs)


@dataclass(frozen=True)
class Convolved:
    """Sums (M, T, C·L·N) of all row groups of one group."""

    column: Column
    found: Tensor
    legs: int

    def sums(self, t: int) -> Tensor:
        """Sums of each column in units of its cells, (1, M, C, L, N)."""
        layout = self.column.layout
        return self.found[:, t].reshape(1, -1, layout.conversions, self.legs, layout.outputs)


def kernel(column: Column, geometry: Geometry, cells: Tensor) -> Tensor | None:
    """The convolution's weight (T · C·L·N, channels, …), one tile after another; None where gathering is better."""
    layout = column.layout
    if not isinstance(geometry, Conv) or len(geometry.kernel) != 2 or geometry.taps == 1:
        return None
    if layout.inputs == geometry.taps:
        return None  # one channel: torch 2.13 leaves some outputs of such a convolution unwritten
    if layout.groups > 1 or layout.reads > MOST_TILES or cells.dtype != torch.float32 or cells.device.type != "cpu":
        return None
    matrix = cells.new_zeros(layout.reads, cells.shape[3], layout.inputs)
    for t, (start, count, _, _) in enumerate(layout.spans):
        matrix[t, :, start : start + count] = cells[0, t, :count].t()
    return geometry.native(matrix.flatten(0, 1)).contiguous(memory_format=torch.channels_last)


def convolved(planes: Tensor, weight: Tensor, geometry: Conv, column: Column, legs: int) -> Convolved:
    """Sums of digit planes (P·b, channels, height, width)."""
    last = planes.contiguous(memory_format=torch.channels_last)
    found = F.conv2d(last, weight, None, geometry.stride, 0, geometry.dilation)
    return Convolved(
        column, found.permute(0, 2, 3, 1).reshape(-1, column.layout.reads, weight.shape[0] // column.layout.reads), legs
    )
