"""Curves of a column: what a read gives, on average, for a sum u, and how much it scatters.

Sums and values are in counts (an input step times a cell level); U is the full scale, active rows × largest digit ×
largest level. All kinds lower to one table with linear interpolation, which is what kernels know.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bitline.configuration import Frozen


class Curve(Frozen):
    """A value for each sum in a column."""

    @abstractmethod
    def at(self, u: Tensor, full: float) -> Tensor:
        """Value (counts) at sums ``u`` ≥ 0 (float64, counts) of a column with full scale ``full``."""


class Polynomial(Curve):
    """Σ_i c_i (u/U)^i, coefficients in counts."""

    kind: Literal["polynomial"] = "polynomial"
    coefficients: tuple[float, ...] = Field(min_length=1, description="c_0, c_1, … in counts")

    def at(self, u: Tensor, full: float) -> Tensor:
        value = torch.zeros_like(u)
        for coefficient in reversed(self.coefficients):
            value = value * (u / full) + coefficient
        return value


class Points(Curve):
    """Straight lines between measured or simulated points; the end lines go on."""

    kind: Literal["points"] = "points"
    u: tuple[float, ...] = Field(min_length=2, description="sums, rising, counts")
    value: tuple[float, ...] = Field(description="values, counts")

    @model_validator(mode="after")
    def _pairs(self) -> Points:
        if len(self.u) != len(self.value):
            raise ValueError(f"curve points: {len(self.u)} sums but {len(self.value)} values")
        if any(b <= a for a, b in zip(self.u, self.u[1:], strict=False)):
            raise ValueError("curve points: sums must rise")
        return self

    def at(self, u: Tensor, full: float) -> Tensor:
        x, y = torch.tensor(self.u, dtype=u.dtype), torch.tensor(self.value, dtype=u.dtype)
        i = torch.searchsorted(x, u).clamp(1, len(x) - 1) - 1
        return y[i] + (u - x[i]) * (y[i + 1] - y[i]) / (x[i + 1] - x[i])


class Compressive(Curve):
    """u (1 - c u/U) - d tanh(u/w): a bit line that discharges less the lower it is, and a sense stage that loses the
    first counts. A generic form, not taken from one chip."""

    kind: Literal["compressive"] = "compressive"
    compression: float = Field(default=0.0, ge=0, le=0.5, description="c, share lost at full scale")
    dead_zone: float = Field(default=0.0, description="d, counts lost beyond a few w")
    width: float = Field(default=1.0, gt=0, description="w, counts")

    def at(self, u: Tensor, full: float) -> Tensor:
        return u * (1 - self.compression * u / full) - self.dead_zone * torch.tanh(u / self.width)


class Discharge(Curve):
    """(1 - exp(-a u)) / a: a precharged line discharged by u cells of constant conductance (long-channel RC limit)."""

    kind: Literal["discharge"] = "discharge"
    rate: float = Field(gt=0, description="a, drop per count relative to the precharge voltage")

    def at(self, u: Tensor, full: float) -> Tensor:
        return -torch.expm1(-self.rate * u) / self.rate


AnyCurve = Annotated[Polynomial | Points | Compressive | Discharge, Field(discriminator="kind")]

MOST_NODES = 1 << 14


@dataclass(frozen=True)
class Lookup:
    """A curve as a table: nodes at low, low + pitch, …; between them straight lines, beyond them the end lines."""

    low: float
    pitch: float
    value: Tensor  # (nodes,) float32
    rise: Tensor  # (nodes,) float32, the last repeated

    @staticmethod
    def of(curve: Curve, full: float, signed: bool, even: bool, device: torch.device) -> Lookup:
        """Tabulate; sums below zero (``signed``) take the mirrored curve, odd or even."""
        pitch = max(1.0, full / MOST_NODES)
        nodes = int(-(-full // pitch)) + 2
        u = torch.arange(-nodes if signed else 0, nodes + 1, dtype=torch.float64) * pitch
        value = curve.at(u.abs(), full)
        if not even:
            value = torch.where(u < 0, -value, value)
        if not bool(value.isfinite().all()):
            raise ValueError(f"{curve!r} is not finite over 0 … {full:g} counts")
        rise = value.diff()
        rise = torch.cat([rise, rise[-1:]])
        return Lookup(float(u[0]), pitch, value.float().to(device), rise.float().to(device))

    def place(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """(node, fraction beyond it) of each sum; the fraction may exceed 0 … 1 outside the table."""
        place = (u - self.low).div_(self.pitch)
        node = place.floor().clamp_(0, len(self.value) - 1)
        return node.to(torch.int32).view(-1), place.sub_(node)

    def at(self, node: Tensor, fraction: Tensor) -> Tensor:
        """Value (float32) at places found by ``place`` on a table of the same nodes."""
        value = self.value.index_select(0, node).view_as(fraction)
        return value.add_(self.rise.index_select(0, node).view_as(fraction) * fraction)

    @property
    def slope(self) -> Tensor:
        """Derivative of the curve at its nodes, central, (nodes,) float32."""
        before = torch.cat([self.rise[:1], self.rise[:-1]])
        return (before + self.rise) / (2 * self.pitch)
