"""Learning-rate schedules: pure functions of the step, so that a resumed run needs nothing to catch up.

A schedule gives the factor on ``TrainConfig.lr`` at step 0 … total − 1. Lengths are fractions of the whole training,
so that a schedule means the same at any length.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field

from bitline.configuration import Frozen

Fraction = Annotated[float, Field(ge=0, lt=1)]


class _Schedule(Frozen):
    warmup: Fraction = Field(0.0, description="share of all steps with a linear rise from near zero")

    def factor(self, step: int, total: int) -> float:
        """The factor on the learning rate at ``step`` of ``total``."""
        rise = round(self.warmup * total)
        if step < rise:
            return (step + 1) / rise * self._shape(0.0)
        return self._shape(min((step - rise) / max(total - rise, 1), 1.0))

    @abstractmethod
    def _shape(self, t: float) -> float:
        """The factor at a share t (0..1) of the steps after warm-up."""


class Constant(_Schedule):
    """The learning rate as given."""

    kind: Literal["constant"] = "constant"

    def _shape(self, t: float) -> float:
        return 1.0


class Cosine(_Schedule):
    """Half a cosine from 1 down to ``end`` (Loshchilov and Hutter, ICLR 2017, without restarts)."""

    kind: Literal["cosine"] = "cosine"
    end: float = Field(0.0, ge=0, le=1, description="last factor")

    def _shape(self, t: float) -> float:
        return _cosine(1.0, self.end, t)


class Step(_Schedule):
    """Multiplied by ``gamma`` at each milestone, a share of the steps after warm-up."""

    kind: Literal["step"] = "step"
    milestones: tuple[Fraction, ...] = (0.5, 0.75)
    gamma: float = Field(0.1, gt=0)

    def _shape(self, t: float) -> float:
        return self.gamma ** sum(t >= milestone - 1e-9 for milestone in self.milestones)


class OneCycle(_Schedule):
    """Up from ``start`` to 1 during ``rise`` of the steps, then down to ``end``, both along a cosine (Smith and Topin
    2018). The momentum stays as it is."""

    kind: Literal["one_cycle"] = "one_cycle"
    rise: Fraction = 0.3
    start: float = Field(0.04, ge=0, le=1)
    end: float = Field(1e-4, ge=0, le=1)

    def _shape(self, t: float) -> float:
        if t < self.rise:
            return _cosine(self.start, 1.0, t / self.rise)
        return _cosine(1.0, self.end, (t - self.rise) / (1 - self.rise))


def _cosine(first: float, last: float, t: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * t)) / 2


Schedule = Annotated[Constant | OneCycle | Cosine | Step, Field(discriminator="kind")]
