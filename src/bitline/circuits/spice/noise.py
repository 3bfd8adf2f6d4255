"""Fresh noise of a read: what fills ``{{noise.NAME}}``, drawn anew for each read and keyed, not streamed.

ngspice's own sources (`trnoise`) take no seed in batch mode (ngspice 39: neither `.option seed` nor `set rndseed` nor
`setseed`), so that a read could not be repeated; a number in the deck can.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from bitline.configuration import Frozen
from bitline.units import Farads, Siemens

BOLTZMANN = 1.380649e-23  # J/K


class Reset(Frozen):
    """A switch that lets go of a capacitor leaves σ = sqrt(kT/C) on it, V (Sarpeshkar, Delbrück, Mead, IEEE Circuits
    and Devices 9(6), 1993)."""

    kind: Literal["reset"] = "reset"
    capacitance: Farads = Field(gt=0)

    def sigma(self, kelvin: float) -> float:
        """V."""
        return math.sqrt(BOLTZMANN * kelvin / self.capacitance)


class Channel(Frozen):
    """Thermal noise of a conducting channel, of one-sided density 4 k T γ g (A²/Hz): the charge it passes in a time t
    has σ = sqrt(2 k T γ g) · sqrt(t). What fills the place is the first factor, C/√s (van der Ziel, Noise in Solid
    State Devices and Circuits, 1986; γ = 2/3 of a long channel in saturation)."""

    kind: Literal["channel"] = "channel"
    conductance: Siemens = Field(gt=0, description="g: of the stack, as seen by what its charge goes to")
    gamma: float = Field(default=2 / 3, gt=0)

    def sigma(self, kelvin: float) -> float:
        """C/√s."""
        return math.sqrt(2 * BOLTZMANN * kelvin * self.gamma * self.conductance)


class Plain(Frozen):
    """Normal, in whatever unit the netlist takes it."""

    kind: Literal["normal"] = "normal"
    deviation: float = Field(gt=0)

    def sigma(self, kelvin: float) -> float:
        """As the netlist takes it."""
        return self.deviation


AnyNoise = Annotated[Reset | Channel | Plain, Field(discriminator="kind")]
