"""What side paths may add to a network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bitline.configuration import Frozen
from bitline.cost import SideCost
from bitline.units import share

Measure = Literal["parameters", "macs", "energy"]


class Budget(Frozen):
    """The largest overhead, and how steep the reward falls beyond it: η · max(0, overhead − share) / share."""

    share: float = Field(default=0.05, gt=0, description="of all side paths, relative to the network")
    of: Measure = Field(
        default="parameters",
        description="numbers, multiplications, or energy under the technology's first ADC law",
    )
    eta: float = Field(default=1.0, ge=0, description="η, in accuracies relative to the original")

    @staticmethod
    def read(text: str, of: Measure = "parameters") -> Budget:
        """From ``5%`` or ``0.05``; raises ValueError for anything else."""
        return Budget(share=share(text, "budget"), of=of)

    def used(self, total: SideCost) -> float | None:
        """What side paths take of a network, ``total`` of ``side_costs``; None where energies are not told."""
        if self.of == "energy":
            return next(iter(total.energy_shares.values()), None)
        return total.parameter_share if self.of == "parameters" else total.mac_share

    def penalty(self, overhead: float) -> float:
        """What is taken from the reward of a placement with this overhead."""
        return self.eta * max(0.0, overhead - self.share) / self.share
