"""Errors of cells, each frozen by the clock it belongs to."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bitline.configuration import Frozen
from bitline.devices.draw import Draw
from bitline.devices.lognormal import lognormal
from bitline.units import Farads


class CellError(Frozen):
    """An error of each physical cell.

    It is what all cells have in common, the mean at each level (``typical``), and a spread around it (``centred``):
    explanations take out one and keep the other. Both keep the kind and the clock, and so the draws of each cell.
    """

    permanent: ClassVar[bool] = False  # whether programming cannot move such a cell
    clock: Literal["fabrication", "programming"] = "programming"

    @property
    def span(self) -> tuple[float, float] | None:
        """Conductances (S) that level 0 and the highest level aim at, where cells hold what was measured of them."""
        return None

    @abstractmethod
    def apply(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        """Levels held, from levels wanted (any shape)."""

    @abstractmethod
    def moments(self, levels: Tensor, level_high: int) -> tuple[Tensor, Tensor]:
        """(mean, standard deviation) of what cells hold that should hold ``levels``, in closed form, in levels."""

    @abstractmethod
    def centred(self) -> CellError:
        """The spread alone: the mean over cells is the level that they should hold."""

    @abstractmethod
    def typical(self) -> CellError | None:
        """What is common to all cells alone: each holds the mean; None where that is the level it should hold."""

    def aged(self, seconds: float, kelvin: float) -> CellError:
        """The error ``seconds`` after programming at ``kelvin``: the same, unless it was measured by age."""
        return self

    def young(self) -> CellError:
        """The error as programmed: the same, unless it was measured by age."""
        return self


class GaussianCell(CellError):
    """Additive, relative to the range: level + level_high · (sigma · n + mu). S1's device model (Wan et al., 2022)."""

    kind: Literal["gaussian"] = "gaussian"
    sigma: float = Field(ge=0, le=1, description="standard deviation relative to G_max - G_min")
    mu: float = Field(default=0.0, ge=-1, le=1, description="shift of all cells, relative to G_max - G_min")

    def apply(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        return levels + level_high * (self.sigma * draw.normal() + self.mu)

    def moments(self, levels: Tensor, level_high: int) -> tuple[Tensor, Tensor]:
        return levels + level_high * self.mu, torch.full_like(levels, level_high * self.sigma)

    def centred(self) -> GaussianCell:
        return self.model_copy(update={"mu": 0.0})

    def typical(self) -> GaussianCell | None:
        return self.model_copy(update={"sigma": 0.0}) if self.mu else None


class UniformCell(CellError):
    """Additive, relative to the range: level + level_high · (half_width · u + mu), u evenly in [-1, 1].

    The standard deviation is half_width / sqrt 3 of the range. S1's other device model (Wan et al., 2022), whose code
    has no width of its own.
    """

    kind: Literal["uniform"] = "uniform"
    half_width: float = Field(ge=0, le=1, description="largest deviation relative to G_max - G_min")
    mu: float = Field(default=0.0, ge=-1, le=1, description="shift of all cells, relative to G_max - G_min")

    def apply(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        return levels + level_high * (self.half_width * (2 * draw.uniform() - 1) + self.mu)

    def moments(self, levels: Tensor, level_high: int) -> tuple[Tensor, Tensor]:
        sigma = level_high * self.half_width / math.sqrt(3)
        return levels + level_high * self.mu, torch.full_like(levels, sigma)

    def centred(self) -> UniformCell:
        return self.model_copy(update={"mu": 0.0})

    def typical(self) -> UniformCell | None:
        return self.model_copy(update={"half_width": 0.0}) if self.mu else None


class LogNormalCell(CellError):
    """Multiplicative: level · exp(sigma · n + mu). The mean is exp(mu + sigma²/2) times the level: the bias is kept."""

    kind: Literal["lognormal"] = "lognormal"
    sigma: float = Field(ge=0, le=2, description="standard deviation of ln(G)")
    mu: float = Field(default=0.0, ge=-4, le=4, description="shift of ln(G) of all cells; 0: the median is the level")

    def apply(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        return levels * torch.exp(self.sigma * draw.normal() + self.mu)

    def moments(self, levels: Tensor, level_high: int) -> tuple[Tensor, Tensor]:
        mean, deviation = lognormal(self.sigma, self.mu)
        return levels * mean, levels * deviation

    def centred(self) -> LogNormalCell:
        return self.model_copy(update={"mu": -(self.sigma**2) / 2})

    def typical(self) -> LogNormalCell | None:
        mu = self.mu + self.sigma**2 / 2
        return self.model_copy(update={"sigma": 0.0, "mu": mu}) if mu else None


class CapacitorMismatch(CellError):
    """The capacitor of an SRAM cell: level · (1 + coefficient · sqrt(1 fF / farads) · n).

    Mismatch falls with the square root of the area (Pelgrom et al., JSSC 1989), and so of the capacitance. The
    coefficient is of a process: none is assumed. It is that of one capacitor, 1/sqrt 2 of that of a difference of two.
    """

    kind: Literal["capacitor"] = "capacitor"
    farads: Farads = Field(gt=0, le=1e-12, description="capacitance of a cell")
    coefficient: float = Field(ge=0, le=1, description="standard deviation of C/mean(C) of a capacitor of 1 fF")
    clock: Literal["fabrication"] = "fabrication"

    @property
    def sigma(self) -> float:
        """Standard deviation of C/mean(C)."""
        return self.coefficient * math.sqrt(1e-15 / self.farads)

    def apply(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        return levels * (1 + self.sigma * draw.normal())

    def moments(self, levels: Tensor, level_high: int) -> tuple[Tensor, Tensor]:
        return levels, levels * self.sigma

    def centred(self) -> CapacitorMismatch:
        return self

    def typical(self) -> None:
        return None


class LevelTable(CellError):
    """Mean and standard deviation of what a cell holds, a row a programmed level (measured multi-level cells)."""

    kind: Literal["table"] = "table"
    mean: tuple[float, ...] = Field(description="mean held, in levels, for programmed level 0, 1, …")
    sigma: tuple[float, ...] = Field(description="standard deviation, in levels")

    @model_validator(mode="after")
    def _same_length(self) -> LevelTable:
        if len(self.mean) != len(self.sigma) or min(self.sigma, default=-1) < 0:
            raise ValueError(
                f"cell table: {len(self.mean)} means and {len(self.sigma)} sigmas ≥ 0 must pair up by level"
            )
        return self

    def apply(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        mean, sigma = self.moments(levels, level_high)
        return mean + sigma * draw.normal()

    def moments(self, levels: Tensor, level_high: int) -> tuple[Tensor, Tensor]:
        if len(self.mean) != level_high + 1:
            raise ValueError(f"cell table has {len(self.mean)} levels, but the weights use levels 0 to {level_high}")
        mean, sigma = (
            torch.tensor(column, dtype=levels.dtype, device=levels.device) for column in (self.mean, self.sigma)
        )
        index = levels.long()
        return mean[index], sigma[index]

    def centred(self) -> LevelTable:
        return self.model_copy(update={"mean": tuple(map(float, range(len(self.mean))))})

    def typical(self) -> LevelTable:
        return self.model_copy(update={"sigma": (0.0,) * len(self.sigma)})
