"""Read noise of cells that depends on what they hold and on how old they are: a variance of each cell, which a driven
row multiplies by its square."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from bitline.configuration import Frozen
from bitline.devices.profiles import AnyProfile
from bitline.units import Seconds


class ReadNoise(Frozen):
    """The noise of a driven cell."""

    ages: ClassVar[bool] = False  # whether it depends on the time since programming

    @abstractmethod
    def variance(self, levels: Tensor, state: Tensor, level_high: int, seconds: float | None) -> Tensor:
        """Variance, levels², fresh at each read, of cells that hold ``levels`` (from 0 S) and were programmed to
        ``state``, ``seconds`` ago (absent: just now)."""

    def frozen(self, levels: Tensor, state: Tensor, level_high: int, seconds: float | None) -> Tensor | None:
        """Variance of what has wandered since programming and stands still while reads are made; None: nothing."""
        return None


class StateNoise(ReadNoise):
    """A standard deviation for each state, (G_max - G_min) · sigma(s), whatever the age."""

    kind: Literal["state"] = "state"
    sigma: AnyProfile = Field(description="standard deviation at each state, relative to G_max - G_min, 0 … 1")

    @model_validator(mode="after")
    def _range(self) -> StateNoise:
        self.sigma.within(0, 1, "sigma")
        return self

    def variance(self, levels: Tensor, state: Tensor, level_high: int, seconds: float | None) -> Tensor:
        return (level_high * self.sigma.at(state)) ** 2


class FlickerNoise(ReadNoise):
    """1/f noise, S_G/G² = Q/f, over a band from 1/t on: G · q(s) · sqrt(ln((t + t_read) / (2 t_read))).

    Nandakumar et al., ICECS 2019; Joshi et al., Nat. Commun. 2020, Methods. All of it is fresh at each read, unless
    ``window`` says how long a set of reads takes: then what is slower than that stands still meanwhile and is frozen
    with the column, and the law with t = window is fresh.
    """

    ages: ClassVar[bool] = True
    kind: Literal["flicker"] = "flicker"
    q: AnyProfile = Field(description="amplitude at each state, relative to G, 0 … 1")
    t_read: Seconds = Field(default=250e-9, gt=0, description="width of a read pulse")
    t0: Seconds = Field(default=20.0, gt=0, description="age of a column as programmed")
    window: Seconds | None = Field(default=None, gt=0, description="time that reads of one column take together")

    @model_validator(mode="after")
    def _range(self) -> FlickerNoise:
        self.q.within(0, 1, "q")
        return self

    def variance(self, levels: Tensor, state: Tensor, level_high: int, seconds: float | None) -> Tensor:
        time = self.t0 if seconds is None else seconds
        return (levels * self.q.at(state)) ** 2 * self._band(time if self.window is None else min(time, self.window))

    def frozen(self, levels: Tensor, state: Tensor, level_high: int, seconds: float | None) -> Tensor | None:
        if self.window is None:
            return None
        time = self.t0 if seconds is None else seconds
        slow = self._band(time) - self._band(min(time, self.window))
        return (levels * self.q.at(state)) ** 2 * slow

    def _band(self, seconds: float) -> float:
        return max(0.0, math.log((seconds + self.t_read) / (2 * self.t_read)))


AnyReadNoise = Annotated[StateNoise | FlickerNoise, Field(discriminator="kind")]
