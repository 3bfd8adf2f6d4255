"""The analog side of a virtual board: physical arrays of cells with one die's errors, read a row group at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bitline.converters import Driver
from bitline.encode import BipolarInput, Input, UnsignedInput, Weight, WeightScheme
from bitline.macro import Chip, Column, Converters, Dense, Macro, Probe, Reads, Site, program
from bitline.macro.column import Spread
from bitline.macro.kinds import TableColumn
from bitline.macro.placement import Layout, Reload
from bitline.macro.reference import run


class Cells(Weight):
    """Levels of all cells of an output and row in one integer: Σ level · base^(conversion · legs + leg)."""

    kind: Literal["cells"] = "cells"
    stored: WeightScheme

    @property
    def base(self) -> int:
        """Levels of a cell."""
        return self.stored.level_high + 1

    @property
    def low(self) -> int:
        return 0

    @property
    def high(self) -> int:
        return int(self.base ** (len(self.radix) * len(self.signs)) - 1)

    @property
    def level_high(self) -> int:
        return self.stored.level_high

    @property
    def radix(self) -> tuple[int, ...]:
        return self.stored.radix

    @property
    def signs(self) -> tuple[int, ...]:
        return self.stored.signs

    @property
    def reference(self) -> bool:
        return self.stored.reference

    def levels(self, w: Tensor) -> Tensor:
        left, parts = w.long(), []
        for _ in range(len(self.radix) * len(self.signs)):
            parts.append(left % self.base)
            left = left // self.base
        return torch.stack(parts).view(len(self.radix), len(self.signs), *w.shape).float()


def one_digit(inputs: Input) -> Input:
    """A scheme whose integers are the digits of ``inputs``, driven in one pass."""
    bits = inputs.digit_high.bit_length()
    if isinstance(inputs, BipolarInput):
        return BipolarInput(bits=bits, digit_bits=bits)
    return UnsignedInput(bits=bits, digit_bits=bits)


def row_group(column: Column, t: int, rows: int) -> Column:
    """Row group ``t`` of a programmed column alone, its first ``rows`` rows on."""
    start, one, cut = column.layout.spans[t][0], slice(t, t + 1), replace

    def part(held: Tensor | None) -> Tensor | None:
        return None if held is None else held[:, one]

    code, law, spread = column.code, column.law, column.spread
    if code is not None:
        code = cut(code, gain=part(code.gain), offset=part(code.offset), which=part(code.which))
    if law is not None:
        law = cut(law, which=part(law.which))
    if spread is not None:
        spread = Spread(spread.gain[:, one], spread.offset[:, one])
    return cut(
        column,
        layout=cut(column.layout, inputs=rows),
        wanted=column.wanted[:, start : start + rows],
        weight=column.weight[:, start : start + rows],
        cells=part(column.cells),
        spread=spread,
        drive_error=part(column.drive_error),
        code=code,
        law=law,
        held=None,
        variance=part(column.variance),
        writes=None,
        verified=None,
    )


class _Codes(Probe):
    """Keeps the codes of a run, (passes, vectors, lanes)."""

    wants_codes = True

    def __init__(self, passes: int) -> None:
        self.passes, self.found = passes, list[np.ndarray]()

    def codes(self, code: Tensor, clipped: Tensor, ideal: Tensor) -> None:
        block = code[0].unflatten(0, (self.passes, -1)).permute(0, 1, 3, 2).flatten(2)  # lanes: output, conversion
        self.found.append(block.numpy().astype(np.int32))


@dataclass
class Array:
    """One array: what its cells hold, its converters' range, and the column as programmed, until something changes."""

    levels: np.ndarray  # (rows, columns) uint8
    low: float
    step: float
    writes: int = 0
    column: Column | None = None
    groups: dict[tuple[int, int], Column] = field(default_factory=dict)

    def changed(self) -> None:
        """Forget the programmed column."""
        self.column = None
        self.groups.clear()


