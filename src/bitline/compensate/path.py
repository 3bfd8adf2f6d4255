"""What all kinds of side paths share: a configuration that builds one for a layer, and how its weights are held."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from bitline import draws
from bitline.configuration import Frozen
from bitline.macro import Macro
from bitline.nn import CimLayer, SidePath

POOLS: tuple[Any, ...] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)

P = TypeVar("P", bound="Path")
Stands = Literal["alone", "around", "inside"]
"""Where a side path may be when the layer has another: nowhere, around that, or between that and the array."""


class Path(Frozen):
    """A kind of side path."""

    kind: str

    @property
    @abstractmethod
    def title(self) -> str:
        """In a few words."""

    @abstractmethod
    def build(self, layer: CimLayer) -> SidePath:
        """One for this layer, which is changed by nothing or by what ``take_back`` undoes."""

    STANDS: ClassVar[Stands] = "alone"
    SIZE: ClassVar[str | None] = None
    """The key that is its size, if one is; of a larger size it costs more, which ``place`` orders placements by."""
    SIZES: ClassVar[tuple[float, ...]] = ()
    """Sizes worth a try, from the cheapest to the dearest: what ``place`` and ``harden`` choose from unless told."""
    WHY_NOT_TRAINED: ClassVar[str | None] = None
    """Why there is nothing in it to train; None where there is."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """Dotted-name patterns that have to match a layer of the network."""
        return ()

    def sized(self: P, size: float) -> P:
        """The kind with another size: the key that ``SIZE`` names (`width`, `rank`, `share`).

        Raises ValueError for a size it cannot have, and for a kind that has none.
        """
        if self.SIZE is None:
            raise ValueError(f"size {size:g}: a side path of kind {self.kind!r} has no size")
        value = int(size) if size == int(size) else size
        try:
            return type(self).model_validate(self.model_dump() | {self.SIZE: value})
        except ValidationError as error:
            told = f"{self.SIZE} {size:g}: {error.errors()[0]['msg'].lower()}"
            usual = ", ".join(f"{one:g}" for one in self.SIZES)
            raise ValueError(told + (f"; of kind {self.kind!r} usual are {usual}" if usual else "")) from None

    def refuses(self, macro: Macro) -> str | None:
        """Why it cannot stand beside a layer on this macro; None if it can."""
        return None


class Trained(Path):
    """A kind whose weights are trained, with the layer's own frozen."""

    weights: Literal["digital", "analog"] = Field(
        default="digital", description="exact, or on the macro too, with its weight variation, drawn for each die"
    )

    def told(self, name: str) -> str:
        """A title, and where the weights are held."""
        return f"{name} in analog" if self.weights == "analog" else name

    def refuses(self, macro: Macro) -> str | None:
        if self.weights == "analog" and (macro.variation is None or macro.variation.fresh):
            return (
                "weights: analog gives a side path the macro's weight `variation`, drawn for each die, and the macro "
                "has none: remove it, or add a variation"
            )
        return None


class TrainedPath(SidePath):
    """A side path with trained weights: its parameters, in the arithmetic its configuration says."""

    config: Trained

    def __init__(self, config: Trained) -> None:
        super().__init__()
        self.config = config
        self._draws: dict[str, tuple[Any, Tensor | None]] = {}

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def exact(self, name: str) -> Tensor:
        """A parameter that is exact; raises ValueError where the path's own weights are on the macro."""
        if self.config.weights == "analog":
            raise ValueError("its own weights are on the macro, too (weights: analog)")
        return self.get_parameter(name)

    def held(self, layer: CimLayer, name: str) -> Tensor:
        """A parameter as it is held: exact, or with the error of this die. Biases are exact."""
        value = self.get_parameter(name)
        error = layer.macro.variation
        if self.config.weights == "digital" or error is None:
            return value
        silicon = layer.silicon
        whose = (silicon.chip, silicon.write, value.device, error.varies, error.model_dump(exclude={"sigma"}))
        if name not in self._draws or self._draws[name][0] != whose:
            self._draws[name] = (whose, layer.drawn(f"side path {name}", value.shape, value.device))
        return error.apply(value, self._draws[name][1])


def normals(layer: CimLayer, what: str, *shape: int) -> Tensor:
    """Standard normal numbers of a layer, float32, the same whenever they are asked for."""
    drawn = draws.normal(draws.key("side path", what, layer.site.name), torch.arange(math.prod(shape)))
    return drawn.view(shape).to(layer.weight)


def axis(layer: CimLayer) -> int:
    """The axis of channels of a layer's inputs and outputs, from the last."""
    return -1 - dimensions(layer)


def dimensions(layer: CimLayer) -> int:
    """Of its positions: 0 of a linear layer."""
    return len(getattr(layer.geometry, "kernel", ()))


def outputs(layer: CimLayer) -> int:
    """Channels out."""
    return len(layer.weight)


def inputs(layer: CimLayer) -> int:
    """Channels in."""
    per_output, _, groups = layer.matrix_shape
    return groups * per_output // math.prod(getattr(layer.geometry, "kernel", ()))


def per_channel(layer: CimLayer, value: Tensor) -> Tensor:
    """One value a channel, (N,), shaped to meet the layer's outputs."""
    return value.view(-1, *[1] * dimensions(layer))


def pointwise(layer: CimLayer, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution 1×1 over the channels of ``x``, laid out as the layer's outputs."""
    return F.linear(x.movedim(axis(layer), -1), weight, bias).movedim(-1, axis(layer))


def pooled(layer: CimLayer, x: Tensor, y: Tensor) -> Tensor:
    """The layer's inputs averaged to the extent of its outputs."""
    number = dimensions(layer)
    return POOLS[number - 1](x, list(y.shape[-number:])) if number else x


def parameter(value: Tensor) -> nn.Parameter:
    """A trained parameter."""
    return nn.Parameter(value.detach().clone())
