"""A side path around another: what a step on each chip adds to one that holds for all chips."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn

from bitline.configuration import Frozen
from bitline.macro import Macro
from bitline.nn import CimLayer, Read, ReadStep, SidePath, Steps, layers

S = TypeVar("S", bound=SidePath)


class Nested(Frozen):
    """What stands around what."""

    outer: Any
    inner: Any

    @property
    def kind(self) -> str:
        """Both kinds."""
        return f"{self.outer.kind} around {self.inner.kind}"


class NestedPath(SidePath):
    """``outer`` sees the layer's inputs and corrects its outputs; for it the layer is the array with ``inner``."""

    config: Nested
    outer: SidePath
    inner: SidePath

    def __init__(self, outer: SidePath, inner: SidePath) -> None:
        super().__init__()
        self.config = Nested(outer=outer.config, inner=inner.config)
        self.outer, self.inner = outer, inner

    def forward(self, layer: CimLayer, x: Tensor, read: Read) -> Tensor:
        y: Tensor = self.outer(layer, x, lambda driven: self.inner(layer, driven, read))
        return y

    def lower(self, layer: CimLayer, x: int, read: ReadStep, steps: Steps) -> int:
        return self.outer.lower(layer, x, lambda driven: self.inner.lower(layer, driven, read, steps), steps)

    def driven(self, layer: CimLayer, x: Tensor) -> Tensor:
        return self.inner.driven(layer, self.outer.driven(layer, x))

    def refuses(self, macro: Macro) -> str | None:
        return self.outer.refuses(macro) or self.inner.refuses(macro)

    @property
    def size(self) -> int:
        return self.outer.size + self.inner.size

    def macs(self, positions: int, inputs: int) -> int:
        return self.outer.macs(positions, inputs) + self.inner.macs(positions, inputs)

    def fetched(self, positions: int, inputs: int) -> int:
        return self.outer.fetched(positions, inputs) + self.inner.fetched(positions, inputs)

    @property
    def terms(self) -> int:
        return max(self.outer.terms, self.inner.terms)

    def take_back(self, layer: CimLayer) -> None:
        self.outer.take_back(layer)
        self.inner.take_back(layer)


def paths_of(model: nn.Module, kind: type[S]) -> dict[CimLayer, S]:
    """The side paths of a kind, alone or nested, by layer."""
    return {
        layer: path
        for layer in layers(model).values()
        if layer.side is not None
        for path in layer.side.modules()
        if isinstance(path, kind)
    }
