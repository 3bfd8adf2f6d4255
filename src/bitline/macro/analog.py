"""From the sum in a column to the input of its converter: curve, frozen spread, fresh noise, converter errors.

``place`` is where a value falls on the converter's scale, half a step up: ``floor(place)`` is the code of a converter
with even steps, rounded half up. Without a converter a place is the value, in counts. All arithmetic is float32, one
rounding an operation (a place of a whole sum: one in all), in an order that kernels repeat bit for bit; float64 only
where sums need it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bitline.macro.column import Column
from bitline.macro.curves import Lookup
from bitline.macro.read import Converters

LARGEST_TABLE = 1 << 22  # entries of a table over whole sums, all columns of a layer


@dataclass(frozen=True)
class Scale:
    """The converter's scale: value = low + step · code; both broadcast over (G, 1, C, N)."""

    low: Tensor
    step: Tensor
    factor: Tensor | None = None  # of what is read, digital corrections apart

    @property
    def read(self) -> tuple[Tensor, Tensor]:
        """(low, step) of the digital side: as the converters', times the factor."""
        if self.factor is None:
            return self.low, self.step
        return self.low.double() * self.factor, self.step * self.factor.to(self.step.dtype)

    @staticmethod
    def of(column: Column, converters: Converters | None, device: torch.device) -> Scale | None:
        """That of a measured table, or of the converters, which must then be given; None where there are none."""
        if column.law is not None:
            return Scale(torch.tensor(column.law.low, device=device), torch.tensor(column.law.step, device=device))
        if column.code is None:
            return None
        if converters is None:
            raise ValueError(
                f"{column.site.name}: macro {column.macro.name} has a converter, whose range must be given"
            )
        view = (column.layout.groups, 1, 1, column.layout.outputs)

        def laid(value: Tensor) -> Tensor:
            value = value.detach().to(device)
            return value.view(view) if value.dim() else value

        factor = None if column.factor is None else laid(column.factor)
        return Scale(laid(converters.low), laid(converters.step), factor)


