"""Variation of the float weight itself, where no cells are described."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bitline.devices.model import Draw, Model


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
