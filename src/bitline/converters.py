"""Converters: the ADC that turns a column's value into a code, and the DAC that drives a word line.

Values are in *counts*: one input step times one cell level, so that an ideal read of rows x and cells w gives Σ x·w.
An ADC's code c stands for the value low + step · c. Rounding is half up everywhere. Errors of a converter are in LSB
(one step) and frozen with the die, noise is fresh at each conversion.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bitline.configuration import Frozen

CANDIDATES = 60  # clip levels tried by the mse rule


class RangeRule(Frozen):
    """How a converter's range is found: by the circuit, or, where ``calibrated``, for each layer by what it sees."""

    calibrated: ClassVar[bool] = False
    kind: str

    @property
    def title(self) -> str:
        """In a few words."""
        return f"{self.kind} range"

    @property
    def trained(self) -> bool:
        """Whether the step is learned from there on."""
        return False

    @abstractmethod
    def start(self, adc: Adc, low: float, high: float) -> tuple[float, float]:
        """(low, step) for a column whose values lie between ``low`` and ``high``; before calibration, where there is
        one."""

    def fit(self, adc: Adc, values: Tensor, signed: bool) -> tuple[float, float]:
        """(low, step) from ``values`` (n,) that were seen, counts, of one sign unless ``signed``."""
        raise NotImplementedError(f"{self.title}: nothing is calibrated")


class FullRange(RangeRule):
    """From the smallest to the largest value that a column of ideal cells can have; in whole counts if they fit."""

    kind: Literal["full"] = "full"

    def start(self, adc: Adc, low: float, high: float) -> tuple[float, float]:
        start, step = adc.cover(low, high)
        return (start / step, 1.0) if step <= 1 else (start, step)


class FixedRange(RangeRule):
    """A range set by the circuit."""

    kind: Literal["fixed"] = "fixed"
    low: float = Field(description="value of the first code, counts")
    high: float = Field(description="value of the last code, counts")

    @model_validator(mode="after")
    def _order(self) -> FixedRange:
        if not self.low < self.high:
            raise ValueError(f"range: low = {self.low:g} must be below high = {self.high:g}")
        return self

    def start(self, adc: Adc, low: float, high: float) -> tuple[float, float]:
        return self.low, (self.high - self.low) / (adc.codes - 1)


