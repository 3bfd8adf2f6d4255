"""Steps of a bundle as they are written: one after the other, and those that stand for a side path of a layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bitline.lab.bundle import ConvShape, DenseShape, Node
from bitline.macro import Conv
from bitline.nn import CimLayer, Steps


@dataclass
class Written:
    """Steps so far, and their tensors by name."""

    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def add(
        self,
        op: str,
        *inputs: int,
        settings: dict[str, Any] | None = None,
        tensors: dict[str, Tensor] | None = None,
        layer: str | None = None,
    ) -> int:
        """Write down one more; returns its number."""
        number, own = len(self.nodes), tensors or {}
        names = {key: f"node/{number}/{key}" for key in own}
        self.tensors |= {names[key]: value.detach().cpu() for key, value in own.items()}
        self.nodes.append(Node(op=op, inputs=inputs, layer=layer, settings=settings or {}, tensors=names))
        return number

    def layer(self, layer: CimLayer, x: int) -> int:
        """A layer with its side path, if it has one. Raises ValueError, naming layer and kind, where that has no plain
        steps."""

        def read(inputs: int) -> int:
            return self.add("layer", inputs, layer=layer.site.name)

        if layer.side is None:
            return read(x)
        try:
            return layer.side.lower(layer, x, read, Beside(self, layer))
        except ValueError as error:
            kind = getattr(layer.side.config, "kind", type(layer.side).__name__)
            raise ValueError(
                f"{layer.site.name}: its side path of kind {kind!r} cannot be held by a bundle: {error}; "
                "bitline.compensate.remove(model) takes it away"
            ) from None


class Beside(Steps):
    """The steps of one layer."""

    def __init__(self, written: Written, layer: CimLayer) -> None:
        self.written, self.shape = written, shape_of(layer)
        self.positions = len(self.shape.kernel) if isinstance(self.shape, ConvShape) else 0

    def product(self, x: int, weight: Tensor, groups: int = 1) -> int:
        if isinstance(self.shape, DenseShape):
            return self._product(x, weight, None, groups)
        before, after = zip(*self.shape.pads, strict=True)
        if before != after:
            x = self.written.add("pad", x, settings={"before": before, "after": after})
            before = (0,) * self.positions
        return self._product(x, weight, None, groups, self.shape.stride, before, self.shape.dilation)

    def pointwise(self, x: int, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> int:
        ones = (1,) * self.positions
        return self._product(x, weight.reshape(*weight.shape, *ones), bias, groups, ones, (0,) * self.positions, ones)

    def affine(self, x: int, scale: Tensor | None = None, shift: Tensor | None = None) -> int:
        own = {name: value.float() for name, value in (("scale", scale), ("shift", shift)) if value is not None}
        return self.written.add("affine", x, settings={"axis": -1 - self.positions}, tensors=own)

    def add(self, x: int, y: int) -> int:
        return self.written.add("add", x, y, settings={"alike": True})

    def pooled(self, x: int, y: int) -> int:
        return self.written.add("avg_pool_like", x, y, settings={"axes": self.positions}) if self.positions else x

    def _product(self, x: int, weight: Tensor, bias: Tensor | None, groups: int, *geometry: tuple[int, ...]) -> int:
        """A linear product, or one with (stride, padding, dilation), a number a dimension."""
        own = {"weight": weight.float()} | ({} if bias is None else {"bias": bias.float()})
        if not self.positions:
            return self.written.add("linear", x, tensors=own)
        settings = dict(zip(("stride", "padding", "dilation"), geometry, strict=True))
        return self.written.add("conv", x, settings=settings | {"groups": groups}, tensors=own)


def shape_of(layer: CimLayer) -> DenseShape | ConvShape:
    """Kernel, stride, dilation and padding of a layer. Raises ValueError for padding with anything but zeros."""
    geometry = layer.geometry
    if not isinstance(geometry, Conv):
        return DenseShape()
    mode: Any = layer.padding_mode
    flat: Any = layer._reversed_padding_repeated_twice
    if mode != "zeros":
        raise ValueError(f"{layer.site.name}: padding_mode {mode!r}; a bundle pads with zeros")
    pads = tuple((int(flat[i]), int(flat[i + 1])) for i in range(len(flat) - 2, -1, -2))
    return ConvShape(kernel=geometry.kernel, stride=geometry.stride, dilation=geometry.dilation, pads=pads)
