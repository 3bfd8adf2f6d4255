"""Profiles: a figure of a cell for each of its states, such as a standard deviation or a drift exponent.

A state s is the level that a cell should hold as a share of the highest: 0 … 1, that is (G - G_min)/(G_max - G_min).
A number stands for a figure that is the same in all states.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema
from torch import Tensor

from bitline.configuration import Frozen


class Profile(Frozen):
    """A figure for each state of a cell."""

    @abstractmethod
    def at(self, state: Tensor) -> Tensor:
        """The figure at states 0 … 1 (any shape)."""

    def over_states(self) -> Tensor:
        """The figure at 257 states from 0 to 1."""
        return self.at(torch.linspace(0, 1, 257, dtype=torch.float64))

    def within(self, low: float, high: float, what: str) -> None:
        """Raise ValueError naming the first state at which the figure is not in [low, high]."""
        found = self.over_states()
        wrong = (~((found >= low) & (found <= high))).nonzero()
        if len(wrong):
            state = float(wrong[0]) / 256
            raise ValueError(
                f"{what} = {float(found[wrong[0]]):g} at state {state:.3g} (0: lowest level, 1: highest); accepted "
                f"is {low:g} … {high:g}"
            )


class StateConstant(Profile):
    """The same in all states."""

    kind: Literal["constant"] = "constant"
    value: float

    def at(self, state: Tensor) -> Tensor:
        return torch.full_like(state, self.value)


class StatePolynomial(Profile):
    """Σ_i c_i s^i."""

    kind: Literal["polynomial"] = "polynomial"
    coefficients: tuple[float, ...] = Field(min_length=1, description="c_0, c_1, …")

    def at(self, state: Tensor) -> Tensor:
        value = torch.zeros_like(state)
        for coefficient in reversed(self.coefficients):
            value = value * state + coefficient
        return value


class Saturating(Profile):
    """most · (1 - exp(-s / scale)): rises from 0, then stays."""

    kind: Literal["saturating"] = "saturating"
    most: float
    scale: float = Field(gt=0, description="state at which 63 % are reached")

    def at(self, state: Tensor) -> Tensor:
        return -self.most * torch.expm1(-state / self.scale)


class Power(Profile):
    """min(coefficient · s^exponent, most)."""

    kind: Literal["power"] = "power"
    coefficient: float = Field(ge=0)
    exponent: float
    most: float = Field(ge=0)

    def at(self, state: Tensor) -> Tensor:
        return (self.coefficient * state**self.exponent).clamp(max=self.most)


class Logarithm(Profile):
    """slope · ln(s) + offset, between low and high."""

    kind: Literal["logarithm"] = "logarithm"
    slope: float
    offset: float
    low: float
    high: float

    def at(self, state: Tensor) -> Tensor:
        return (self.slope * state.log() + self.offset).clamp(self.low, self.high)


class Middle(Profile):
    """One figure for states near the ends, another for those between ``low`` and ``high`` (exclusive)."""

    kind: Literal["middle"] = "middle"
    outer: float
    middle: float
    low: float = Field(default=0.25, ge=0, le=1)
    high: float = Field(default=0.75, ge=0, le=1)

    def at(self, state: Tensor) -> Tensor:
        between = (state > self.low) & (state < self.high)
        return torch.where(between, self.middle, torch.full_like(state, self.outer))


class StatePoints(Profile):
    """Straight lines between measured states; beyond the first and the last the figure stays."""

    kind: Literal["points"] = "points"
    state: tuple[float, ...] = Field(min_length=2, description="rising, 0 … 1")
    value: tuple[float, ...]

    @model_validator(mode="after")
    def _pairs(self) -> StatePoints:
        if len(self.state) != len(self.value):
            raise ValueError(f"profile points: {len(self.state)} states but {len(self.value)} values")
        if any(b <= a for a, b in pairwise(self.state)) or self.state[0] < 0 or self.state[-1] > 1:
            raise ValueError(f"profile points: states {list(self.state)} must rise, from 0 at least to 1 at most")
        return self

    def at(self, state: Tensor) -> Tensor:
        x, y = (torch.tensor(v, dtype=state.dtype, device=state.device) for v in (self.state, self.value))
        i = torch.searchsorted(x, state.contiguous()).clamp(1, len(x) - 1) - 1
        share = ((state - x[i]) / (x[i + 1] - x[i])).clamp(0, 1)
        return y[i] + share * (y[i + 1] - y[i])


class _OrNumber:
    """Beside a union of profiles: a number stands for a constant, and is written as one."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any) -> Any:
            if isinstance(value, int | float) and not isinstance(value, bool):
                return StateConstant(value=value)
            if not isinstance(value, Mapping | Profile):
                raise ValueError("a number or a profile is expected, such as 0.05 or {kind: polynomial, …}")
            return value

        def write(profile: Any, inner: Any) -> Any:
            return profile.value if isinstance(profile, StateConstant) else inner(profile)

        return core_schema.no_info_before_validator_function(
            read, handler(source), serialization=core_schema.wrap_serializer_function_ser_schema(write)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "number"}, handler(schema)]}


AnyProfile = Annotated[
    StateConstant | StatePolynomial | Saturating | Power | Logarithm | Middle | StatePoints,
    Field(discriminator="kind"),
    _OrNumber(),
]
