"""What the backward pass believes: the forward is always the machine."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from bitline.configuration import Frozen
from bitline.macro.column import Column
from bitline.macro.kinds import TableColumn
from bitline.macro.macro import Macro
from bitline.macro.read import Keep


class Gradient(Frozen):
    """A backward rule: a matrix for the product, and what the forward must keep for each output."""

    of_chip: ClassVar[bool] = True  # whether the product differentiated is that of this die's weights
    each: ClassVar[bool] = False  # whether every conversion has a slope of its own, read again in the backward pass

    def refuses(self, plan: str, macro: Macro) -> str | None:
        """Why a plan cannot give this gradient on a macro; None if it can."""
        return None

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
    """The gradient of the clean product, as if the machine were exact: the extended STE, full forward and plain
    backward, a baseline. On a measured table, whose cells are ideal and which clips nothing apart, it is ``Ste``."""

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


class Sampled(Slope):
    """As ``Slope``, with the slope of each code drawn from a measured table: y = m(i) + v(i) · ε, so that
    dy/ds = m'(i) + v'(i) · ε with the ε = (j - m(i)) / v(i) of the code j that was drawn; 0 where the ideal sum is
    outside the table. m and v: mean and standard deviation of the row, their derivatives as ``TableColumn.slope``.

    A reconstruction of what Lin et al., JETCAS 2022, may mean. Only the reference plan knows single codes. On columns
    without a table it is ``Slope``.
    """

    kind: Literal["sampled"] = "sampled"  # type: ignore[assignment]

    def refuses(self, plan: str, macro: Macro) -> str | None:
        if plan == "reference" or not isinstance(macro.column, TableColumn):
            return None
        return "the gradient 'sampled' needs every code drawn from the table, which only the reference plan keeps"

    def keeps(self, column: Column) -> Keep:
        kept = super().keeps(column)
        return kept if column.law is None else Keep(slope=True, drawn=True)


class SlopeExact(Gradient):
    """The oracle of ``Slope``: each conversion, of every tile and digit, has its own slope, that of the mean curve or
    of the table's mean code at its sum (0 where clipped), where ``Slope`` has one mean slope an output.

    Reads again in the backward pass, by the reference plan; a folded read has no slopes to tell apart. The digits of an
    input share what is passed to it by radix, and so do those of a weight.
    """

    kind: Literal["slope_exact"] = "slope_exact"
    each: ClassVar[bool] = True

    def refuses(self, plan: str, macro: Macro) -> str | None:
        return "the gradient 'slope_exact' runs by the reference plan" if plan == "fused" else None

    def weight(self, column: Column) -> Tensor:
        return column.weight

    def inputs(self, x: Tensor, column: Column) -> Tensor:
        return column.driven(x)


AnyGradient = Annotated[Ste | SteIdeal | Slope | Sampled | SlopeExact, Field(discriminator="kind")]
