"""Where weights sit: from (row group, digit, output) of a layer to physical arrays, rows, columns and converters.

A layer is a matrix of K inputs by N outputs (a grouped convolution: G such matrices). K is cut into tiles of ``rows``,
a tile into groups of ``active_rows`` that are on at once, each read on its own. The columns of one output (its digits
and legs) stay together in one array; reference columns take the last columns of each array.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bitline.configuration import Frozen


class Unbounded(Frozen):
    """Every layer has arrays of its own."""

    kind: Literal["unbounded"] = "unbounded"


class Reload(Frozen):
    """A stated number of arrays, rewritten as the network runs: layers share silicon, in the order of conversion."""

    kind: Literal["reload"] = "reload"
    arrays: int = Field(ge=1, description="arrays on the chip")


Placement = Annotated[Unbounded | Reload, Field(discriminator="kind")]


@dataclass(frozen=True)
class Site:
    """What a layer keeps of its place: its name, and its first array where silicon is shared."""

    name: str
    first: int = 0
    pool: int | None = None

    @property
    def where(self) -> str:
        """Name of the silicon, which keys its draws."""
        return "pool" if self.pool else f"layer {self.name}"


@dataclass(frozen=True)
class Layout:
    """Geometry of one layer on one macro."""

    inputs: int  # K, inputs of one group
    outputs: int  # N, outputs of one group
    groups: int  # G
    conversions: int  # C, conversions of one output and row group
    legs: int  # L, columns that meet before a conversion
    reference: bool  # the last leg is shared by the array
    rows: int
    active_rows: int
    columns: int
    columns_per_adc: int

    def __post_init__(self) -> None:
        if self.columns < self.reserved + self.width:
            raise ValueError(
                f"columns = {self.columns}: one output needs {self.width} columns"
                + (f" beside {self.reserved} reference columns" if self.reserved else "")
                + "; give the macro more columns or the weights fewer digits"
            )

    @property
    def reserved(self) -> int:
        """Reference columns of an array."""
        return self.conversions if self.reference else 0

    @property
    def width(self) -> int:
        """Columns of one output."""
        return self.conversions * (self.legs - self.reference)

    @property
    def per_array(self) -> int:
        """Outputs in one array."""
        return (self.columns - self.reserved) // self.width

    @property
    def blocks(self) -> int:
        """Arrays side by side."""
        return -(-self.outputs // self.per_array)

    @property
    def tiles(self) -> int:
        """Arrays one below the other, for one group."""
        return -(-self.inputs // self.rows)

    @property
    def arrays(self) -> int:
        """Arrays of the layer."""
        return self.groups * self.tiles * self.blocks

    @property
    def utilisation(self) -> float:
        """Share of the cells of its arrays that hold a weight or a reference."""
        columns = self.outputs * self.width + self.reserved * self.blocks
        return self.groups * self.inputs * columns / (self.arrays * self.rows * self.columns)

    @cached_property
    def spans(self) -> tuple[tuple[int, int, int, int], ...]:
        """(first input, count, tile, first physical row) of each row group, T of them."""
        return tuple(
            (
                tile * self.rows + row,
                min(self.active_rows, self.rows - row, self.inputs - tile * self.rows - row),
                tile,
                row,
            )
            for tile in range(self.tiles)
            for row in range(0, min(self.rows, self.inputs - tile * self.rows), self.active_rows)
        )

    @property
    def reads(self) -> int:
        """T, row groups of one output."""
        return len(self.spans)

    def scatter(self, levels: Tensor) -> Tensor:
        """Cells by input, (C, L, G·N, K), to cells by row group, (G, T, R, C, L, N); rows that are off hold 0."""
        c, legs = levels.shape[:2]
        matrix = levels.view(c, legs, self.groups, self.outputs, self.inputs).permute(2, 4, 0, 1, 3)
        out = matrix.new_zeros(self.groups, self.reads, self.active_rows, c, legs, self.outputs)
        for t, (start, count, _, _) in enumerate(self.spans):
            out[:, t, :count] = matrix[:, start : start + count]
        return out

    def gather(self, cells: Tensor) -> Tensor:
        """Inverse of ``scatter`` for one value a weight: (G, T, R, N) to (G·N, K)."""
        parts = [cells[:, t, :count] for t, (_, count, _, _) in enumerate(self.spans)]
        return torch.cat(parts, dim=1).permute(0, 2, 1).reshape(self.groups * self.outputs, self.inputs)

    def array(self, site: Site) -> Tensor:
        """Physical array of each (G, T, 1, N), int64."""
        group = torch.arange(self.groups).view(-1, 1, 1, 1)
        tile = torch.tensor([span[2] for span in self.spans]).view(1, -1, 1, 1)
        block = torch.arange(self.outputs) // self.per_array
        number = site.first + (group * self.tiles + tile) * self.blocks + block
        return number % site.pool if site.pool else number

    def column(self) -> Tensor:
        """Physical column inside its array of each (C, L, N), int64."""
        c, leg = torch.arange(self.conversions).view(-1, 1, 1), torch.arange(self.legs).view(1, -1, 1)
        data = self.legs - self.reference
        own = (torch.arange(self.outputs) % self.per_array) * self.width + c * data + leg
        shared = (self.columns - self.reserved + c).expand_as(own)
        return torch.where((leg == data).expand_as(own), shared, own) if self.reference else own

    def row(self) -> Tensor:
        """Physical row inside its array of each (T, R), int64."""
        return torch.tensor([span[3] for span in self.spans]).view(-1, 1) + torch.arange(self.active_rows)

    def columns_of(self, site: Site) -> Tensor:
        """Address of each physical column, (G, T, C, L, N)."""
        return self.array(site)[:, :, :, None] * self.columns + self.column()

    def converters_of(self, site: Site) -> Tensor:
        """Address of the converter of each conversion, (G, T, C, N): the one that serves its first leg."""
        per_array = -(-self.columns // self.columns_per_adc)
        return self.array(site) * per_array + self.column()[:, 0] // self.columns_per_adc

    def cells_of(self, site: Site) -> Tensor:
        """Address of each cell, (G, T, R, C, L, N)."""
        array = self.array(site)[:, :, :, None, None]  # G T 1 1 1 N
        row = self.row().view(1, self.reads, self.active_rows, 1, 1, 1)
        return (array * self.rows + row) * self.columns + self.column()

    def rows_of(self, site: Site) -> Tensor:
        """Address of each word-line driver, (G, T, R): arrays side by side share it."""
        first = self.array(site)[:, :, 0, :1]
        return first * self.rows + self.row()
