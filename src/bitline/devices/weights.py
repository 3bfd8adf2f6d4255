"""Variation of the float weight itself, where no cells are described."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bitline.configuration import Frozen
from bitline.devices.draw import Draw
from bitline.devices.lognormal import lognormal


class WeightError(Frozen):
    """An error of each weight: frozen until the array is written again, or fresh at each read and position.

    ``beside``: what else sits in the weights' physical range, for errors that are relative to it.
    """

    sigma: float

    @property
    def fresh(self) -> bool:
        """Whether it is drawn anew at each read, and so is noise of sums, not of weights."""
        return False

    @property
    def varies(self) -> bool:
        """Whether dies differ in it."""
        return self.sigma > 0 and not self.fresh

    @property
    def growth(self) -> float:
        """What the weights of a die are of those wanted, on average."""
        return 1.0

    @abstractmethod
    def sample(self, draw: Draw) -> Tensor:
        """The standard draw of each weight."""

    @abstractmethod
    def apply(self, w: Tensor, n: Tensor | None, beside: Tensor | None = None) -> Tensor:
        """Weights of one die from its draws ``n``, differentiable in ``w``; None where dies do not differ."""

    @abstractmethod
    def power(self, w: Tensor, beside: Tensor | None = None) -> Tensor:
        """Mean square of the error of each weight over dies and reads, in the shape of ``w``."""

    def deviation(self, w: Tensor, beside: Tensor | None = None) -> Tensor | None:
        """Standard deviation of each weight from read to read, (); None where every read finds the same."""
        return None

    @abstractmethod
    def typical(self) -> WeightError:
        """The error without spread between weights or reads; what all weights have in common stays."""

    @abstractmethod
    def centred(self) -> WeightError:
        """The error with its spread, but without the shift that all weights have in common."""

    def at(self, level: float) -> WeightError:
        """The error with ``level`` times its spread."""
        return self.model_copy(update={"sigma": self.sigma * level})


class LogNormalWeight(WeightError):
    """w · exp(sigma · n): zeros stay zero, signs stay, the mean grows by exp(sigma²/2). S3 (CorrectNet, DATE 2023).

    What a typical die holds is w, the median of all: the growth comes and goes with the spread.
    """

    kind: Literal["lognormal"] = "lognormal"
    sigma: float = Field(ge=0, le=2, description="standard deviation of ln(w)")

    @property
    def growth(self) -> float:
        return lognormal(self.sigma)[0]

    def sample(self, draw: Draw) -> Tensor:
        return draw.normal()

    def apply(self, w: Tensor, n: Tensor | None, beside: Tensor | None = None) -> Tensor:
        return w if n is None else w * torch.exp(self.sigma * n).to(w.dtype)

    def power(self, w: Tensor, beside: Tensor | None = None) -> Tensor:
        mean, deviation = lognormal(self.sigma)
        return w.square() * ((mean - 1) ** 2 + deviation**2)

    def typical(self) -> LogNormalWeight:
        return self.model_copy(update={"sigma": 0.0})

    def centred(self) -> LogNormalWeight:
        return self


class RangeWeight(WeightError):
    """w + R · (sigma · n + mu) with R half the range of the layer's weights now: S1 (Wan et al., JETC 2022).

    ``uniform`` draws n between -1 and 1, of standard deviation sigma · R / sqrt(3); S1's code leaves sigma out there.
    ``censor`` replaces draws above it by it: the right-censored Gaussian of TRICE (Yan et al., ICCAD 2023). ``clock:
    read`` is S1's *unrolled* form: the output gets noise of sigma · R · sqrt(Σx²), alike in distribution for a single
    output, but fresh at each position, so no die (S1's code multiplies by sigma twice there). ``fine`` is another
    reading of the analog bi-scale representation (H2, a reconstruction: one bit of exponent a weight): weights up to
    this share of R sit in a bank of that finer scale, where the same devices err by that share only.
    """

    kind: Literal["range"] = "range"
    sigma: float = Field(ge=0, le=1, description="standard deviation (normal) or half width (uniform) relative to R")
    mu: float = Field(default=0.0, ge=-1, le=1, description="shift of all devices relative to R")
    distribution: Literal["normal", "uniform"] = "normal"
    clock: Literal["programming", "read"] = "programming"
    censor: float | None = Field(default=None, gt=-4, le=4, description="largest draw, in sigma; absent: none is cut")
    fine: float | None = Field(default=None, gt=0, lt=1, description="finer scale of small weights; absent: one scale")

    @model_validator(mode="after")
    def _gaussian_reads(self) -> RangeWeight:
        if self.clock == "read" and (self.distribution != "normal" or self.censor is not None or self.fine is not None):
            raise ValueError("noise of a sum is Gaussian and alike for all weights: clock read takes only sigma and mu")
        if self.distribution == "uniform" and self.censor is not None:
            raise ValueError("censor cuts the tail of normal draws: remove it, or distribution: uniform")
        return self

    @property
    def fresh(self) -> bool:
        return self.clock == "read"

    def sample(self, draw: Draw) -> Tensor:
        if self.distribution == "uniform":
            return 2 * draw.uniform() - 1
        return draw.normal() if self.censor is None else draw.normal().clamp(max=self.censor)

    def apply(self, w: Tensor, n: Tensor | None, beside: Tensor | None = None) -> Tensor:
        """As above; the error counts as a constant in the gradient (HA-SGD's)."""
        if n is None and not self.mu:
            return w
        error = self.mu if n is None else self.sigma * n + self.mu
        return w + (self._scale(w.detach(), beside) * error).to(w.dtype)

    def power(self, w: Tensor, beside: Tensor | None = None) -> Tensor:
        first, second = self._moments()
        square = self.sigma**2 * second + 2 * self.mu * self.sigma * first + self.mu**2
        return (self._scale(w.detach(), beside).square() * square).expand_as(w)

    def deviation(self, w: Tensor, beside: Tensor | None = None) -> Tensor | None:
        return half_range(w, beside) * self.sigma if self.fresh and self.sigma else None

    def typical(self) -> RangeWeight:
        shift = self.mu + self.sigma * self._moments()[0]
        return self.model_copy(update={"sigma": 0.0, "mu": shift, "censor": None})

    def centred(self) -> RangeWeight:
        return self.model_copy(update={"mu": 0.0 - self.sigma * self._moments()[0]})

    def _scale(self, w: Tensor, beside: Tensor | None) -> Tensor:
        half = half_range(w, beside)
        return half if self.fine is None else torch.where(w.abs() <= self.fine * half, self.fine * half, half)

    def _moments(self) -> tuple[float, float]:
        """Mean and mean square of a draw."""
        if self.distribution == "uniform":
            return 0.0, 1 / 3
        if self.censor is None:
            return 0.0, 1.0
        c = torch.tensor(self.censor, dtype=torch.float64)
        below, density = torch.special.ndtr(c), (-c.square() / 2).exp() / (2 * torch.pi) ** 0.5
        first, second = c * (1 - below) - density, below - c * density + c.square() * (1 - below)
        return float(first), float(second)


def half_range(w: Tensor, beside: Tensor | None = None) -> Tensor:
    """Half the distance from the smallest to the largest of all values, (); no gradient."""
    low, high = torch.aminmax(w.detach())
    if beside is not None:
        other = torch.aminmax(beside.detach())
        low, high = torch.minimum(low, other.min), torch.maximum(high, other.max)
    return (high - low) / 2


WeightVariation = Annotated[LogNormalWeight | RangeWeight, Field(discriminator="kind")]
