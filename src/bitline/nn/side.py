"""What digital arithmetic does beside a layer's array: it says what goes in, sees what came out, and corrects that."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import BaseModel
from torch import Tensor, nn

if TYPE_CHECKING:
    from bitline.macro import Macro
    from bitline.nn.cim import CimLayer

Read = Callable[[Tensor], Tensor]


class SidePath(nn.Module):
    """A correction of one layer's outputs; ``bitline.compensate`` has the kinds. The layer calls it and keeps it as
    ``side``, so that names in the network, checkpoints and copies are as ever."""

    config: BaseModel

    @abstractmethod
    def forward(self, layer: CimLayer, x: Tensor, read: Read) -> Tensor:
        """The corrected outputs for the layer's inputs ``x``; ``read``: what the layer gives for such inputs by itself.
        All are in the layer's own layout."""

    def driven(self, layer: CimLayer, x: Tensor) -> Tensor:
        """What of the layer's inputs its array is driven by."""
        return x

    def refuses(self, macro: Macro) -> str | None:
        """Why its layer cannot sit on this macro; None if it can."""
        return None

    @property
    @abstractmethod
    def size(self) -> int:
        """Numbers that it stores."""

    @abstractmethod
    def macs(self, positions: int, inputs: int) -> int:
        """Multiplications with addition for one sample, whose outputs have so many positions and whose layer has so
        many ``inputs``."""

    @abstractmethod
    def fetched(self, positions: int, inputs: int) -> int:
        """Inputs that it takes from memory for one sample, whose layer has so many ``inputs``; each again for every
        position that it meets. What came out of the layer is corrected before it is stored, and not fetched."""

    @property
    @abstractmethod
    def terms(self) -> int:
        """Products of its longest sum: what its accumulators are as wide for."""

    def take_back(self, layer: CimLayer) -> None:
        """Give back what it took out of the layer, which is to lose it."""
