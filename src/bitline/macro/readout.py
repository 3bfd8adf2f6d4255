"""How columns become a code, without errors: the legs that meet, and the converter's scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from bitline.macro.macro import Macro


@dataclass(frozen=True)
class Readout:
    """Legs, each a column of its own, meet with their ``signs``; the first of ``codes`` codes stands for ``low``
    counts, each other one for ``step`` more, rounded half up and clipped."""

    signs: tuple[int, ...]
    low: float
    step: float
    codes: int

    @staticmethod
    def of(macro: Macro) -> Readout:
        """That of a macro's conversions, its converter's own errors left out.

        Raises ValueError where it has no converter, or one whose range each layer calibrates for itself.
        """
        adc = macro.converter
        if adc is None or adc.range.calibrated:
            what = "no converter" if adc is None else "a calibrated converter range, another in each layer"
            raise ValueError(f"macro {macro.name} has {what}: one with a fixed or full range is expected")
        low, step = adc.range.start(adc, *macro.value_range)
        return Readout(macro.leg_signs, low, step, adc.codes)

    @property
    def span(self) -> float:
        """Counts from the first code's to one beyond the last one's."""
        return self.step * self.codes

    @property
    def edges(self) -> Float[np.ndarray, " edges"]:
        """Values (counts) at which the code rises."""
        return self.low + (np.arange(1, self.codes) - 0.5) * self.step

    def met(self, legs: Float[np.ndarray, "n L"] | Integer[np.ndarray, "n L"]) -> Float[np.ndarray, " n"]:
        """What the legs' values make together, counts."""
        return legs @ np.asarray(self.signs, dtype=float)

    def code(self, value: Float[np.ndarray, "*n"] | Integer[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Codes of values (counts), whole numbers; NaN of NaN."""
        return np.clip(np.floor((value - self.low) / self.step + 0.5), 0, self.codes - 1)
