"""The reference plan: the machine in plain torch, slow and clear, and the oracle of the others.

Work is cut into chunks of positions that stay in the cache, and into row groups: no tensor ever spans digits × tiles ×
outputs of a batch. Sums of codes are exact: float32 while every partial sum stays below 2^24, else float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bitline import draws
from bitline.macro.analog import Analog, Scale
from bitline.macro.column import Column
from bitline.macro.geometry import Conv, Geometry
from bitline.macro.program import with_cells
from bitline.macro.sums import Convolved, Gathered, convolved, kernel

CHUNK = 1 << 17  # conversions held at once
EXACT = 1 << 24  # float32 counts whole numbers up to here


@dataclass(frozen=True)
class Converters:
    """Range of one layer's converters, value = low + step · code: 0-d, or one for each output (G·N,).

    Converters that do not round, or do not clip, exist only to ask what rounding and clipping cost.
    """

    low: Tensor
    step: Tensor
    rounds: bool = True
    clips: bool = True


@dataclass(frozen=True)
class Keep:
    """What a backward pass wants of the forward, for each output."""

    inside: bool = False  # share of conversions (by radix) that were not clipped
    step: bool = False  # derivative with respect to the converter's step


@dataclass
class Output:
    """Read-out of a batch: (B, positions, G·N), float32, or float64 where float32 could not hold it exactly."""

    y: Tensor
    inside: Tensor | None = None
    step: Tensor | None = None


class Probe:
    """Looks at every conversion of a run. This one looks at nothing."""

    wants_codes = False

    def values(self, v: Tensor) -> None:
        """What converters see: places (G, P·m, C, N), counts where there is no converter."""

    def errors(self, error: Tensor) -> None:
        """Value of the code read less that of the ideal code, in converter steps; where codes are wanted."""

    def codes(self, code: Tensor, clipped: Tensor, ideal: Tensor) -> None:
        """Codes read, whether the value lay outside the range, and the codes of ideal cells and converters."""


def run(
    x: Tensor,
    column: Column,
    geometry: Geometry,
    keys: Tensor | None,
    converters: Converters | None = None,
    keep: Keep = Keep(),
    probe: Probe | None = None,
) -> Output:
    """Read ``x`` (integer-valued codes, padded, in the layer's layout) through ``column``.

    ``keys``: one int64 key a sample (``Reads.keys``) for the fresh noise, needed where the column has any;
    ``converters``: needed where the macro has a converter.
    """
    column = with_cells(column)
    reader = _Reader(column, converters, keep, probe, x.device)
    layout = column.layout
    outputs = layout.groups * layout.outputs
    positions = 1
    for extent in geometry.shape(x, outputs)[:-1]:
        positions *= extent
    out = Output(torch.empty(len(x), positions, outputs, dtype=reader.total, device=x.device))
    if keep.inside and reader.clips:
        out.inside = torch.empty(out.y.shape, device=x.device)
    if keep.step:
        out.step = torch.empty(out.y.shape, device=x.device)
    if keys is None and reader.draws:
        raise ValueError(f"{column.site.name}: the macro has fresh noise; say which samples are read")
    for samples, part, sums in _chunks(x, reader, geometry, positions):
        row_keys = None if keys is None or not reader.draws else _row_keys(keys[samples], part, positions, reader.words)
        found = reader.read(sums, (samples.stop - samples.start) * (part.stop - part.start), row_keys)
        for whole, piece in ((out.y, found.y), (out.inside, found.inside), (out.step, found.step)):
            if whole is not None and piece is not None:
                whole[samples, part] = piece.view(whole[samples, part].shape)
    out.y = _corrected(out.y, x, column, geometry)
    return out


def _corrected(y: Tensor, x: Tensor, column: Column, geometry: Geometry) -> Tensor:
    """The digital corrections of offset codes: Σx times a constant, and a constant times the stored weights' sum."""
    layout = column.layout
    if column.input_constant:
        ones = x.new_ones(layout.groups, layout.inputs, dtype=torch.float64)
        sums = geometry.linear(x.double(), ones) * column.input_constant  # of each group
        sums = sums.movedim(geometry.channel, -1).flatten(1, -2)
        y = y + sums.repeat_interleave(layout.outputs, dim=-1)
    if column.weight_constant:
        stored = column.wanted.detach().double().sum(1) - column.input_constant * layout.inputs
        y = y + column.weight_constant * stored
    return y


def _chunks(
    x: Tensor, reader: _Reader, geometry: Geometry, positions: int
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


def _row_keys(keys: Tensor, part: slice, positions: int, words: int) -> Tensor:
    """First noise counter of each row (sample, position): (m,) int64."""
    place = torch.arange(part.start, part.stop, device=keys.device) * words
    return (keys[:, None] + place * draws.GOLDEN).flatten()


class _Reader:
    """One layer's columns, ready to be read chunk by chunk."""

    def __init__(
        self, column: Column, converters: Converters | None, keep: Keep, probe: Probe | None, device: torch.device
    ) -> None:
        macro, layout = column.macro, column.layout
        assert column.cells is not None
        self.column, self.keep, self.probe = column, keep, probe
        self.passes, self.conversions = column.pass_radix, column.radix
        self.lane = (layout.outputs + 3) // 4  # words of noise for the outputs of one conversion
        self.words = layout.groups * layout.reads * len(self.passes) * len(self.conversions) * self.lane
        self.scale = self._scale(converters, device)
        self.analog = Analog(column, self.scale if column.code is not None else None)
        self.draws = not self.analog.quiet or column.law is not None
        self.rounds = converters is None or converters.rounds
        self.bounded = converters is None or converters.clips
        self.clips = column.code is not None and self.bounded
        bound = layout.active_rows * macro.digit_high * float(column.cells.abs().max()) if column.cells.numel() else 0
        whole_rows = macro.inputs is not None and column.drive is None
        self.sums = torch.float32 if whole_rows and bound < EXACT else torch.float64
        if column.law is not None:
            most = float(column.law.codes)
        else:
            most = float(column.code.most) if column.code is not None else macro.full_scale
        whole_codes = column.code is not None and column.code.values is None and self.rounds and self.bounded
        coded = whole_codes or column.law is not None
        radix = sum(map(abs, self.passes)) * sum(map(abs, self.conversions))
        integers = coded or (self.analog.whole and self.analog.linear)
        self.total = torch.float32 if integers and radix * layout.reads * most < EXACT else torch.float64
        self.tables = self.analog.tables() if column.law is None else None
        subtracted = layout.legs == 2 and self.analog.linear
        cells = column.cells[..., :1, :] - column.cells[..., 1:, :] if subtracted else column.cells
        self.cells = cells.flatten(3).to(self.sums)  # G T R C·L·N
        self.legs = cells.shape[4]
        self.needs_rows = column.cell_variance is not None or (probe is not None and probe.wants_codes)
        self.ideal = _ideal_cells(column).to(self.sums) if probe is not None and probe.wants_codes else None

    def _scale(self, converters: Converters | None, device: torch.device) -> Scale | None:
        column, layout = self.column, self.column.layout
        if column.law is not None:
            return Scale(torch.tensor(column.law.low, device=device), torch.tensor(column.law.step, device=device))
        if column.code is None:
            return None
        if converters is None:
            raise ValueError(
                f"{column.site.name}: macro {column.macro.name} has a converter, whose range must be given"
            )
        view = (layout.groups, 1, 1, layout.outputs)
        low, step = (v.detach().to(device) for v in (converters.low, converters.step))
        return Scale(low.view(view) if low.dim() else low, step.view(view) if step.dim() else step)

    def read(self, found: Gathered | Convolved, m: int, keys: Tensor | None) -> Output:
        """Sums of ``m`` positions, all passes of them, through all row groups: (m, G·N)."""
        layout, device = self.column.layout, self.cells.device
        p = len(self.passes)
        g, n, c = layout.groups, layout.outputs, layout.conversions
        shape = (g, p, m, c, n)
        total = torch.zeros(g, m, c, n, dtype=self.total, device=device)
        outside = torch.zeros(g, m, c, n, device=device) if self.keep.inside and self.clips else None
        slope = torch.zeros(g, m, c, n, device=device) if self.keep.step else None
        for t in range(layout.reads):
            if self.column.law is not None:
                code, place = self._drawn(found.sums(t), t, self._counters(keys, t)), None
            else:
                place = self._places(found, t, keys)
                if self.probe is not None:
                    self.probe.values(place)
                code = place if self.column.code is None else self._coded(place, t)
            clipped = None
            if place is not None and self.column.code is not None and (outside is not None or self.keep.step):
                clipped = (place < -0.5) | (place >= self.column.code.most + 0.5)
            if self.ideal is not None and isinstance(found, Gathered):
                self._show(code, place, found.digits(t), t)
            if self.column.code is not None and self.column.code.values is not None:
                code = self._valued(code)
            if slope is not None and place is not None and clipped is not None and self.scale is not None:
                zero = (self.scale.low / self.scale.step).float()  # low moves with the step: zero stays on its code
                self._add(slope, torch.where(clipped, code + zero, code - place).float().view(shape))
            if outside is not None and clipped is not None and bool(clipped.any()):
                self._add(outside, clipped.float().view(shape), magnitude=True)
            self._add(total, code.view(shape))
        out = Output(self._flat(self._scaled(self._merged(total))))
        if outside is not None:
            weight = sum(map(abs, self.passes)) * sum(map(abs, self.conversions)) * layout.reads
            out.inside = self._flat(1 - self._merged(outside, magnitude=True) / weight)
        if slope is not None:
            out.step = self._flat(self._merged(slope))
        return out

    def _places(self, found: Gathered | Convolved, t: int, keys: Tensor | None) -> Tensor:
        """Where each conversion falls on the converter's scale, noise included: (G, P·m, C, N)."""
        u = found.sums(t)
        if self.tables is not None:
            places, sigmas, low = self.tables
            sums = places.shape[-1]
            first = torch.arange(places[t].numel() // sums, device=u.device, dtype=torch.int32) * sums - low
            index = u.squeeze(3).to(torch.int32).add_(first.view(len(u), 1, *places.shape[2:4]))
            place = places[t].flatten().index_select(0, index.flatten()).view_as(index)
            sigma = sigmas
            if isinstance(sigmas, Tensor):
                sigma = sigmas[t].flatten().index_select(0, index.flatten()).view_as(index)
        else:
            driven = None
            if self.column.cell_variance is not None and isinstance(found, Gathered):
                driven = found.driven(t).square().sum(-1)
            place, sigma = self.analog.place(u.mul_(self.column.unit) if self.column.unit != 1 else u, t, driven)
        if sigma is None:
            return place
        noise = draws.read_normals(self._counters(keys, t)).view(*place.shape[:-1], -1)[..., : place.shape[-1]]
        if isinstance(sigma, float):
            return place.add_(noise, alpha=sigma)
        return place.addcmul_(noise, sigma) if place.dtype == noise.dtype else place + noise * sigma

    def _counters(self, keys: Tensor | None, t: int) -> Tensor:
        """Noise counters of row group ``t``: (G, P, m, C, words), SplitMix64 states."""
        assert keys is not None
        groups, p, c = self.column.layout.groups, len(self.passes), len(self.conversions)
        each = groups * p * c * self.lane
        place = torch.arange(t * each, (t + 1) * each, device=keys.device).view(groups, p, 1, c, self.lane)
        return place.mul_(draws.GOLDEN) + keys.view(1, 1, -1, 1, 1)

    def _coded(self, place: Tensor, t: int) -> Tensor:
        """Codes of a converter, half up."""
        code_of = self.column.code
        assert code_of is not None
        if code_of.thresholds is None:
            code = (place + 0.5).floor_() if self.rounds else place
        else:
            code = self._thresholded(place, t)
            if not self.bounded:
                outside = (place < -0.5) | (place >= code_of.most + 0.5)
                code = torch.where(outside, (place + 0.5).floor() if self.rounds else place, code)
        return code.clamp(0, code_of.most) if self.bounded else code

    def _thresholded(self, place: Tensor, t: int) -> Tensor:
        """Codes by each converter's own thresholds; between them by straight lines where nothing is rounded."""
        code_of = self.column.code
        assert code_of is not None
        assert code_of.thresholds is not None
        which = code_of.which[:, t] if code_of.which is not None else None  # G C N
        edges = code_of.thresholds[0] if which is None else code_of.thresholds[which]
        columns = place.float() if which is None else place.float().permute(0, 2, 3, 1).contiguous()  # G C N rows
        code = torch.searchsorted(edges, columns, right=True)
        if not self.rounds:
            code = self._between(columns, edges, code)
        return (code if which is None else code.permute(0, 3, 1, 2)).to(place.dtype)

    @staticmethod
    def _between(value: Tensor, edges: Tensor, code: Tensor) -> Tensor:
        """Codes as if the converter had infinitely many between its thresholds ``edges``, a step wide beyond them."""
        last = edges.shape[-1] - 1
        wide = edges.expand(*value.shape[:-1], -1)
        low = wide.gather(-1, (code - 1).clamp(0, last))
        high = wide.gather(-1, code.clamp(0, last))
        inner = code - 0.5 + (value - low) / (high - low).clamp(min=1e-6)
        return torch.where(code == 0, value - high + 0.5, torch.where(code > last, code - 0.5 + value - low, inner))

    def _valued(self, code: Tensor) -> Tensor:
        """Values (LSB) of codes of a converter with uneven levels; straight lines between and beyond them."""
        assert self.column.code is not None
        values = self.column.code.values
        assert values is not None
        left = code.floor().clamp(0, len(values) - 2).long()
        return values[left] + (values[left + 1] - values[left]) * (code - left)

    def _ideal_place(self, u: Tensor) -> Tensor:
        """Place of the ideal sum of all legs."""
        value = u[:, :, :, 0] - u[:, :, :, 1] if u.shape[3] == 2 else u[:, :, :, 0]
        if self.scale is None:
            return value
        return (value - self.scale.low.to(value.dtype)) / self.scale.step.to(value.dtype)

    def _drawn(self, u: Tensor, t: int, counters: Tensor) -> Tensor:
        """Codes drawn from the measured table: inverse CDF by bisection."""
        law = self.column.law
        assert law is not None
        ideal = (self._ideal_place(u) + 0.5).floor_().clamp_(0, law.ideal_codes - 1).long()
        if law.which is not None:
            ideal = ideal + law.which[:, t, None] * law.ideal_codes
        width = law.cumulative.shape[1]
        halves = torch.stack([counters, counters + ((1 << 62) + 1)], dim=-1).flatten(-2)
        draw = draws.read_uniforms(halves).view(*ideal.shape[:-1], -1)[..., : ideal.shape[-1]]
        table, row = law.cumulative.view(-1), ideal * width
        code = torch.zeros_like(row)
        half = width >> 1
        while half:
            code += (torch.take(table, row + code + (half - 1)) <= draw) * half
            half >>= 1
        return code.to(self.total)

    def _show(self, code: Tensor, place: Tensor | None, x: Tensor, t: int) -> None:
        """Hand the probe the codes beside those of ideal cells, column and converter."""
        assert self.ideal is not None
        assert self.probe is not None
        if self.scale is None:
            return
        layout = self.column.layout
        u = torch.bmm(x, self.ideal[:, t, : x.shape[2]].flatten(2))
        place_of_ideal = self._ideal_place(u.view(len(x), -1, layout.conversions, layout.legs, layout.outputs))
        code_of, law = self.column.code, self.column.law
        most = code_of.most if code_of is not None else law.ideal_codes - 1 if law is not None else 0
        if code_of is not None and code_of.values is not None:
            edges = (code_of.values[1:] + code_of.values[:-1]) / 2
            ideal = torch.searchsorted(edges, place_of_ideal.float(), right=True).to(code.dtype)
            self.probe.errors(self._valued(code) - self._valued(ideal))
        else:
            ideal = (place_of_ideal + 0.5).floor().clamp(0, most)
            self.probe.errors(code - ideal)
        seen = place_of_ideal if place is None else place
        self.probe.codes(code, (seen < -0.5) | (seen >= most + 0.5), ideal)

    def _add(self, total: Tensor, code: Tensor, magnitude: bool = False) -> None:
        """total (G, m, C, N) += Σ_p radix_p · code (G, P, m, C, N)."""
        code = code.to(total.dtype)
        for p, radix in enumerate(self.passes):
            total.add_(code[:, p], alpha=abs(radix) if magnitude else radix)

    def _merged(self, total: Tensor, magnitude: bool = False) -> Tensor:
        """Σ_c radix_c · total (G, m, C, N): (G, m, N)."""
        merged = total[:, :, 0] * (abs(self.conversions[0]) if magnitude else self.conversions[0])
        for c, radix in enumerate(self.conversions[1:], 1):
            merged.add_(total[:, :, c], alpha=abs(radix) if magnitude else radix)
        return merged

    def _scaled(self, total: Tensor) -> Tensor:
        """Summed codes to counts: step · Σ radix · code + low · Σ radix."""
        if self.scale is None:
            return total
        step, low = (v.view(v.shape[0], 1, -1) if v.dim() else v for v in (self.scale.step, self.scale.low))
        constant = low.double() * (sum(self.passes) * sum(self.conversions) * self.column.layout.reads)
        if bool((step != 1).any()):
            total = total.mul_(step.to(total.dtype))
        return total.add_(constant.to(total.dtype)) if bool((constant != 0).any()) else total

    @staticmethod
    def _flat(per_group: Tensor) -> Tensor:
        """(G, m, N) to (m, G·N)."""
        return per_group.permute(1, 0, 2).reshape(per_group.shape[1], -1)


def _ideal_cells(column: Column) -> Tensor:
    """Cells as the weights asked for: (G, T, R, C, L, N)."""
    scheme = column.macro.weights
    wanted = column.wanted.detach()
    levels = scheme.levels(wanted) if scheme is not None and column.macro.sliced else wanted[None, None]
    return column.layout.scatter(levels)
