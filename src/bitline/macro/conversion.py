"""From sums to codes and their totals, in plain torch: what the reference plan does with each chunk of positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from bitline import draws
from bitline.macro.analog import Analog, Scale
from bitline.macro.cellnoise import CellVariances
from bitline.macro.column import Column
from bitline.macro.read import EXACT, Converters, Keep, Output, Probe, noise_vectors, noise_words, weight
from bitline.macro.sums import Convolved, Gathered


class Reader:
    """One layer's columns, ready to be read chunk by chunk."""

    def __init__(
        self, column: Column, converters: Converters | None, keep: Keep, probe: Probe | None, device: torch.device
    ) -> None:
        macro, layout = column.macro, column.layout
        assert column.cells is not None
        self.column, self.keep, self.probe = column, keep, probe
        self.passes, self.conversions = column.pass_radix, column.radix
        self.words = layout.groups * layout.reads * noise_words(column)  # of noise for one position
        self.scale = Scale.of(column, converters, device)
        self.analog = Analog(column, self.scale if column.code is not None else None)
        self.ideal_column = replace(column, code=None)  # converters without gain and offset errors
        self.draws = column.noisy
        self.rounds = converters is None or converters.rounds
        self.bounded = converters is None or converters.clips
        self.clips = column.code is not None and self.bounded
        self.clipped = False  # whether a conversion was
        whole_rows = macro.inputs is not None and column.drive is None
        subtracted = layout.legs == 2 and self.analog.linear
        cells = column.cells[..., :1, :] - column.cells[..., 1:, :] if subtracted else column.cells
        bound = layout.active_rows * macro.digit_high * float(cells.abs().max()) if cells.numel() else 0
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
        self.cells = cells.flatten(3).to(self.sums)  # G T R C·L·N
        self.legs = cells.shape[4]
        codes = probe is not None and probe.wants_codes
        noisy_cells = column.cell_variance is not None or column.variance is not None
        self.needs_rows = noisy_cells or column.pattern is not None or codes
        self.variances = CellVariances.of(column)
        wants = probe is not None and probe.wants_codes
        self.ideal = _ideal_cells(column).to(self.sums) if wants or column.pattern is not None else None
        self.shows = wants
        self.each: Callable[[int, Tensor], None] | None = None  # is given the slopes (G, P, m, C, N) of row group t

    def read(self, found: Gathered | Convolved, m: int, keys: Tensor | None) -> Output:
        """Sums of ``m`` positions, all passes of them, through all row groups: (m, G·N)."""
        layout, device = self.column.layout, self.cells.device
        p = len(self.passes)
        g, n, c = layout.groups, layout.outputs, layout.conversions
        shape = (g, p, m, c, n)
        total = torch.zeros(g, m, c, n, dtype=self.total, device=device)
        coded = self.column.code is not None
        outside, slope, step = (
            torch.zeros(g, m, c, n, device=device) if wanted else None
            for wanted in (self.keep.inside and self.clips, self.keep.slope, self.keep.step and coded)
        )
        for t in range(layout.reads):
            rise: Tensor | None = None
            clipped = place = None
            if self.column.law is not None:
                code, rise = self._drawn(found.sums(t), t, self._counters(keys, t))
            else:
                place, rise = self._places(found, t, keys)
                if self.probe is not None:
                    self.probe.values(place if self.column.code is None else place - 0.5)
                code = place if self.column.code is None else self._coded(place, t)
                if self.clips and (outside is not None or slope is not None or step is not None):
                    assert self.column.code is not None
                    clipped = (place < 0) | (place >= self.column.code.most + 1)
            if self.shows and isinstance(found, Gathered):
                self._show(code, place, found.digits(t), t)
            if self.column.code is not None and self.column.code.values is not None:
                code = self._valued(code)
            if step is not None and place is not None and self.scale is not None:
                value = code - (place - 0.5)
                if clipped is not None:  # the first code's value moves with the step: zero stays on its code
                    value = torch.where(clipped, code + (self.scale.low / self.scale.step).float(), value)
                self._add(step, value.float().view(shape))
            if outside is not None and clipped is not None and bool(clipped.any()):
                self.clipped = True
                self._add(outside, clipped.float().view(shape), magnitude=True)
            if slope is not None:
                each = torch.ones_like(code, dtype=torch.float32) if rise is None else rise
                each = each if clipped is None else torch.where(clipped, 0.0, each)
                if self.each is not None:
                    self.each(t, each.view(shape))
                self._add(slope, each.view(shape), magnitude=True)
            self._add(total, code.view(shape))
        out = Output(self._flat(self._scaled(self._merged(total))))
        if outside is not None:
            out.inside = self._flat(1 - self._merged(outside, magnitude=True) / weight(self.column))
        if slope is not None:
            out.slope = self._flat(self._merged(slope, magnitude=True) / weight(self.column))
        if step is not None:
            by_step = self._merged(step)
            factor = self.column.factor
            out.step = self._flat(by_step if factor is None else by_step * self._per_output(factor).float())
        return out

    def _places(self, found: Gathered | Convolved, t: int, keys: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(where each conversion falls on the converter's scale, noise included, mean read slope where wanted and not
        1), each (G, P·m, C, N)."""
        u = found.sums(t)
        pattern, inner = (
            self._pattern(found.digits(t), t, table) if isinstance(found, Gathered) else None
            for table in (self.column.pattern, self.column.inner)
        )
        slope = self._slope(u, t, inner) if self.keep.slope and self.column.mean is not None else None
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
            extra = self._cell_noise(found.driven(t), t) if isinstance(found, Gathered) else None
            u = u.mul_(self.column.unit) if self.column.unit != 1 else u
            place, sigma = self.analog.place(u, t, extra, pattern, inner)
        if sigma is not None:
            noise = self._by_conversion(draws.read_normals(self._counters(keys, t)))
            place = place + noise * sigma
        return place, slope

    def _cell_noise(self, driven: Tensor, t: int) -> Tensor | None:
        """Variance of the cells' noise, counts², for rows driven by ``driven`` (G, M, R): (G, M, C or 1, N or 1)."""
        column = self.column
        if self.variances is not None:
            return self.variances.at(driven, t)
        if column.cell_variance is None:
            return None
        power = driven.square().sum(-1).float() * (column.cell_variance * len(column.macro.leg_signs))
        return power[:, :, None, None]

    def _pattern(self, x: Tensor, t: int, table: Tensor | None) -> Tensor | None:
        """What pattern counts of ``table`` add (G, M, C, L, N) float64, for digits ``x`` (G, M, rows on)."""
        if table is None:
            return None
        assert self.ideal is not None
        layout, rows = self.column.layout, x.shape[2]
        held = self.ideal[:, t, :rows].flatten(2)  # G R CLN
        row, digit = torch.arange(rows, device=x.device), x.long()
        total = torch.zeros(len(x), x.shape[1], held.shape[2], dtype=torch.float64, device=x.device)
        for level in range(table.shape[1]):
            total += torch.bmm(table[row, level, digit], (held == level).double())
        return total.view(len(x), -1, layout.conversions, layout.legs, layout.outputs)

    def _slope(self, u: Tensor, t: int, inner: Tensor | None) -> Tensor:
        """Mean slope of the legs' curve at sums ``u`` (G, M, C, L, N) and inner pattern counts: (G, M, C, N)."""
        mean, spread = self.column.mean, self.column.spread
        assert mean is not None
        legs = (u * self.column.unit).float()
        legs = legs if inner is None else legs + inner.float()
        if spread is not None:
            legs = (legs * spread.gain[:, t, None]).add_(spread.offset[:, t, None])
        slopes = mean.slope.index_select(0, mean.place(legs)[0]).view_as(legs)
        return slopes[:, :, :, 0] if u.shape[3] == 1 else (slopes[:, :, :, 0] + slopes[:, :, :, 1]) * 0.5

    def _counters(self, keys: Tensor | None, t: int) -> Tensor:
        """Noise counters of row group ``t``: (G, m, words), SplitMix64 states."""
        assert keys is not None
        groups, each = self.column.layout.groups, noise_words(self.column)
        place = torch.arange(t * groups * each, (t + 1) * groups * each, device=keys.device).view(groups, 1, each)
        return place.mul_(draws.GOLDEN) + keys.view(1, -1, 1)

    def _by_conversion(self, drawn: Tensor) -> Tensor:
        """Draws (G, m, …) in the order of vectors, (C, blocks of outputs, P) of 16 each, as (G, P·m, C, N)."""
        layout, p = self.column.layout, len(self.passes)
        drawn = drawn[:, :, : noise_vectors(self.column) * draws.LANES]
        each = drawn.view(*drawn.shape[:2], layout.conversions, -1, p, draws.LANES).permute(0, 4, 1, 2, 3, 5)
        return each.flatten(4)[..., : layout.outputs].flatten(1, 2)

    def _coded(self, place: Tensor, t: int) -> Tensor:
        """Codes of a converter, half up."""
        code_of = self.column.code
        assert code_of is not None
        if code_of.thresholds is None:
            code = place.floor() if self.rounds else place - 0.5
        else:
            code = self._thresholded(place, t)
            if not self.bounded:
                outside = (place < 0) | (place >= code_of.most + 1)
                code = torch.where(outside, place.floor() if self.rounds else place - 0.5, code)
        return code.clamp(0, code_of.most) if self.bounded else code

    def _thresholded(self, place: Tensor, t: int) -> Tensor:
        """Codes by each converter's own thresholds; between them by straight lines where nothing is rounded."""
        code_of = self.column.code
        assert code_of is not None
        assert code_of.thresholds is not None
        which = code_of.which[:, t] if code_of.which is not None else None  # G C N
        edges = (code_of.thresholds[0] if which is None else code_of.thresholds[which]) + 0.5
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
        return Analog(self.ideal_column, self.scale).at(value, 0, exact=True)[0]

    def _drawn(self, u: Tensor, t: int, counters: Tensor) -> tuple[Tensor, Tensor | None]:
        """Codes drawn from the measured table, and its slopes where wanted: (G, P·m, C, N)."""
        law = self.column.law
        assert law is not None
        place = self._ideal_place(u).floor_()
        ideal = place.clamp(0, law.ideal_codes - 1).long()
        row = ideal if law.which is None else ideal + law.which[:, t, None] * law.ideal_codes
        rest = 32 - law.bits
        draw = self._by_conversion(draws.read_words(counters))
        drawn_bin = draw >> rest
        word = torch.take(law.words, (row << law.bits) + drawn_bin).long()
        low = (1 << rest) - 1
        own = (draw & low) < (word >> law.bits & low)
        code = torch.where(own, drawn_bin, word & (1 << law.bits) - 1).to(self.total)
        if not self.keep.slope:
            return code, None
        rise = torch.take(law.slope, row)
        if self.keep.drawn:
            rise = rise + torch.take(law.stretch, row) * (code - torch.take(law.mean, row))
        if self.keep.drawn or self.each is not None:
            rise = torch.where((place < 0) | (place >= law.ideal_codes), 0.0, rise)
        return code, rise

    def _show(self, code: Tensor, place: Tensor | None, x: Tensor, t: int) -> None:
        """Hand the probe the codes beside those of ideal cells, column and converter."""
        assert self.ideal is not None
        assert self.probe is not None
        if self.scale is None:
            return
        layout, held = self.column.layout, self.ideal[:, t, : x.shape[2]]
        self.probe.columns(x, held)
        u = torch.bmm(x, held.flatten(2))
        place_of_ideal = self._ideal_place(u.view(len(x), -1, layout.conversions, layout.legs, layout.outputs))
        code_of, law = self.column.code, self.column.law
        most = code_of.most if code_of is not None else law.ideal_codes - 1 if law is not None else 0
        if code_of is not None and code_of.values is not None:
            edges = (code_of.values[1:] + code_of.values[:-1]) / 2 + 0.5
            ideal = torch.searchsorted(edges, place_of_ideal.float(), right=True).to(code.dtype)
            self.probe.errors(self._valued(code) - self._valued(ideal))
        else:
            ideal = place_of_ideal.floor().clamp(0, most)
            self.probe.errors(code - ideal)
        seen = place_of_ideal if place is None else place
        self.probe.codes(code, (seen < 0) | (seen >= most + 1), ideal)

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
            factor = self.column.factor
            return total if factor is None else total * self._per_output(factor).to(total.dtype)
        low, step = (v.view(v.shape[0], 1, -1) if v.dim() else v for v in self.scale.read)
        constant = low.double() * (sum(self.passes) * sum(self.conversions) * self.column.layout.reads)
        if bool((step != 1).any()):
            total = total.mul_(step.to(total.dtype))
        return total.add_(constant.to(total.dtype)) if bool((constant != 0).any()) else total

    def _per_output(self, value: Tensor) -> Tensor:
        """One value, or one an output (G·N,), over (G, m, N)."""
        return value.view(self.column.layout.groups, 1, -1) if value.dim() else value

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
