"""Integers to digits and back: the exact part of a compute-in-memory macro.

Inputs are driven digit by digit, one *pass* after another; weights are spread over cells, one *conversion* (column
read) a digit. A scheme says how a signed integer becomes non-negative digits and how the read-outs are added up again:

    x = Σ_p radix[p] · digit_p + constant
    w = Σ_c radix[c] · Σ_ℓ signs[c][ℓ] · level_{c,ℓ} + input_constant

so that Σ_k x_k w_k is a sum of column reads plus two digital corrections: ``constant`` · Σ_k w_k (known weights) and
``input_constant`` · Σ_k x_k (a digital sum of the input codes). Everything here is exact for 1 to 16 bits.

A row that is *off* has digit 0 in every pass and takes part in no correction. The code 0 of an offset input is *on*:
it is driven as the digits of 2^(bits-1).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

Bits = Annotated[int, Field(ge=1, le=16)]


def cut(magnitude: Tensor, bits: int, width: int) -> Tensor:
    """Non-negative integers of ``bits`` to digits of ``width`` bits, lowest first: (digits, *shape)."""
    if width >= bits:
        return magnitude[None]
    integers, mask = magnitude.to(torch.int32), (1 << width) - 1
    return torch.stack([(integers >> shift) & mask for shift in range(0, bits, width)]).to(magnitude.dtype)


class Scheme(BaseModel):
    """What input and weight schemes share: a range of integers, walked in steps of ``stride``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    @abstractmethod
    def low(self) -> int:
        """Smallest integer."""

    @property
    @abstractmethod
    def high(self) -> int:
        """Largest integer."""

    @property
    def stride(self) -> int:
        """Distance between neighbouring integers: 1, or 2 where only odd numbers exist."""
        return 1

    def check(self, values: Tensor, what: str) -> None:
        """Raise ValueError naming the first value that is NaN, not on the grid, or outside [low, high]."""
        bad = ~((values >= self.low) & (values <= self.high) & (torch.remainder(values - self.low, self.stride) == 0))
        if bool(bad.any()):
            first = bad.nonzero()[0].tolist()
            step = f" in steps of {self.stride}" if self.stride > 1 else ""
            raise ValueError(
                f"{what}{first} = {values[tuple(first)].item():g} is not an integer in "
                f"[{self.low}, {self.high}]{step}, the range of {self!r}"
            )


class Word(NamedTuple):
    """An input integer as a word whose bit fields are its digits: x + above for x ≥ 0, else (sign · x << left) + below.

    Field p, (word >> shift) & mask, is digit p less ``digit_low``.
    """

    bits: int
    fields: tuple[tuple[int, int], ...]  # (shift, mask) of each pass
    above: int = 0
    below: int = 0
    sign: int = 1
    left: int = 0


def fields(bits: int, width: int, start: int = 0) -> tuple[tuple[int, int], ...]:
    """Bit fields of ``width`` that cover ``bits`` bits from bit ``start`` on: (shift, mask), lowest first."""
    return tuple((start + low, (1 << min(width, bits - low)) - 1) for low in range(0, bits, width))


class Input(Scheme):
    """How input integers are driven on the word lines."""

    bits: Bits
    digit_bits: Bits = Field(default=1, description="bits driven at once: 1 is bit-serial, `bits` all at once")

    @model_validator(mode="after")
    def _digit_fits(self) -> Input:
        if self.digit_bits > self.bits:
            raise ValueError(f"inputs.digit_bits = {self.digit_bits} exceeds inputs.bits = {self.bits}")
        return self

    @property
    def magnitude_bits(self) -> int:
        """Bits that are cut into digits of ``digit_bits``."""
        return self.bits

    @property
    def radix(self) -> tuple[int, ...]:
        """Weight of each pass."""
        return tuple(1 << shift for shift in range(0, self.magnitude_bits, self.digit_bits))

    @property
    def constant(self) -> int:
        """x minus its digits' sum, corrected digitally as constant · Σw."""
        return 0

    @property
    def digit_low(self) -> int:
        """Smallest digit: 0, or negative where the driver has two polarities."""
        return 0

    @property
    def digit_high(self) -> int:
        """Largest digit."""
        return (1 << min(self.digit_bits, self.magnitude_bits)) - 1

    @abstractmethod
    def digits(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "passes *shape"]:
        """Digits of integer-valued ``x``, one plane a pass, in the order of ``radix``."""

    @property
    def word(self) -> Word | None:
        """How digits are bit fields of one word, for kernels; None where they are not."""
        return None


