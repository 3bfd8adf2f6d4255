"""What the layers of one model share."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from bitline.macro import Chip


@dataclass
class Silicon:
    """What the layers of one model share: the die they sit on, and the reads made now. Never saved, never broadcast."""

    chip: Chip = field(default_factory=lambda: Chip(0, 0))
    write: int = 0
    seed: int = 0
    read: int = 0
    samples: Tensor | None = None
    passes: int = 0

    def begin(self, samples: Tensor | None, read: int = 0) -> None:
        """Announce a forward pass over these samples of the data set (int64, (B,)), read for the ``read``-th time."""
        self.samples, self.read = samples, read
        self.passes += 1
