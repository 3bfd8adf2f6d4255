"""Cells: what a memory cell does to the level it should hold.

Levels are counted in steps of a cell: 0 … ``level_high``, the range G_max - G_min. An error is frozen by the clock it
belongs to: ``fabrication`` (mismatch: the same whatever is stored, and after every rewrite) or ``programming`` (drawn
anew each time the array is written). ``WeightVariation`` is the other kind of model, in which the error falls on the
float weight and no cells exist; the two are never mixed.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from bitline.units import Kelvin, Seconds, Siemens

BOLTZMANN_EV = 8.617333262e-5


@runtime_checkable
class Draw(Protocol):
    """The standard draws of one effect, one value for each cell or weight (float64)."""

    def normal(self) -> Tensor: ...

    def uniform(self) -> Tensor: ...


class Model(BaseModel):
    """A frozen part of a macro's description."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CellError(Model):
    """An error of each physical cell."""

    clock: Literal["fabrication", "programming"] = "programming"

    @abstractmethod
    def apply(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        """Levels held, from levels wanted (any shape)."""

    def centred(self) -> CellError:
        """The same spread around what cells should hold."""
        return self

    @abstractmethod
    def typical(self) -> CellError | None:
        """The error of a typical cell: what is common to all, without the spread; None where nothing is."""


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
    """Multiplicative: level · exp(sigma · n). The mean is exp(sigma²/2) times the level: the bias is kept."""

    kind: Literal["lognormal"] = "lognormal"
    sigma: float = Field(ge=0, le=2, description="standard deviation of ln(G)")

    def apply(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        return levels * torch.exp(self.sigma * draw.normal())

    def typical(self) -> None:
        return None  # the median cell holds what it should


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
    clock: Literal["fabrication"] = "fabrication"

    @model_validator(mode="after")
    def _shares(self) -> StuckAt:
        if self.low + self.high > 1:
            raise ValueError(f"stuck cells: low + high = {self.low + self.high:g} exceeds 1")
        return self

    def apply(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        u = draw.uniform()
        stuck = torch.where(u < self.low, torch.zeros_like(levels), levels)
        return torch.where(u >= 1 - self.high, torch.full_like(levels, level_high), stuck)

    def typical(self) -> None:
        return None


class PowerLawDrift(Model):
    """G(t) = G(t0) · (t/t0)^-nu, nu drawn once a cell: structural relaxation (Ielmini et al., TED 2007; Joshi et al.,
    Nat. Commun. 2020). Another temperature scales time by Arrhenius' law. Valid for t ≥ t0."""

    kind: Literal["power_law"] = "power_law"
    nu: float = Field(ge=0, le=1, description="mean drift exponent")
    nu_sigma: float = Field(default=0.0, ge=0, le=1, description="standard deviation of the exponent between cells")
    t0: Seconds = Field(default=20.0, gt=0, description="time after programming at which levels are as programmed")
    activation_ev: float = Field(
        default=0.0, ge=0, le=5, description="activation energy, eV; 0: temperature has no effect"
    )
    kelvin: Kelvin = Field(default=300.0, gt=0, description="temperature at which nu was measured")

    def apply(self, levels: Tensor, draw: Draw, seconds: float, kelvin: float) -> Tensor:
        """Levels ``seconds`` after programming at ``kelvin``; raises ValueError before t0."""
        scale = self.activation_ev / BOLTZMANN_EV * (1 / self.kelvin - 1 / kelvin)
        time = seconds * float(torch.tensor(scale, dtype=torch.float64).exp())
        if time < self.t0:
            raise ValueError(
                f"age of {seconds:g} s at {kelvin:g} K counts as {time:g} s at {self.kelvin:g} K, "
                f"before t0 = {self.t0:g} s, where the drift law starts"
            )
        return levels * (time / self.t0) ** -(self.nu + self.nu_sigma * draw.normal())


AnyCellError = Annotated[GaussianCell | LogNormalCell | LevelTable | StuckAt, Field(discriminator="kind")]
AnyDrift = Annotated[PowerLawDrift, Field(discriminator="kind")]


class Cell(Model):
    """A memory cell: conductance range and everything that goes wrong with it, in the order it happens."""

    g_min: Siemens | None = Field(default=None, ge=0, description="conductance of level 0; leaks into every read")
    g_max: Siemens | None = Field(default=None, gt=0, description="conductance of the highest level")
    errors: tuple[AnyCellError, ...] = Field(default=(), description="frozen errors, applied in this order")
    read_sigma: float | None = Field(
        default=None, gt=0, le=1, description="fresh noise of each driven cell at each read, relative to the range"
    )
    drift: AnyDrift | None = None

    @model_validator(mode="after")
    def _range(self) -> Cell:
        if (self.g_min is None) != (self.g_max is None):
            raise ValueError("cell: give both g_min and g_max, or neither")
        if self.g_min is not None and self.g_max is not None and self.g_min >= self.g_max:
            raise ValueError(f"cell: g_min = {self.g_min:g} S must be below g_max = {self.g_max:g} S")
        return self

    def range_from_zero(self) -> dict[str, float | None]:
        """Conductances of the same range that start at 0 S, as an update."""
        if self.g_min is None or self.g_max is None:
            return {"g_min": None, "g_max": None}
        return {"g_min": 0.0, "g_max": self.g_max - self.g_min}

    def pedestal(self, level_high: int) -> float:
        """What level 0 conducts, in levels."""
        if self.g_min is None or self.g_max is None:
            return 0.0
        return level_high * self.g_min / (self.g_max - self.g_min)

    def typical(self) -> Cell:
        """The cell without spread between cells; what all cells have in common stays."""
        kept = tuple(typical for error in self.errors if (typical := error.typical()) is not None)
        return self.model_copy(update={"errors": kept})

    def centred(self) -> Cell:
        """The cell with its spread, but without what all cells have in common."""
        return self.model_copy(update={"errors": tuple(error.centred() for error in self.errors)})

    def held(self, levels: Tensor, draws: list[Draw], level_high: int) -> Tensor:
        """Levels held after programming, pedestal included; ``draws`` pairs with ``errors``."""
        for error, draw in zip(self.errors, draws, strict=True):
            levels = error.apply(levels, draw, level_high)
        return levels + self.pedestal(level_high)


class LogNormalWeight(Model):
    """w · exp(sigma · n): zeros stay zero, signs stay, the mean grows by exp(sigma²/2). S3 (CorrectNet, DATE 2023)."""

    kind: Literal["lognormal"] = "lognormal"
    sigma: float = Field(ge=0, le=2, description="standard deviation of ln(w)")

    def sample(self, draw: Draw) -> Tensor:
        """The standard draw of each weight."""
        return draw.normal()

    def apply(self, w: Tensor, n: Tensor) -> Tensor:
        """Weights of one chip from its draws ``n``, differentiable in ``w``."""
        return w * torch.exp(self.sigma * n).to(w.dtype) if self.sigma else w


class RangeWeight(Model):
    """w + R · (sigma · n + mu) with R half the range of the layer's weights now: S1 (Wan et al., JETC 2022).

    ``uniform`` draws n between -1 and 1, of standard deviation sigma · R / sqrt(3); S1's code leaves sigma out there.
    """

    kind: Literal["range"] = "range"
    sigma: float = Field(ge=0, le=1, description="standard deviation (normal) or half width (uniform) relative to R")
    mu: float = Field(default=0.0, ge=-1, le=1, description="shift of all devices relative to R")
    distribution: Literal["normal", "uniform"] = "normal"

    def sample(self, draw: Draw) -> Tensor:
        """The standard draw of each weight."""
        return draw.normal() if self.distribution == "normal" else 2 * draw.uniform() - 1

    def apply(self, w: Tensor, n: Tensor) -> Tensor:
        """Weights of one chip from its draws ``n``; the error counts as a constant in the gradient."""
        half = (w.detach().max() - w.detach().min()) / 2
        return w + half * (self.sigma * n + self.mu).to(w.dtype)


WeightVariation = Annotated[LogNormalWeight | RangeWeight, Field(discriminator="kind")]
