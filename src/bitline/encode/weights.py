"""How integers are stored in cells, and read out conversion by conversion."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from bitline.encode.scheme import Bits, Scheme, Symmetric, TwosComplement, Unsigned, cut


class Weight(Scheme):
    """How weight integers are stored in cells and read out."""

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


class UnsignedWeight(Unsigned, Weight):
    """0 … 2^b - 1."""

    kind: Literal["unsigned"] = "unsigned"

    def levels(self, w: Float[Tensor, "*shape"]) -> Float[Tensor, "conversions legs *shape"]:
        return cut(w, self.bits, self.cell_bits)[:, None]


class TwosComplementWeight(TwosComplement, Weight):
    """-2^(b-1) … 2^(b-1) - 1; the sign bit has a column of its own whose result is subtracted."""

    kind: Literal["twos_complement"] = "twos_complement"

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


class DifferentialWeight(Symmetric, Weight):
    """-(2^(b-1) - 1) … 2^(b-1) - 1 as the difference of two cells, taken in analog or after two conversions."""

    kind: Literal["differential"] = "differential"
    subtract: Literal["analog", "digital"] = "analog"

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


class OffsetWeight(TwosComplement, Weight):
    """-2^(b-1) … 2^(b-1) - 1, stored as w + 2^(b-1).

    The offset is taken off by a reference column, subtracted in analog (one an array and digit, all its cells at the
    digit of 2^(b-1); it is read again for every conversion), or by the digital side as -2^(b-1) · Σx.
    """

    kind: Literal["offset"] = "offset"
    subtract: Literal["column", "digital"] = "column"

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
