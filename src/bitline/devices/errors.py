"""Errors of cells, each frozen by the clock it belongs to."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bitline.devices.model import Draw, Model


class CellError(Model):
    """An error of each physical cell.

    It is what all cells have in common, the mean at each level (``typical``), and a spread around it (``centred``):
    explanations take out one and keep the other. Both keep the kind and the clock, and so the draws of each cell.
    """

    clock: Literal["fabrication", "programming"] = "programming"

    @property
    def span(self) -> tuple[float, float] | None:
        """Conductances (S) that level 0 and the highest level aim at, where cells hold what was measured of them."""
        return None

    @abstractmethod
    def apply(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        """Levels held, from levels wanted (any shape)."""

    @abstractmethod
    def centred(self) -> CellError:
        """The spread alone: the mean over cells is the level that they should hold."""

    @abstractmethod
    def typical(self) -> CellError | None:
        """What is common to all cells alone: each holds the mean; None where that is the level it should hold."""

    def aged(self, seconds: float, kelvin: float) -> CellError:
        """The error ``seconds`` after programming at ``kelvin``: the same, unless it was measured by age."""
        return self


class GaussianCell(CellError):
    """Additive, relative to the range: level + level_high · (sigma · n + mu). S1's device model (Wan et al., 2022)."""

    kind: Literal["gaussian"] = "gaussian"
    sigma: float = Field(ge=0, le=1, description="standard deviation relative to G_max - G_min")
    mu: float = Field(default=0.0, ge=-1, le=1, description="shift of all cells, relative to G_max - G_min")

    def apply(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        return levels + level_high * (self.sigma * draw.normal() + self.mu)

    def centred(self) -> GaussianCell:
        return self.model_copy(update={"mu": 0.0})

    def typical(self) -> GaussianCell | None:
        return self.model_copy(update={"sigma": 0.0}) if self.mu else None


class LogNormalCell(CellError):
    """Multiplicative: level · exp(sigma · n + mu). The mean is exp(mu + sigma²/2) times the level: the bias is kept."""

    kind: Literal["lognormal"] = "lognormal"
    sigma: float = Field(ge=0, le=2, description="standard deviation of ln(G)")
    mu: float = Field(default=0.0, ge=-4, le=4, description="shift of ln(G) of all cells; 0: the median is the level")

    def apply(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        return levels * torch.exp(self.sigma * draw.normal() + self.mu)

    def centred(self) -> LogNormalCell:
        return self.model_copy(update={"mu": -(self.sigma**2) / 2})

    def typical(self) -> LogNormalCell | None:
        mu = self.mu + self.sigma**2 / 2
        return self.model_copy(update={"sigma": 0.0, "mu": mu}) if mu else None


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
        if len(self.mean) != level_high + 1:
            raise ValueError(f"cell table has {len(self.mean)} levels, but the weights use levels 0 to {level_high}")
        mean, sigma = (
            torch.tensor(column, dtype=levels.dtype, device=levels.device) for column in (self.mean, self.sigma)
        )
        index = levels.long()
        return mean[index] + sigma[index] * draw.normal()

    def centred(self) -> LevelTable:
        return self.model_copy(update={"mean": tuple(map(float, range(len(self.mean))))})

    def typical(self) -> LevelTable:
        return self.model_copy(update={"sigma": (0.0,) * len(self.sigma)})


class StuckAt(CellError):
    """Cells stuck at the lowest or highest level: a fault map of the die."""

    kind: Literal["stuck"] = "stuck"
    low: float = Field(default=0.0, ge=0, le=1, description="share of cells stuck at level 0")
    high: float = Field(default=0.0, ge=0, le=1, description="share of cells stuck at the highest level")
    keep: Literal["all", "mean", "spread"] = Field(
        default="all", description="mean: every cell holds what cells hold on average; spread: around the level"
    )
    clock: Literal["fabrication"] = "fabrication"

    @model_validator(mode="after")
    def _shares(self) -> StuckAt:
        if self.low + self.high > 1:
            raise ValueError(f"stuck cells: low + high = {self.low + self.high:g} exceeds 1")
        return self

    def apply(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        u = draw.uniform()
        stuck = torch.where(u < self.low, torch.zeros_like(levels), levels)
        stuck = torch.where(u >= 1 - self.high, torch.full_like(levels, level_high), stuck)
        if self.keep == "all":
            return stuck
        mean = (1 - self.low - self.high) * levels + self.high * level_high
        return mean if self.keep == "mean" else stuck + (levels - mean)

    def centred(self) -> StuckAt:
        if self.keep == "mean":
            return StuckAt()
        return self.model_copy(update={"keep": "spread"}) if self.low or self.high else self

    def typical(self) -> StuckAt | None:
        return self.model_copy(update={"keep": "mean"}) if self.keep != "spread" and (self.low or self.high) else None
