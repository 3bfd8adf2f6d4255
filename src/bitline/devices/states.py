"""Errors that depend on the state that a cell is programmed to."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bitline.devices.draw import Draw
from bitline.devices.kept import KeptError
from bitline.devices.profiles import AnyProfile, StateConstant


class StateCell(KeptError):
    """level + level_high · (mu(s) + sigma(s) · n), never below ``floor``; s = level / level_high is the cell's state.

    With the profiles of published cells it is PCM (a polynomial: Joshi et al., Nat. Commun. 2020), FeFET (``middle``:
    Qin et al., TCAD 2025), charge-trap flash (``saturating``: Agrawal et al., IEDM 2022); docs/cells.md has them all.
    """

    kind: Literal["state"] = "state"
    sigma: AnyProfile = Field(description="standard deviation at each state, relative to G_max - G_min, 0 … 1")
    mu: AnyProfile = Field(default=StateConstant(value=0.0), description="mean error at each state, likewise, -1 … 1")
    floor: float | None = Field(
        default=None, ge=-1, le=0, description="least that a cell holds above level 0, relative to G_max - G_min"
    )

    @model_validator(mode="after")
    def _ranges(self) -> StateCell:
        self.sigma.within(0, 1, "sigma")
        self.mu.within(-1, 1, "mu")
        return self

    def drawn(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        mean, sigma = self._normal(levels, level_high)
        whole = mean + sigma * draw.normal()
        return whole if self.floor is None else whole.clamp(min=self.floor * level_high)

    def law(self, levels: Tensor, level_high: int) -> tuple[Tensor, Tensor]:
        mean, sigma = self._normal(levels, level_high)
        return (mean, sigma) if self.floor is None else censored(mean, sigma, self.floor * level_high)

    def _normal(self, levels: Tensor, level_high: int) -> tuple[Tensor, Tensor]:
        state = (levels / level_high).clamp(0, 1)
        return levels + level_high * self.mu.at(state), level_high * self.sigma.at(state)


def censored(mean: Tensor, sigma: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """(mean, standard deviation) of a normal variable of which all that is below ``floor`` lies at it."""
    above = mean - floor
    z = above / sigma.clamp(min=1e-300)
    share = torch.special.ndtr(z)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    first = above * share + sigma * density
    second = (above**2 + sigma**2) * share + above * sigma * density
    return floor + first, (second - first**2).clamp(min=0).sqrt()
