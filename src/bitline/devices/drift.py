"""Drift: what age does to the levels that cells hold."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bitline.devices.model import Draw, Model
from bitline.units import Kelvin, Seconds

BOLTZMANN_EV = 8.617333262e-5


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


AnyDrift = Annotated[PowerLawDrift, Field(discriminator="kind")]
