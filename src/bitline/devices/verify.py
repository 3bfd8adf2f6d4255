"""Write–verify: writing a cell again until it reads as it should, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bitline.configuration import Frozen
from bitline.devices.draw import Draw
from bitline.units import Siemens


@dataclass(frozen=True)
class Writes:
    """What writing cells took, in the shape of the cells."""

    pulses: Tensor  # int16, the first write included
    verified: Tensor  # bool: whether the cell was in the loop
    outside: Tensor  # bool: verified, and still read outside the tolerance at the last verify


class WriteVerify(Frozen):
    """After the first write, which leaves the cell's errors, each cell is read and corrected until it reads within the
    tolerance or the pulses are used up.

    A verify reads e + verify_sigma · r of the error e; a pulse makes it e - gain · (e + verify_sigma · r) + sigma · n,
    all relative to the range, n and r standard normal and new each time. With gain 1 and a quiet verify every pulse
    writes anew, and what converged is a normal distribution cut off at the tolerance. Cells that never converge keep
    what the last pulse left; ``Writes`` counts them. The loop as in Papandreou et al., ISCAS 2011; its limit by read
    noise: Nandakumar et al., ISCAS 2020; for chosen cells alone: Yan et al., DAC 2022 (SWIM).
    """

    levels: float | None = Field(default=None, gt=0, description="tolerance, ± levels")
    siemens: Siemens | None = Field(default=None, gt=0, description="tolerance, ± S, instead")
    most_pulses: int = Field(ge=1, le=10_000, description="pulses a cell, the first write included")
    sigma: float = Field(ge=0, le=1, description="standard deviation that a pulse leaves, relative to G_max - G_min")
    gain: float = Field(default=1.0, gt=0, le=1, description="share of the error seen that a pulse takes away")
    verify_sigma: float = Field(
        default=0.0, ge=0, le=1, description="noise of a verify, relative to G_max - G_min, rms; 0: reads exactly"
    )

    @model_validator(mode="after")
    def _tolerance(self) -> WriteVerify:
        if (self.levels is None) == (self.siemens is None):
            raise ValueError("write_verify: give the tolerance in `levels` or in `siemens`, one of them")
        return self

    def tolerance(self, level_high: int, span: float | None) -> float:
        """In levels; ``span``: G_max - G_min, S."""
        if self.levels is not None:
            return self.levels
        assert self.siemens is not None
        assert span is not None  # checked by the cell
        return self.siemens / span * level_high

    def exact(self) -> WriteVerify:
        """The loop without chance: pulses and verifies without errors of their own."""
        return self.model_copy(update={"sigma": 0.0, "verify_sigma": 0.0})

    def give_up(self, writes: Writes, stuck: Tensor) -> None:
        """Count cells that are ``stuck`` outside the tolerance: they get every pulse, in vain."""
        stuck = stuck & writes.verified
        writes.pulses[stuck] = self.most_pulses
        writes.outside[stuck] = True

    def correct(
        self, held: Tensor, wanted: Tensor, draw: Draw, level_high: int, tolerance: float, chosen: Tensor | None
    ) -> tuple[Tensor, Writes]:
        """(levels after the loop, what it took) of cells that hold ``held`` after their first write.

        ``tolerance``: levels; ``chosen``: the cells that are verified, of their shape; absent: all.
        """
        error = (held - wanted).flatten()
        verified = torch.ones_like(error, dtype=torch.bool) if chosen is None else chosen.flatten()
        pulses = torch.ones_like(error, dtype=torch.int16)
        outside = torch.zeros_like(verified)
        left = verified.nonzero().squeeze(1)
        flat = draw.some(torch.ones_like(held, dtype=torch.bool))
        for pulse in range(1, self.most_pulses + 1):
            some = flat.some(left)
            seen = error[left]
            if self.verify_sigma:
                seen = seen + level_high * self.verify_sigma * some.normal(f"verify {pulse}")
            wrong = seen.abs() > tolerance
            left, seen, some = left[wrong], seen[wrong], some.some(wrong)
            if not len(left) or pulse == self.most_pulses:
                break
            error[left] += level_high * self.sigma * some.normal(f"pulse {pulse}") - self.gain * seen
            pulses[left] += 1
        outside[left] = True
        shaped = (each.view(held.shape) for each in (pulses, verified, outside))
        return wanted + error.view(held.shape), Writes(*shaped)