class UnsignedInput(Input):
    """0 … 2^b - 1."""

    kind: Literal["unsigned"] = "unsigned"

    @property
    def low(self) -> int:
        return 0

    @property
    def high(self) -> int:
        return (1 << self.bits) - 1

    def digits(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "passes *shape"]:
        return cut(x, self.bits, self.digit_bits)

    @property
    def word(self) -> Word:
        return Word(self.bits, fields(self.bits, self.digit_bits))


class TwosComplementInput(Input):
    """-2^(b-1) … 2^(b-1) - 1; the sign bit is a pass of its own whose result is subtracted."""

    kind: Literal["twos_complement"] = "twos_complement"

    @property
    def low(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        return (1 << (self.bits - 1)) - 1

    @property
    def magnitude_bits(self) -> int:
        return self.bits - 1

    @property
    def digit_high(self) -> int:
        return max(1, super().digit_high)

    @property
    def radix(self) -> tuple[int, ...]:
        return (*super().radix, self.low)

    def digits(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "passes *shape"]:
        negative = (x < 0).to(x.dtype)[None]
        if self.bits == 1:
            return negative
        return torch.cat([cut(torch.where(x < 0, x - self.low, x), self.bits - 1, self.digit_bits), negative])

    @property
    def word(self) -> Word:
        magnitude = fields(self.bits - 1, self.digit_bits)
        return Word(self.bits, (*magnitude, (self.bits - 1, 1)), below=1 << self.bits)


class OffsetInput(Input):
    """-2^(b-1) … 2^(b-1) - 1, driven as x + 2^(b-1); the digital side adds -2^(b-1) · Σw."""

    kind: Literal["offset"] = "offset"

    @property
    def low(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        return (1 << (self.bits - 1)) - 1

    @property
    def constant(self) -> int:
        return self.low

    def digits(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "passes *shape"]:
        return cut(x - self.low, self.bits, self.digit_bits)

    @property
    def word(self) -> Word:
        return Word(self.bits, fields(self.bits, self.digit_bits), above=-self.low, below=-self.low)


class TwoPhaseInput(Input):
    """-(2^(b-1) - 1) … 2^(b-1) - 1: positive inputs first, then negative ones, whose result is subtracted."""

    kind: Literal["two_phase"] = "two_phase"
    bits: Annotated[int, Field(ge=2, le=16)]

    @property
    def low(self) -> int:
        return -self.high

    @property
    def high(self) -> int:
        return (1 << (self.bits - 1)) - 1

    @property
    def magnitude_bits(self) -> int:
        return self.bits - 1

    @property
    def radix(self) -> tuple[int, ...]:
        positive = super().radix
        return positive + tuple(-r for r in positive)

    def digits(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "passes *shape"]:
        return torch.cat(
            [
                cut(x.clamp(min=0), self.bits - 1, self.digit_bits),
                cut((-x).clamp(min=0), self.bits - 1, self.digit_bits),
            ]
        )

    @property
    def word(self) -> Word:
        half = self.bits - 1
        positive, negative = fields(half, self.digit_bits), fields(half, self.digit_bits, half)
        return Word(2 * half, positive + negative, sign=-1, left=half)


class BipolarInput(Input):
    """Odd integers -(2^b - 1) … 2^b - 1, every digit driven with one of two polarities; one bit is ±1.

    Zero is no code of this scheme: a 0 (an image's padding) means that the row is off.
    """

    kind: Literal["bipolar"] = "bipolar"

    @property
    def low(self) -> int:
        return -self.high

    @property
    def high(self) -> int:
        return (1 << self.bits) - 1

    @property
    def stride(self) -> int:
        return 2

    @property
    def digit_low(self) -> int:
        return -self.digit_high

    def check(self, values: Tensor, what: str) -> None:
        super().check(torch.where(values == 0, torch.full_like(values, self.high), values), what)

    def digits(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "passes *shape"]:
        planes = cut((x + self.high) / 2, self.bits, self.digit_bits)
        widths = [min(self.digit_bits, self.bits - shift) for shift in range(0, self.bits, self.digit_bits)]
        top = torch.tensor([(1 << width) - 1 for width in widths], dtype=x.dtype, device=x.device)
        return (2 * planes - top.view(-1, *[1] * x.dim())) * (x != 0)

    @property
    def word(self) -> Word | None:
        if self.digit_bits < self.bits:
            return None  # a row that is off has no fields of its own
        return Word(self.bits + 1, ((0, (2 << self.bits) - 1),), above=self.high, below=self.high)


InputScheme = Annotated[
    UnsignedInput | TwosComplementInput | OffsetInput | TwoPhaseInput | BipolarInput, Field(discriminator="kind")
]


class Weight(Scheme):
    """How weight integers are stored in cells and read out."""

    bits: Bits
    cell_bits: Bits = Field(default=1, description="bits a cell holds: 1, or more for a multi-level cell")

    @property
    def magnitude_bits(self) -> int:
        """Bits that are cut into cells of ``cell_bits``."""
        return self.bits

    @property
    def level_high(self) -> int:
        """Largest level of a cell."""
        return (1 << min(self.cell_bits, max(1, self.magnitude_bits))) - 1

    @property
    def slices(self) -> tuple[int, ...]:
        """Weight of each digit of the magnitude, lowest first."""
        return tuple(1 << shift for shift in range(0, self.magnitude_bits, self.cell_bits))

    @property
    def radix(self) -> tuple[int, ...]:
        """Weight of each conversion."""
        return self.slices

    @property
    def signs(self) -> tuple[int, ...]:
        """Sign of each leg, a physical column that meets the others in analog before one conversion."""
        return (1,)

    @property
    def reference(self) -> bool:
        """Whether the last leg is one reference column shared by all outputs of an array."""
        return False

    @property
    def input_constant(self) -> int:
        """w minus its digits' sum, corrected digitally as input_constant · Σx."""
        return 0

    @abstractmethod
    def levels(self, w: Float[Tensor, "*shape"]) -> Float[Tensor, "conversions legs *shape"]:
        """Cell levels of integer-valued ``w``."""

    def slopes(self, w: Float[Tensor, "*shape"]) -> Float[Tensor, "conversions legs *shape"]:
        """How far the level of each cell moves with ``w``, straight through the cut into digits.

        The regression of a digit on the weight, over all integers: radix / Σ radix². Cells of a reference column stay.
        """
        out = w.new_zeros(len(self.radix), len(self.signs), *w.shape)
        total = sum(radix**2 for radix in self.radix)
        for digit, radix in enumerate(self.radix):
            out[digit, 0] = radix / total
        return out


class UnsignedWeight(Weight):
    """0 … 2^b - 1."""

    kind: Literal["unsigned"] = "unsigned"

    @property
    def low(self) -> int:
        return 0

    @property
    def high(self) -> int:
        return (1 << self.bits) - 1

    def levels(self, w: Float[Tensor, "*shape"]) -> Float[Tensor, "conversions legs *shape"]:
        return cut(w, self.bits, self.cell_bits)[:, None]


class TwosComplementWeight(Weight):
    """-2^(b-1) … 2^(b-1) - 1; the sign bit has a column of its own whose result is subtracted."""

    kind: Literal["twos_complement"] = "twos_complement"

    @property
    def low(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        return (1 << (self.bits - 1)) - 1

    @property
    def magnitude_bits(self) -> int:
        return self.bits - 1

    @property
    def radix(self) -> tuple[int, ...]:
        return (*self.slices, self.low)

    def levels(self, w: Float[Tensor, "*shape"]) -> Float[Tensor, "conversions legs *shape"]:
        negative = (w < 0).to(w.dtype)[None]
        if self.bits == 1:
            return negative[:, None]
        magnitude = torch.where(w < 0, w - self.low, w)
        return torch.cat([cut(magnitude, self.bits - 1, self.cell_bits), negative])[:, None]


class DifferentialWeight(Weight):
    """-(2^(b-1) - 1) … 2^(b-1) - 1 as the difference of two cells, taken in analog or after two conversions."""

    kind: Literal["differential"] = "differential"
    bits: Annotated[int, Field(ge=2, le=16)]
    subtract: Literal["analog", "digital"] = "analog"

    @property
    def low(self) -> int:
        return -self.high

    @property
    def high(self) -> int:
        return (1 << (self.bits - 1)) - 1

    @property
    def magnitude_bits(self) -> int:
        return self.bits - 1

    @property
    def radix(self) -> tuple[int, ...]:
        return self.slices if self.subtract == "analog" else self.slices + tuple(-r for r in self.slices)

    @property
    def signs(self) -> tuple[int, ...]:
        return (1, -1) if self.subtract == "analog" else (1,)

    def levels(self, w: Float[Tensor, "*shape"]) -> Float[Tensor, "conversions legs *shape"]:
        positive, negative = (cut(part.clamp(min=0), self.bits - 1, self.cell_bits) for part in (w, -w))
        if self.subtract == "analog":
            return torch.stack([positive, negative], dim=1)
        return torch.cat([positive, negative])[:, None]

    def slopes(self, w: Float[Tensor, "*shape"]) -> Float[Tensor, "conversions legs *shape"]:
        """As for all; the cell of the weight's sign moves, and half of each where it is 0."""
        share = (w.sign() + 1) / 2
        digits = w.new_tensor(self.slices).view(-1, *[1] * w.dim()) / sum(radix**2 for radix in self.slices)
        positive, negative = digits * share, digits * (share - 1)
        if self.subtract == "analog":
            return torch.stack([positive, negative], dim=1)
        return torch.cat([positive, negative])[:, None]


class OffsetWeight(Weight):
    """-2^(b-1) … 2^(b-1) - 1, stored as w + 2^(b-1).

    The offset is taken off by a reference column, subtracted in analog (one an array and digit, all its cells at the
    digit of 2^(b-1); it is read again for every conversion), or by the digital side as -2^(b-1) · Σx.
    """

    kind: Literal["offset"] = "offset"
    subtract: Literal["column", "digital"] = "column"

    @property
    def low(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        return (1 << (self.bits - 1)) - 1

    @property
    def signs(self) -> tuple[int, ...]:
        return (1, -1) if self.reference else (1,)

    @property
    def reference(self) -> bool:
        return self.subtract == "column"

    @property
    def input_constant(self) -> int:
        return 0 if self.reference else self.low

    def levels(self, w: Float[Tensor, "*shape"]) -> Float[Tensor, "conversions legs *shape"]:
        data = cut(w - self.low, self.bits, self.cell_bits)
        if not self.reference:
            return data[:, None]
        return torch.stack([data, cut(torch.full_like(w, -self.low), self.bits, self.cell_bits)], dim=1)


class BinaryWeight(Weight):
    """±1 in one cell b of 0 or 1, w = 2b - 1: twice the read less the digital sum of the inputs."""

    kind: Literal["binary"] = "binary"
    bits: Literal[1] = 1
    cell_bits: Literal[1] = 1

    @property
    def low(self) -> int:
        return -1

    @property
    def high(self) -> int:
        return 1

    @property
    def stride(self) -> int:
        return 2

    @property
    def radix(self) -> tuple[int, ...]:
        return (2,)

    @property
    def input_constant(self) -> int:
        return -1

    def levels(self, w: Float[Tensor, "*shape"]) -> Float[Tensor, "conversions legs *shape"]:
        return ((w + 1) / 2)[None, None]


WeightScheme = Annotated[
    UnsignedWeight | TwosComplementWeight | DifferentialWeight | OffsetWeight | BinaryWeight,
    Field(discriminator="kind"),
]
