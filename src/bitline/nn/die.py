"""What the layers of one model share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from bitline.macro import Chip

if TYPE_CHECKING:
    from bitline.nn.cim import CimLayer


@dataclass
class Silicon:
    """What the layers of one model share: the die they sit on, and the reads made now. Never saved, never broadcast."""

    chip: Chip = field(default_factory=lambda: Chip(0, 0))
    write: int = 0
    seed: int = 0
    read: int = 0
    samples: Tensor | None = None
    passes: int = 0
    written: dict[str, CimLayer] = field(default_factory=dict)  # layers whose arrays hold their weights, by site

    def begin(self, samples: Tensor | None, read: int = 0) -> None:
        """Announce a forward pass over these samples of the data set (int64, (B,)), read for the ``read``-th time."""
        self.samples, self.read = samples, read
        self.passes += 1

    def write_arrays(self, layer: CimLayer) -> None:
        """A layer is written into its arrays: layers that had one of them are there no more.

        So that evaluation holds what a chip of ``placement.arrays`` arrays does, however large the network is.
        """
        mine = layer.arrays
        for name, other in list(self.written.items()):
            if name != layer.site.name and not mine.isdisjoint(other.arrays):
                del self.written[name]
                other.erase()
        self.written[layer.site.name] = layer
