"""What every plan is given beside the column, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bitline.macro.column import Column
from bitline.macro.geometry import Geometry

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
    slope: bool = False  # mean read slope of the conversions (by radix), 0 where clipped
    step: bool = False  # derivative with respect to the converter's step
    drawn: bool = False  # the slope is that of the codes drawn, not of their mean; reference plan


@dataclass
class Output:
    """Read-out of a batch: (B, positions, G·N), float32, or float64 where float32 could not hold it exactly.

    ``inside`` is absent where nothing was clipped.
    """

    y: Tensor
    inside: Tensor | None = None
    slope: Tensor | None = None
    step: Tensor | None = None

    @property
    def keeps(self) -> Keep:
        """What there is beside y."""
        return Keep(self.inside is not None, self.slope is not None, self.step is not None)


class Probe:
    """Looks at every conversion of a run, by the reference plan. This one looks at nothing."""

    wants_codes = False

    def columns(self, x: Tensor, held: Tensor) -> None:
        """What meets in the conversions whose codes come next: digits of the rows on (G, P·m, R), and the levels that
        their cells were asked to hold (G, R, C, L, N); where codes are wanted."""

    def values(self, v: Tensor) -> None:
        """What converters see: places (G, P·m, C, N) in LSB, counts where there is no converter."""

    def errors(self, error: Tensor) -> None:
        """Value of the code read less that of the ideal code, in converter steps; where codes are wanted."""

    def codes(self, code: Tensor, clipped: Tensor, ideal: Tensor) -> None:
        """Codes read, whether the value lay outside the range, and the codes of ideal cells and converters."""


def noise_vectors(column: Column) -> int:
    """Vectors of 16 conversions at one position in one row group: (C, blocks of outputs, P), P fastest."""
    return len(column.radix) * -(-column.layout.outputs // 16) * len(column.pass_radix)


def noise_words(column: Column) -> int:
    """64-bit random words for one position in one row group: half a word a vector, eight where codes are drawn."""
    vectors = noise_vectors(column)
    return 8 * vectors if column.law is not None else -(-vectors // 2)


def weight(column: Column) -> int:
    """Sum of the magnitudes of the radices of all conversions of an output."""
    return sum(map(abs, column.pass_radix)) * sum(map(abs, column.radix)) * column.layout.reads


def corrected(y: Tensor, x: Tensor, column: Column, geometry: Geometry) -> Tensor:
    """``y`` (B, positions, G·N), written over, with the digital corrections of offset codes: Σx times a constant, and a
    constant times Σ of stored weights."""
    layout, macro = column.layout, column.macro
    if not (column.input_constant or column.weight_constant):
        return y
    assert macro.inputs is not None
    assert macro.weights is not None
    largest = max(-macro.weights.low, macro.weights.high) + abs(column.input_constant)
    most = layout.inputs * max(-macro.inputs.low, macro.inputs.high, abs(column.weight_constant)) * largest
    y = y if most < EXACT else y.double()
    if column.input_constant:
        sums = geometry.row_sums(x.to(y.dtype)) * column.input_constant  # of each group
        y.unflatten(-1, (layout.groups, -1)).add_(sums[..., None])
    if column.weight_constant:
        stored = column.wanted.detach().double().sum(1) - column.input_constant * layout.inputs
        y.add_((column.weight_constant * stored).to(y.dtype))
    return y
