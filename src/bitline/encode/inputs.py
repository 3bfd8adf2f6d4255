"""How integers are driven on the word lines, digit by digit."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from bitline.encode.scheme import Bits, Scheme, Symmetric, TwosComplement, Unsigned, cut


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


class UnsignedInput(Unsigned, Input):
    """0 … 2^b - 1."""

    kind: Literal["unsigned"] = "unsigned"

    def digits(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "passes *shape"]:
        return cut(x, self.bits, self.digit_bits)

    @property
    def word(self) -> Word:
        return Word(self.bits, fields(self.bits, self.digit_bits))


class TwosComplementInput(TwosComplement, Input):
    """-2^(b-1) … 2^(b-1) - 1; the sign bit is a pass of its own whose result is subtracted."""

    kind: Literal["twos_complement"] = "twos_complement"

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


class OffsetInput(TwosComplement, Input):
    """-2^(b-1) … 2^(b-1) - 1, driven as x + 2^(b-1); the digital side adds -2^(b-1) · Σw."""

    kind: Literal["offset"] = "offset"

    @property
    def constant(self) -> int:
        return self.low

    def digits(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "passes *shape"]:
        return cut(x - self.low, self.bits, self.digit_bits)

    @property
    def word(self) -> Word:
        return Word(self.bits, fields(self.bits, self.digit_bits), above=-self.low, below=-self.low)


class TwoPhaseInput(Symmetric, Input):
    """-(2^(b-1) - 1) … 2^(b-1) - 1: positive inputs first, then negative ones, whose result is subtracted."""

    kind: Literal["two_phase"] = "two_phase"

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
