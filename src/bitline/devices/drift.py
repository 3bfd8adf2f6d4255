"""Drift: what age does to the levels that cells hold."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bitline.configuration import Frozen
from bitline.devices.draw import Draw
from bitline.devices.kept import MEAN, SPREAD, Keep, kept
from bitline.devices.profiles import AnyProfile, StateConstant
from bitline.units import Kelvin, Seconds

BOLTZMANN_EV = 8.617333262e-5
NONE = StateConstant(value=0.0)


class Drift(Frozen):
    """A law of age: what each cell holds at a time t ≥ t0 after programming, its draw frozen with the die.

    Levels count from 0 S. A cell's state is the level that it was programmed to as a share of the highest. Another
    temperature scales time by Arrhenius' law. ``centred`` and ``typical`` are those of ``CellError``.
    """

    t0: Seconds = Field(default=20.0, gt=0, description="time after programming at which levels are as programmed")
    until: Seconds | None = Field(default=None, gt=0, description="age up to which the law was measured; absent: any")
    activation_ev: float = Field(
        default=0.0, ge=0, le=5, description="activation energy, eV; 0: temperature has no effect"
    )
    kelvin: Kelvin = Field(default=300.0, gt=0, description="temperature at which the law was measured")
    keep: Keep = Field(default="all", description="mean: every cell drifts as cells do on average; spread: around none")

    def since(self, seconds: float, kelvin: float) -> float:
        """t/t0 at an age of ``seconds`` at ``kelvin``; raises ValueError outside t0 … until."""
        scale = self.activation_ev / BOLTZMANN_EV * (1 / self.kelvin - 1 / kelvin)
        time = seconds * math.exp(scale)
        if time < self.t0:
            raise ValueError(
                f"age of {seconds:g} s at {kelvin:g} K counts as {time:g} s at {self.kelvin:g} K, "
                f"before t0 = {self.t0:g} s, where the drift law starts"
            )
        if self.until is not None and time > self.until:
            raise ValueError(
                f"age of {seconds:g} s at {kelvin:g} K counts as {time:g} s at {self.kelvin:g} K; the drift law was "
                f"measured up to until = {self.until:g} s"
            )
        return time / self.t0

    def apply(
        self, levels: Tensor, state: Tensor, draw: Draw, level_high: int, seconds: float, kelvin: float
    ) -> Tensor:
        """Levels of cells programmed to ``state`` that held ``levels``, ``seconds`` after programming at ``kelvin``;
        raises ValueError outside t0 … until."""
        since = self.since(seconds, kelvin)
        mean = self.law(levels, state, level_high, since)[0]
        whole = self.drawn(levels, state, draw, level_high, since) if self.keep in ("all", "spread") else mean
        return kept(self.keep, levels, whole, mean)

    def moments(
        self, levels: Tensor, state: Tensor, level_high: int, seconds: float, kelvin: float
    ) -> tuple[Tensor, Tensor]:
        """(mean, standard deviation) of ``apply``, in closed form."""
        mean, sigma = self.law(levels, state, level_high, self.since(seconds, kelvin))
        spread = sigma if self.keep in ("all", "spread") else torch.zeros_like(sigma)
        return kept(self.keep, levels, mean, mean), spread

    @abstractmethod
    def drawn(self, levels: Tensor, state: Tensor, draw: Draw, level_high: int, since: float) -> Tensor:
        """Levels at t = ``since`` · t0."""

    @abstractmethod
    def law(self, levels: Tensor, state: Tensor, level_high: int, since: float) -> tuple[Tensor, Tensor]:
        """(mean, standard deviation) of ``drawn``."""

    def centred(self) -> Drift:
        """The spread alone."""
        return self.model_copy(update={"keep": SPREAD.get(self.keep, self.keep)})

    def typical(self) -> Drift:
        """What is common to all cells alone."""
        return self.model_copy(update={"keep": MEAN.get(self.keep, self.keep)})


class PowerLawDrift(Drift):
    """G(t) = G(t0) · (t/t0)^-nu, nu drawn once a cell: structural relaxation (Ielmini et al., TED 2007; Joshi et al.,
    Nat. Commun. 2020), its mean and spread by state (Nandakumar et al., ICECS 2019). G counts from 0 S."""

    kind: Literal["power_law"] = "power_law"
    nu: AnyProfile = Field(description="mean drift exponent at each state, 0 … 1")
    nu_sigma: AnyProfile = Field(default=NONE, description="standard deviation of the exponent between cells, 0 … 1")

    @model_validator(mode="after")
    def _ranges(self) -> PowerLawDrift:
        self.nu.within(0, 1, "nu")
        self.nu_sigma.within(0, 1, "nu_sigma")
        return self

    def drawn(self, levels: Tensor, state: Tensor, draw: Draw, level_high: int, since: float) -> Tensor:
        return levels * since ** -(self.nu.at(state) + self.nu_sigma.at(state) * draw.normal())

    def law(self, levels: Tensor, state: Tensor, level_high: int, since: float) -> tuple[Tensor, Tensor]:
        log = math.log(since)
        variance = (self.nu_sigma.at(state) * log) ** 2
        mean = levels * torch.exp(variance / 2 - self.nu.at(state) * log)
        return mean, mean * torch.expm1(variance).sqrt()


class LogTimeDrift(Drift):
    """G(t) = G(t0) + (G_max - G_min) · (mu(s) + sigma(s) · n) · log10(t/t0), n drawn once a cell: charge that leaves
    (mu < 0 where it lets current flow) or settles in traps with a spread of depths (Lundkvist et al., Solid-State
    Electron. 16, 811, 1973)."""

    kind: Literal["log_time"] = "log_time"
    mu: AnyProfile = Field(description="mean change a decade at each state, relative to G_max - G_min, -1 … 1")
    sigma: AnyProfile = Field(default=NONE, description="standard deviation of that between cells, 0 … 1")

    @model_validator(mode="after")
    def _ranges(self) -> LogTimeDrift:
        self.mu.within(-1, 1, "mu")
        self.sigma.within(0, 1, "sigma")
        return self

    def drawn(self, levels: Tensor, state: Tensor, draw: Draw, level_high: int, since: float) -> Tensor:
        change = self.mu.at(state) + self.sigma.at(state) * draw.normal()
        return levels + (level_high * math.log10(since)) * change

    def law(self, levels: Tensor, state: Tensor, level_high: int, since: float) -> tuple[Tensor, Tensor]:
        decades = level_high * math.log10(since)
        return levels + decades * self.mu.at(state), decades * self.sigma.at(state)


AnyDrift = Annotated[PowerLawDrift | LogTimeDrift, Field(discriminator="kind")]
