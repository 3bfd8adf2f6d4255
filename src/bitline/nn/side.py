"""What digital arithmetic does beside a layer's array: it says what goes in, sees what came out, and corrects that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import BaseModel
from torch import Tensor, nn

if TYPE_CHECKING:
    from bitline.macro import Macro
    from bitline.nn.cim import CimLayer

Read = Callable[[Tensor], Tensor]
ReadStep = Callable[[int], int]


class Steps(ABC):
    """Plain arithmetic about one layer, written down to be done elsewhere, without the code of a side path.

    A step is known by its number. What it gives is laid out as the layer's inputs and outputs: channels C on an axis of
    their own, perhaps positions behind them.
    """

    @abstractmethod
    def product(self, x: int, weight: Tensor, groups: int = 1) -> int:
        """A product with other weights, (N, C / groups, …) or (N, C): kernel, stride, dilation and padding are the
        layer's. No bias."""

    @abstractmethod
    def pointwise(self, x: int, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> int:
        """A product over the channels of each position: ``weight`` (N, C / groups), ``bias`` (N,)."""

    @abstractmethod
    def affine(self, x: int, scale: Tensor | None = None, shift: Tensor | None = None) -> int:
        """scale · x + shift, each (C,); absent: 1, 0."""

    @abstractmethod
    def add(self, x: int, y: int) -> int:
        """x + y, of one shape."""

    @abstractmethod
    def pooled(self, x: int, y: int) -> int:
        """``x`` averaged to the positions of ``y``; where there are none, ``x``."""


class SidePath(nn.Module):
    """A correction of one layer's outputs; ``bitline.compensate`` has the kinds. The layer calls it and keeps it as
    ``side``, so that names in the network, checkpoints and copies are as ever."""

    config: BaseModel

    @abstractmethod
    def forward(self, layer: CimLayer, x: Tensor, read: Read) -> Tensor:
        """The corrected outputs for the layer's inputs ``x``; ``read``: what the layer gives for such inputs by itself.
        All are in the layer's own layout."""

    def lower(self, layer: CimLayer, x: int, read: ReadStep, steps: Steps) -> int:
        """``forward`` in plain steps, on the macro that the layer computes with; returns the last one, the corrected
        outputs. ``x``: the layer's inputs; ``read``: what the layer gives for such inputs by itself. Raises ValueError,
        saying why, where there are no such steps."""
        raise ValueError("nobody has written its arithmetic in plain steps (SidePath.lower)")

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