@dataclass(frozen=True)
class Analog:
    """The analog side of a column, for the row group ``t`` at a time."""

    column: Column
    scale: Scale | None

    @property
    def linear(self) -> bool:
        """Whether legs only subtract, so that they may be subtracted as cells."""
        c = self.column
        return c.mean is None and c.noise is None and c.spread is None and c.pattern is None

    @property
    def whole(self) -> bool:
        """Whether every sum is a whole number of counts."""
        c = self.column
        return c.unit == 1 and c.drive is None and c.macro.inputs is not None

    @cached_property
    def steps(self) -> tuple[Tensor, Tensor]:
        """(factor, shift), each (G, 1 or T, C or 1, N or 1) float64 of float32 precision: value · factor + shift."""
        assert self.scale is not None
        code = self.column.code
        low, step = self.scale.low.double(), self.scale.step.double()
        factor, shift = 1 / step, -low / step
        if code is not None and code.gain is not None:
            factor, shift = factor * code.gain, shift if code.about_zero else shift * code.gain
        if code is not None and code.offset is not None:
            shift = shift + code.offset
        shape = torch.broadcast_shapes(factor.shape, shift.shape, (1, 1, 1, 1))
        factor, shift = factor.expand(shape).float().double(), (shift.expand(shape) + 0.5).float().double()
        last = torch.exp2(factor.abs().log2().floor() - 23)  # bit of the factor: value · factor + shift is then exact
        return factor, (shift / last + 0.5).floor() * last

    def at(self, value: Tensor, t: int, exact: bool) -> tuple[Tensor, Tensor]:
        """(place, factor (G, 1, C, N) float32) of a value in row group ``t``; ``exact``: whole sums, rounded once."""
        factor, shift = self.steps
        rows = slice(t, t + 1) if factor.shape[1] > 1 else slice(0, 1)
        factor, shift = factor[:, rows], shift[:, rows]
        if exact or value.dtype == torch.float64:
            return (value.double() * factor).add_(shift).to(value.dtype), factor.float()
        return (value * factor.float()).add_(shift.float()), factor.float()

    def place(
        self, u: Tensor, t: int, extra: Tensor | None, pattern: Tensor | None = None, inner: Tensor | None = None
    ) -> tuple[Tensor, Tensor | float | None]:
        """(place (G, M, C, N), standard deviation of its noise) of sums ``u`` (G, M, C, L, N) in row group ``t``.

        ``extra``: variance of the cells' own noise, counts², broadcast over places, where they are noisy. ``pattern``:
        what pattern counts add to each leg's value, as ``u``, and ``inner`` to its sum, where the curve takes it.
        """
        column = self.column
        legs, variance = u, None
        if not self.linear:
            plain = legs = u.float()
            if inner is not None:
                legs = legs + inner.float()
            if column.spread is not None:
                legs = legs * column.spread.gain[:, t, None]
                legs += column.spread.offset[:, t, None]
            if column.mean is not None:
                legs = _read(column.mean, legs)
            if pattern is not None:
                legs = legs + pattern.float()
            if column.noise is not None:
                variance = _read(column.noise, plain).square_().sum(3)
        value = legs[:, :, :, 0] - legs[:, :, :, 1] if u.shape[3] == 2 else legs[:, :, :, 0]
        if extra is not None:
            variance = extra.expand_as(value) if variance is None else variance.add_(extra)
        return self._converted(value, None if variance is None else _root(variance), t)

    def _converted(self, value: Tensor, sigma: Tensor | None, t: int) -> tuple[Tensor, Tensor | float | None]:
        """Counts to converter steps, with the converter's own gain, offset and noise."""
        code = self.column.code
        if self.scale is None:
            return value, sigma
        place, factor = self.at(value, t, self.linear and sigma is None)
        if sigma is not None:
            sigma = sigma * factor
        if code is None or code.noise is None:
            return place, sigma
        noise = torch.tensor(code.noise, device=place.device)
        return place, code.noise if sigma is None else _root(sigma.square() + noise * noise)

    def tables(self) -> tuple[Tensor, Tensor | float | None, int] | None:
        """(place (T, G, C, N, sums), sigma alike, one number or absent, smallest sum) over all whole sums, where few.

        Then a read is a look-up; the entries are what ``place`` gives, so both ways agree bit for bit.
        """
        column, layout = self.column, self.column.layout
        macro = column.macro
        if column.cells is None or float(column.cells.min()) < 0 or float(column.cells.max()) > macro.level_high:
            return None  # cells hold more than their levels, so that sums leave the table
        low = -int(macro.full_scale) if macro.signed_leg else 0
        sums = int(macro.full_scale) - low + 1
        entries = sums * layout.groups * layout.reads * layout.conversions * layout.outputs
        legs = 1 if self.linear else layout.legs
        if (
            not self.whole
            or legs > 1
            or column.cell_variance is not None
            or column.variance is not None
            or entries > LARGEST_TABLE
            or not macro.sliced
            or column.pattern is not None
        ):
            return None
        if layout.legs > 1:  # subtracted as cells: sums of both signs
            low, sums = -int(macro.full_scale), 2 * int(macro.full_scale) + 1
        u = torch.arange(low, low + sums, dtype=torch.float32, device=column.wanted.device).view(1, -1, 1, 1, 1)
        u = u.expand(layout.groups, -1, layout.conversions, 1, layout.outputs)
        places: list[Tensor] = []
        sigmas: list[Tensor] = []
        sigma: Tensor | float | None = None
        for t in range(layout.reads):
            place, sigma = self.place(u, t, None)
            places.append(place.permute(0, 2, 3, 1))
            if isinstance(sigma, Tensor):
                sigmas.append(sigma.permute(0, 2, 3, 1))
        return torch.stack(places).float(), torch.stack(sigmas).float() if sigmas else sigma, low


def _root(value: Tensor) -> Tensor:
    """Square root, rightly rounded: torch's own of float32 may be off by the last bit."""
    return value.double().sqrt().to(value.dtype)


def _read(lookup: Lookup, u: Tensor) -> Tensor:
    node, fraction = lookup.place(u)
    return lookup.at(node, fraction)