class CalibratedRange(RangeRule):
    """A range set per layer from the values seen in a few batches, then kept. Zero is always a code."""

    calibrated: ClassVar[bool] = True
    kind: Literal["calibrated"] = "calibrated"
    rule: Literal["percentile", "mse"] = "mse"
    percentile: float = Field(default=99.9, gt=50, le=100, description="share of values inside, %; for rule percentile")
    learn: bool = Field(default=False, description="train the step from there on (Esser et al., ICLR 2020)")

    @property
    def title(self) -> str:
        return f"percentile {self.percentile:g}" if self.rule == "percentile" else "mse"

    @property
    def trained(self) -> bool:
        return self.learn

    def start(self, adc: Adc, low: float, high: float) -> tuple[float, float]:
        """(low, step) that covers everything."""
        return adc.cover(low, high)

    def fit(self, adc: Adc, values: Tensor, signed: bool) -> tuple[float, float]:
        """The range whose ends the percentile is, or the one of least square error among sixty up to the largest."""
        extent = values.abs() if signed else values.clamp(min=0)
        if self.rule == "percentile":
            clips = [float(torch.quantile(extent[:: max(1, len(extent) // 1_000_000)], self.percentile / 100))]
        else:
            clips = [float(extent.max()) * (i + 1) / CANDIDATES for i in range(CANDIDATES)]
        best: tuple[float, float, float] | None = None
        for clip in clips:
            low, step = adc.cover(-clip if signed else 0.0, max(clip, 1e-6))
            code = ((values - low) / step + 0.5).floor().clamp(0, adc.codes - 1)
            error = float((code * step + low - values).double().square().mean())
            if best is None or error < best[0]:
                best = (error, low, step)
        assert best is not None
        return best[1:]


Range = Annotated[FullRange | FixedRange | CalibratedRange, Field(discriminator="kind")]


class Adc(Frozen):
    """An analog-to-digital converter, shared by ``columns_per_adc`` neighbouring columns of the macro."""

    kind: Literal["adc"] = "adc"
    bits: int = Field(ge=1, le=16)
    range: Range = FullRange()
    gain_sigma: float | None = Field(default=None, gt=0, le=0.5, description="frozen relative gain error, a converter")
    offset_sigma: float | None = Field(default=None, gt=0, le=64, description="frozen offset, LSB, a converter")
    gains: tuple[float, ...] | None = Field(
        default=None, min_length=1, description="gain of each converter of this die, by physical number, 1: none off"
    )
    offsets: tuple[float, ...] | None = Field(
        default=None, min_length=1, description="offset of each converter of this die, by physical number, LSB"
    )
    gain_about: Literal["first", "zero"] = Field(
        default="first", description="what a gain error leaves alone: the first code, or the value 0"
    )
    dnl_sigma: float | None = Field(
        default=None, gt=0, le=0.5, description="frozen random step error, LSB, a code and converter"
    )
    inl: tuple[float, ...] | None = Field(
        default=None,
        min_length=2,
        description="INL common to all converters, LSB, at evenly spaced codes from first to last",
    )
    levels: tuple[float, ...] | None = Field(
        default=None, description="non-uniform reference levels, 2^bits rising numbers from 0 (first code) to 1 (last)"
    )
    noise: float | None = Field(default=None, gt=0, le=64, description="fresh noise at the input, LSB rms")

    @model_validator(mode="after")
    def _levels(self) -> Adc:
        if self.levels is not None:
            if len(self.levels) != self.codes:
                raise ValueError(f"converter.levels: {len(self.levels)} given, 2^bits = {self.codes} needed")
            if any(b <= a for a, b in zip(self.levels, self.levels[1:], strict=False)):
                raise ValueError("converter.levels must rise from code to code")
            if self.levels[0] != 0 or self.levels[-1] != 1:
                raise ValueError(
                    f"converter.levels must run from 0 to 1, not {self.levels[0]:g} to {self.levels[-1]:g}"
                )
        return self

    @model_validator(mode="after")
    def _own(self) -> Adc:
        for name, own in (("gain", self.gains), ("offset", self.offsets)):
            if own is not None and getattr(self, f"{name}_sigma") is not None:
                raise ValueError(f"converter.{name}s tell this die's converters, {name}_sigma draws others: give one")
        if any(gain <= 0 for gain in self.gains or ()):
            raise ValueError(f"converter.gains must be above 0, not {min(self.gains or ()):g}")
        return self

    @property
    def codes(self) -> int:
        """Number of codes."""
        return 1 << self.bits

    @property
    def uniform(self) -> bool:
        """Whether thresholds are evenly spaced on every converter."""
        return self.inl is None and self.levels is None and self.dnl_sigma is None

    def cover(self, low: float, high: float) -> tuple[float, float]:
        """(low, step) that covers values low … high with zero on a code."""
        if low >= 0:
            return 0.0, max(high, 1e-12) / (self.codes - 1)
        if self.bits == 1:
            raise ValueError("a 1-bit converter cannot hold zero and both signs: give it a fixed range")
        half = self.codes // 2
        step = max(-low / half, high / (half - 1), 1e-12)
        return -half * step, step

    def thresholds(self, dnl: Tensor | None, device: torch.device) -> Tensor:
        """Values (LSB) at which the code rises, (converters or 1, codes - 1), rising.

        ``dnl``: standard normals (converters, codes - 2), the errors of the inner steps; offset and gain are taken
        out (end-point fit).
        """
        top = self.codes - 1
        at = torch.arange(top, dtype=torch.float64, device=device)
        if self.levels is not None:
            levels = torch.tensor(self.levels, dtype=torch.float64, device=device) * top
            edges = (levels[1:] + levels[:-1]) / 2
        else:
            edges = at + 0.5
        if self.inl is not None:
            curve = torch.tensor(self.inl, dtype=torch.float64, device=device)
            place = at / max(top - 1, 1) * (len(self.inl) - 1)
            left = place.floor().clamp(max=len(self.inl) - 2).long()
            edges = edges + curve[left] + (curve[left + 1] - curve[left]) * (place - left)
        edges = edges[None]
        if dnl is not None and self.dnl_sigma is not None:
            walk = torch.cat([dnl.new_zeros(len(dnl), 1), (self.dnl_sigma * dnl).cumsum(1)], dim=1)
            edges = edges + walk - walk[:, -1:] * (at / max(top - 1, 1))
        return edges.cummax(1).values.float()

    def values(self, device: torch.device) -> Tensor | None:
        """Value of each code in LSB where it is not the code itself."""
        if self.levels is None:
            return None
        return torch.tensor(self.levels, device=device, dtype=torch.float64).mul(self.codes - 1).float()


class Driver(Frozen):
    """A word-line driver (DAC): what the digits 0, 1, … really drive, in input steps."""

    kind: Literal["dac"] = "dac"
    levels: tuple[float, ...] | None = Field(default=None, description="driven value of digits 0, 1, …, all of them")
    inl: tuple[float, ...] | None = Field(
        default=None, min_length=2, description="INL, input steps, at evenly spaced digits from lowest to highest"
    )
    inl_sigma: float | None = Field(
        default=None, gt=0, le=1, description="frozen random error of each level, input steps, a row"
    )

    def table(self, low: int, high: int) -> Tensor:
        """Driven value of digits low … high (float64); raises ValueError where the number of levels is wrong."""
        digits = torch.arange(low, high + 1, dtype=torch.float64)
        driven = digits.clone()
        if self.levels is not None:
            if len(self.levels) != len(digits):
                raise ValueError(f"driver.levels: {len(self.levels)} given, digits {low} to {high} need {len(digits)}")
            driven = torch.tensor(self.levels, dtype=torch.float64)
        if self.inl is not None:
            place = (digits - low) / max(high - low, 1) * (len(self.inl) - 1)
            left = place.floor().clamp(max=len(self.inl) - 2).long()
            curve = torch.tensor(self.inl, dtype=torch.float64)
            driven = driven + curve[left] + (curve[left + 1] - curve[left]) * (place - left)
        return driven
