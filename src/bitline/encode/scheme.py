"""What input and weight schemes share: integers of some bits, cut into digits."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bitline.configuration import Frozen

Bits = Annotated[int, Field(ge=1, le=16)]


def cut(magnitude: Tensor, bits: int, width: int) -> Tensor:
    """Non-negative integers of ``bits`` to digits of ``width`` bits, lowest first: (digits, *shape)."""
    if width >= bits:
        return magnitude[None]
    integers, mask = magnitude.to(torch.int32), (1 << width) - 1
    return torch.stack([(integers >> shift) & mask for shift in range(0, bits, width)]).to(magnitude.dtype)


class Scheme(Frozen):
    """What input and weight schemes share: a range of integers, walked in steps of ``stride``."""

    bits: Bits

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


class Unsigned(Scheme):
    """0 … 2^b - 1."""

    @property
    def low(self) -> int:
        return 0

    @property
    def high(self) -> int:
        return (1 << self.bits) - 1


class TwosComplement(Scheme):
    """-2^(b-1) … 2^(b-1) - 1."""

    @property
    def low(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        return (1 << (self.bits - 1)) - 1


class Symmetric(Scheme):
    """-(2^(b-1) - 1) … 2^(b-1) - 1: a sign, and a magnitude of b - 1 bits."""

    bits: Annotated[int, Field(ge=2, le=16)]

    @property
    def low(self) -> int:
        return -self.high

    @property
    def high(self) -> int:
        return (1 << (self.bits - 1)) - 1