@dataclass
class Silicon:
    """Arrays 0 … ``arrays`` - 1 of die ``chip``: frozen errors by physical address, fresh noise at every read.

    ``drifted``: counts by which a physical column's offset moved since the die was made, by address (array · columns +
    column, the first leg's). Raises ValueError for a macro without digits in cells or without converter codes.
    """

    macro: Macro
    chip: Chip
    arrays: int
    drifted: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        macro = self.macro
        if macro.inputs is None or macro.weights is None or not macro.sliced:
            raise ValueError(f"macro {macro.name}: a board needs digits in cells: describe `inputs` and `weights`")
        if macro.level_high > 255:
            raise ValueError(f"macro {macro.name}: cells of {macro.level_high + 1} levels; a board takes 256 at most")
        if isinstance(macro.column, TableColumn):
            low, step = macro.column.low, macro.column.step
            if self.drifted:
                raise ValueError(f"macro {macro.name}: a measured table has no offset that could drift")
        elif macro.converter is None:
            raise ValueError(f"macro {macro.name} has no converter: there are no codes to read")
        else:
            low, step = macro.converter.range.start(macro.converter, *macro.value_range)
        self.inputs, self.driver = macro.inputs, macro.driver
        self.held = [self._blank(low, step) for _ in range(self.arrays)]
        self.layout: Layout = macro.layout(macro.rows, macro.layout(1, 1).per_array)
        self.conversions = 0

    def _blank(self, low: float, step: float) -> Array:
        return Array(np.zeros((self.macro.rows, self.macro.columns), dtype=np.uint8), float(low), float(step))

    @property
    def lanes(self) -> int:
        """Conversions of a row group."""
        return self.layout.outputs * self.layout.conversions

    @property
    def codes(self) -> int:
        """Number of converter codes."""
        column, adc = self.macro.column, self.macro.converter
        return column.codes if isinstance(column, TableColumn) else adc.codes if adc is not None else 0

    def write(self, array: int, row: int, column: int, levels: np.ndarray) -> None:
        """Levels of a block of cells."""
        held = self.held[array]
        held.levels[row : row + levels.shape[0], column : column + levels.shape[1]] = levels
        held.writes += 1
        held.changed()

    def drive(self, levels: tuple[float, ...]) -> None:
        """Driver levels for all arrays; raises ValueError where their number is wrong."""
        driver = (self.driver or Driver()).model_copy(update={"levels": levels})
        driver.table(self.inputs.digit_low, self.inputs.digit_high)
        self.driver = driver
        for held in self.held:
            held.changed()

    def read(self, array: int, row: int, x: np.ndarray, digits: bool, first: int, lanes: int) -> np.ndarray:
        """Codes (vectors, passes, lanes) of inputs x (vectors, rows), as they are (``digits``) or pass by pass."""
        held = self.held[array]
        key = (row // self.macro.on, x.shape[1])
        if key not in held.groups:
            held.groups[key] = row_group(self._column(array), *key)
        column = held.groups[key]
        if digits:
            column = replace(column, macro=column.macro.model_copy(update={"inputs": one_digit(self.inputs)}))
        assert column.macro.inputs is not None
        passes = len(column.macro.inputs.radix)
        keys = None
        if column.noisy:
            places = torch.arange(self.conversions, self.conversions + len(x))
            keys = Reads(self.chip.seed, self.chip, 0, places).keys(f"board {array} {row}")
        self.conversions += len(x) * passes * self.lanes
        converters = None
        if self.macro.converter is not None:
            converters = Converters(torch.tensor(held.low).double(), torch.tensor(held.step).double())
        probe = _Codes(passes)
        run(torch.from_numpy(x.astype(np.float32))[:, None], column, Dense(), keys, converters, probe=probe)
        codes = np.concatenate(probe.found, axis=1)
        return codes.transpose(1, 0, 2)[:, :, first : first + lanes]

    def _column(self, array: int) -> Column:
        held = self.held[array]
        if held.column is None:
            stored = self.macro.weights
            assert stored is not None
            scheme = Cells(bits=stored.bits, cell_bits=stored.cell_bits, stored=stored)
            changes = {"weights": scheme, "placement": Reload(arrays=self.arrays), "driver": self.driver}
            macro = self.macro.model_copy(update=changes)
            layout = self.layout
            columns = torch.from_numpy(held.levels.astype(np.int64))[:, layout.column()]  # rows C L N
            place = scheme.base ** torch.arange(layout.conversions * layout.legs)
            packed = (columns.flatten(1, 2) * place[:, None]).sum(1).t().double()  # N rows
            site = Site("board", array, self.arrays)
            column = program(packed, macro, self.chip, site, held.writes)
            held.column = self._moved(column, site) if self.drifted else column
        return held.column

    def _moved(self, column: Column, site: Site) -> Column:
        address = column.layout.columns_of(site)
        spread = column.spread or Spread(torch.ones(address.shape), torch.zeros(address.shape))
        offset = spread.offset.clone()
        for place, counts in self.drifted.items():
            offset[address == place] += counts
        return replace(column, spread=Spread(spread.gain, offset))


def in_bounds(row: int, rows: int, active: int) -> bool:
    """Whether ``rows`` rows from ``row`` on are the beginning of one row group."""
    return row % active == 0 and 1 <= rows <= active


def finite(*values: float) -> bool:
    """Whether all are finite numbers."""
    return all(map(math.isfinite, values))
