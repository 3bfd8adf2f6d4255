"""What the backward pass believes: the forward is always the machine."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from bitline.macro.column import Column
from bitline.macro.read import Keep


class Gradient(BaseModel):
    """A backward rule: a matrix for the product, and what the forward must keep for each output."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    of_chip: ClassVar[bool] = True  # whether the product differentiated is that of this die's weights

    def keeps(self, column: Column) -> Keep:
        """What the forward must keep for each output, the gradient of the converter's step aside."""
        return Keep()

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

    def keeps(self, column: Column) -> Keep:
        return Keep(inside=True)

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


class Slope(Gradient):
    """As ``Ste``, each output scaled by the mean slope of its reads: that of the column's mean curve, or
    of a measured table's mean code, at each read's sum, weighted by radix; 0 where clipped. The conditional mean of Lin
    et al., JETCAS 2022 (their gradient estimator, as far as published)."""

    kind: Literal["slope"] = "slope"

    def keeps(self, column: Column) -> Keep:
        return Keep(slope=True) if column.mean is not None or column.law is not None else Keep(inside=True)

    def weight(self, column: Column) -> Tensor:
        return column.weight

    def inputs(self, x: Tensor, column: Column) -> Tensor:
        return column.driven(x)


AnyGradient = Annotated[Ste | SteIdeal | Slope, Field(discriminator="kind")]
