"""What the backward pass believes: the forward is always the machine."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from bitline.macro.column import Column


class Gradient(BaseModel):
    """A backward rule: a matrix for the product, and what the forward must keep for each output."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    keeps_inside: ClassVar[bool] = False
    of_chip: ClassVar[bool] = True  # whether the product differentiated is that of this die's weights

    def weight(self, column: Column) -> Tensor:
        """(G·N, K) matrix whose product is differentiated, connected to the weights asked for."""
        raise NotImplementedError

    def inputs(self, x: Tensor, column: Column) -> Tensor:
        """What the weights are multiplied by in the product that is differentiated, from the codes ``x``."""
        raise NotImplementedError


class Ste(Gradient):
    """Straight through the curve and the converter of *this* chip: the product with its own cells; where conversions
    were clipped their share (by radix) of an output passes no gradient (Bengio et al., 2013)."""

    kind: Literal["ste"] = "ste"
    keeps_inside: ClassVar[bool] = True

    def weight(self, column: Column) -> Tensor:
        return column.weight

    def inputs(self, x: Tensor, column: Column) -> Tensor:
        return column.driven(x)


class SteIdeal(Gradient):
    """The gradient of the clean product, as if the machine were exact: a baseline."""

    kind: Literal["ste_ideal"] = "ste_ideal"
    of_chip: ClassVar[bool] = False

    def weight(self, column: Column) -> Tensor:
        return column.wanted

    def inputs(self, x: Tensor, column: Column) -> Tensor:
        return x


AnyGradient = Annotated[Ste | SteIdeal, Field(discriminator="kind")]
