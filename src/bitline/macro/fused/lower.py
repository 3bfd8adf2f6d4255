"""A programmed column as the kernels read it: cells as bytes, constants in vectors of 16 outputs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from bitline import draws
from bitline.macro.analog import Analog, Scale
from bitline.macro.column import Column
from bitline.macro.program import with_cells
from bitline.macro.read import EXACT, Converters

LANES = 16  # outputs in a vector
CHUNK = 64  # rows in a product
LIMB = 7  # bits of a cell in each limb but the last


def vectors(value: Tensor) -> Tensor:
    """(G, T, …, N) to (G, NB, …, T, 16), contiguous; outputs that are not there hold 0."""
    outputs = value.shape[-1]
    padded = F.pad(value, (0, -outputs % LANES)).unflatten(-1, (-1, LANES))
    return padded.movedim(-2, 1).movedim(2, -2).contiguous()


class After(NamedTuple):
    """What is done to the counts read, last of all: · ``scale`` + ``bias`` + ``add``, and nothing below zero."""

    scale: Tensor  # (), or (N,)
    bias: Tensor | None = None  # (N,)
    add: Tensor | None = None  # of the outputs' shape, in the layer's layout
    relu: bool = False


class Chunk(NamedTuple):
    """Rows of a row group that are multiplied at once."""

    group: int
    first: int
    rows: int
    at: int = 0  # words from a position's first input to theirs


@dataclass(frozen=True, eq=False)
class Lowered:
    """One programmed column, ready to be read; made once for all its reads."""

    column: Column
    jobs: dict[Any, Any] = field(default_factory=dict)  # what a kernel was given for inputs of one shape
    cuts: dict[tuple[Chunk, ...], Tensor] = field(default_factory=dict)  # cells in chunks
    held: list[Tensor] = field(default_factory=list)  # tensors those point to
    ranges: dict[str, Any] = field(default_factory=dict)  # the last range of the converters and what follows from it

    @cached_property
    def analog(self) -> Analog:
        """The analog side, without a converter's range."""
        return Analog(self.column, None)

    @cached_property
    def by_legs(self) -> bool:
        """Whether legs are read one by one, or cells are noisy; otherwise a place follows from one sum."""
        return self.column.law is None and not (self.analog.linear and self.column.cell_variance is None)

    @cached_property
    def whole_cells(self) -> Tensor:
        """Cells as multiples of the unit, legs that only subtract subtracted: (G, T, R, C, L, N) int32."""
        cells = self.column.cells
        assert cells is not None
        if self.column.layout.legs == 2 and (self.analog.linear or self.column.law is not None):
            cells = cells[..., :1, :] - cells[..., 1:, :]
        counts = torch.tensor([count for _, count, _, _ in self.column.layout.spans], device=cells.device)
        on = torch.arange(cells.shape[2], device=cells.device) < counts[:, None]
        cells = torch.where(on[:, :, None, None, None], cells, 0.0)  # rows that are off
        most = float(cells.abs().max()) if cells.numel() else 0.0
        macro = self.column.macro
        if macro.on * macro.digit_high * most >= EXACT:
            raise ValueError(
                f"{self.column.site.name}: {macro.on} rows of cells up to {most * self.column.unit:g} counts sum "
                "beyond 2^24 steps: use --plan reference"
            )
        return cells.to(torch.int32)

    @property
    def legs(self) -> int:
        """Legs that are summed apart."""
        return self.whole_cells.shape[4]

    @cached_property
    def limbs(self) -> int:
        """Bytes of a cell."""
        most, limbs = int(self.whole_cells.abs().max()) if self.whole_cells.numel() else 0, 1
        while most > 127:
            most, limbs = (most + 64) >> LIMB, limbs + 1
        return limbs

    @cached_property
    def fields(self) -> tuple[tuple[int, int], ...]:
        """Bit field (shift, mask) of each pass in a word of inputs."""
        inputs = self.column.macro.inputs
        word = inputs.word if inputs is not None else None
        assert word is not None
        return word.fields

    @cached_property
    def merged(self) -> bool:
        """Whether both limbs go into one sum, the second with digits times 128: where digits are single bits."""
        return self.limbs == 2 and all(mask == 1 for _, mask in self.fields)

    def whole_chunks(self) -> tuple[Chunk, ...]:
        """Each row group cut into chunks of 64 rows."""
        spans = enumerate(self.column.layout.spans)
        return tuple(
            Chunk(t, row, min(CHUNK, count - row)) for t, (_, count, _, _) in spans for row in range(0, count, CHUNK)
        )

    def cut(self, chunks: tuple[Chunk, ...]) -> Tensor:
        """Cells as signed bytes, (G, NB, C, L, chunks, limbs, 16, 16, 4): rows in fours, outputs, the four rows."""
        if chunks in self.cuts:
            return self.cuts[chunks]
        cells = self.whole_cells
        g, _, r, c, legs, n = cells.shape
        place = torch.arange(CHUNK, device=cells.device)
        groups = torch.tensor([chunk.group for chunk in chunks], device=cells.device)
        first, count = (torch.tensor([chunk[i] for chunk in chunks], device=cells.device)[:, None] for i in (1, 2))
        padded = F.pad(cells, (0, -n % LANES, 0, 0, 0, 0, 0, CHUNK))  # rows that are off follow the others
        at = torch.where(place < count, first + place, r)
        rows = padded[:, groups[:, None], at].view(g, len(chunks), 16, 4, c, legs, -1, LANES)
        rows = rows.permute(0, 6, 4, 5, 1, 2, 7, 3)
        parts = []
        for _ in range(self.limbs - 1):
            low = ((rows + 64) & 127) - 64
            parts.append(low)
            rows = (rows - low) >> LIMB
        self.cuts[chunks] = torch.stack([*parts, rows], dim=5).to(torch.int8).contiguous()
        return self.cuts[chunks]

    @cached_property
    def start(self) -> Tensor | None:
        """What each column sums to where all digits are at their lowest, (G, NB, C, L, T, 16) int32; None where 0."""
        inputs = self.column.macro.inputs
        assert inputs is not None
        if inputs.digit_low == 0:
            return None
        return vectors(self.whole_cells.sum(2) * inputs.digit_low).to(torch.int32)

    @cached_property
    def spread(self) -> tuple[Tensor, Tensor] | None:
        """Gain and offset of each column, (G, NB, C, L, T, 16)."""
        spread = self.column.spread
        return None if spread is None else (vectors(spread.gain), vectors(spread.offset))

    @cached_property
    def which(self) -> Tensor | None:
        """Converter or table of each conversion, (G, NB, C, T, 16) int64."""
        of = self.column.code or self.column.law
        return None if of is None or of.which is None else vectors(of.which)

    @cached_property
    def edges(self) -> Tensor | None:
        """Places at which the code rises, (converters, codes - 1)."""
        code = self.column.code
        return None if code is None or code.thresholds is None else (code.thresholds + 0.5).contiguous()

    @cached_property
    def slope(self) -> Tensor | None:
        """Mean read slope at each node of the mean curve, or at each row of the table."""
        if self.column.law is not None:
            return self.column.law.slope
        return None if self.column.mean is None else self.column.mean.slope

    @cached_property
    def normals(self) -> Tensor:
        """Magnitudes of the draws of noise; of the noise itself where it is the converter's alone."""
        found, code = draws.magnitudes(self.whole_cells.device), self.column.code
        return found if self.by_legs or code is None or code.noise is None else found * code.noise

    def constants(self, converters: Converters | None) -> tuple[Scale, Tensor, Tensor, Tensor, Tensor]:
        """(scale, factor, shift, gain, constant) of the converters: place = sum · factor + shift for each conversion,
        (G, NB, C, T, 16); y = total · gain + constant for each output, (G, NB, 16). Kept for a range seen before."""
        key = None
        if converters is None or not (converters.low.dim() or converters.step.dim()):
            key = None if converters is None else (float(converters.low), float(converters.step))
            if self.ranges.get("key", ...) == key:
                return self.ranges["value"]
        scale = Scale.of(self.column, converters, self.whole_cells.device)
        assert scale is not None  # what is not converted is refused
        value = (scale, *self._steps(scale), *self._totals(scale))
        if converters is None or key is not None:
            self.ranges.update(key=key, value=value)
        return value

    def _steps(self, scale: Scale) -> tuple[Tensor, Tensor]:
        layout = self.column.layout
        factor, shift = Analog(self.column, scale).steps
        unit = 1.0 if self.by_legs else self.column.unit
        shape = (layout.groups, layout.reads, layout.conversions, layout.outputs)
        return vectors((factor * unit).float().expand(shape)), vectors(shift.float().expand(shape))

    def _totals(self, scale: Scale) -> tuple[Tensor, Tensor]:
        column, layout = self.column, self.column.layout
        radix = sum(column.pass_radix) * sum(column.radix) * layout.reads
        low, step = scale.read
        return self.flat(step.float()), self.flat((low.double() * radix).float())

    def flat(self, value: Tensor) -> Tensor:
        """One value an output, broadcast from (G or 1, 1, 1, N or 1), as vectors (G, NB, 16)."""
        layout = self.column.layout
        return vectors(value.expand(layout.groups, 1, 1, layout.outputs)[:, :, 0]).squeeze(2)

    def outputs(self, value: Tensor | None) -> Tensor | None:
        """One value for all outputs, or one each (G·N,), as vectors (G, NB, 16)."""
        if value is None:
            return None
        layout, value = self.column.layout, value.detach().float()
        if layout.groups == 1 and layout.outputs % LANES == 0:
            return value.expand(layout.outputs).contiguous()
        return self.flat(value.view(layout.groups if value.dim() else 1, 1, 1, -1))


_lowered: WeakKeyDictionary[Column, Lowered] = WeakKeyDictionary()


def lowered(column: Column) -> Lowered:
    """The column as kernels read it, made at its first read."""
    found = _lowered.get(column)
    if found is None:
        found = _lowered[column] = Lowered(replace(with_cells(column)))  # a copy: a value must not hold its key
    return found
