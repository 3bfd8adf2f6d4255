"""Other side paths with trained weights: low rank, vectors, and a random share of the weights kept digital."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from bitline import draws
from bitline.compensate.path import Trained, TrainedPath, normals, outputs, parameter, per_channel
from bitline.nn import CimLayer, Read, ReadStep, Steps


class LowRank(Trained):
    """F = F~ + U · (V * A): beside the array a product of rank ``rank``, each group's own in a grouped convolution.

    LoRA (Hu et al., ICLR 2022) beside analog weights: AHWA-LoRA (Li et al., arXiv 2411.17367). U begins at zero. V has
    the layer's kernel, stride and padding; it stores rank · (K + N) weights.
    """

    SIZE = "rank"
    SIZES = (1, 2, 4)
    kind: Literal["low_rank"] = "low_rank"
    rank: int = Field(default=2, ge=1)

    @property
    def title(self) -> str:
        return self.told(f"low rank {self.rank}")

    def build(self, layer: CimLayer) -> LowRankPath:
        return LowRankPath(self, layer)


class ProductPath(TrainedPath):
    """A path through few numbers: ``down`` (groups, rank, inputs) to them, ``up`` (groups, outputs, rank) from them."""

    up: Tensor
    down: Tensor

    def through(self, layer: CimLayer, x: int, steps: Steps, down: Tensor, up: Tensor) -> int:
        """The product by its two steps, each group's by itself."""
        groups, rank, _ = down.shape
        inner = steps.product(x, down.reshape(groups * rank, *layer.weight.shape[1:]), groups)
        return steps.pointwise(inner, up.flatten(0, 1), groups=groups)

    def fetched(self, positions: int, inputs: int) -> int:
        return positions * self.down.shape[0] * self.down.shape[-1]

    @property
    def terms(self) -> int:
        return max(self.down.shape[-1], self.up.shape[-1])


class LowRankPath(ProductPath):
    """U and V of one layer."""

    def __init__(self, config: LowRank, layer: CimLayer) -> None:
        super().__init__(config)
        rows, _, groups = layer.matrix_shape
        self.down = parameter(normals(layer, "down", groups, config.rank, rows) / rows**0.5)
        self.up = parameter(layer.weight.new_zeros(groups, outputs(layer) // groups, config.rank))

    def forward(self, layer: CimLayer, x: Tensor, read: Read) -> Tensor:
        weight = self.held(layer, "up") @ self.held(layer, "down")
        y = read(x)
        return y + layer.product(x, weight.view_as(layer.weight), None).to(y.dtype)

    def lower(self, layer: CimLayer, x: int, read: ReadStep, steps: Steps) -> int:
        down, up = self.exact("down"), self.exact("up")
        return steps.add(read(x), self.through(layer, x, steps, down, up))

    def macs(self, positions: int, inputs: int) -> int:
        return positions * (self.down.numel() + self.up.numel())


class Vectors(Trained):
    """F = g ∘ (F~ + b ∘ U · (d ∘ (V * A))): of a product of rank ``rank`` with random U and V, which a seed gives and
    nothing stores, the vectors b and d are trained, and beside them a magnitude g of each output.

    VeRA's vectors (Kopiczko et al., ICLR 2024; over drift levels: VeRA+, arXiv 2603.26016) with DoRA's magnitude (Liu
    et al., ICML 2024; to calibrate RRAM: arXiv 2504.03763). g = 1 and b = 0 as it begins. It stores 2N + rank numbers.
    """

    SIZE = "rank"
    SIZES = (4, 16)
    kind: Literal["vectors"] = "vectors"
    rank: int = Field(default=16, ge=1)

    @property
    def title(self) -> str:
        return self.told(f"vectors, rank {self.rank}")

    def build(self, layer: CimLayer) -> VectorsPath:
        return VectorsPath(self, layer)


class VectorsPath(ProductPath):
    """The vectors of one layer."""

    def __init__(self, config: Vectors, layer: CimLayer) -> None:
        super().__init__(config)
        rows, columns, groups = layer.matrix_shape
        self.gain = parameter(layer.weight.new_ones(outputs(layer)))
        self.scale = parameter(layer.weight.new_zeros(outputs(layer)))
        self.inner = parameter(layer.weight.new_ones(groups * config.rank))
        shapes = {"up": (groups, columns, config.rank), "down": (groups, config.rank, rows)}
        for (name, shape), fan in zip(shapes.items(), (config.rank, rows), strict=True):
            self.register_buffer(name, normals(layer, name, *shape) / fan**0.5, persistent=False)

    def forward(self, layer: CimLayer, x: Tensor, read: Read) -> Tensor:
        inner = self.held(layer, "inner").view(len(self.up), -1, 1)
        weight = self.held(layer, "scale")[:, None] * (self.up @ (inner * self.down)).flatten(0, 1)
        y = read(x)
        more = layer.product(x, weight.view_as(layer.weight), None)
        return per_channel(layer, self.held(layer, "gain")) * (y + more.to(y.dtype))

    def lower(self, layer: CimLayer, x: int, read: ReadStep, steps: Steps) -> int:
        down = self.exact("inner").view(len(self.up), -1, 1) * self.down
        up = self.exact("scale").view(len(self.up), -1, 1) * self.up
        y = steps.add(read(x), self.through(layer, x, steps, down, up))
        return steps.affine(y, self.exact("gain"))

    def macs(self, positions: int, inputs: int) -> int:
        return positions * (self.down.numel() + self.up.numel() + self.size)


class Sparse(Trained):
    """A random ``share`` of a layer's weights held in digital memory, exact and trained further; their cells hold zero.

    Random sparse adaptation (Charan et al., JXCDC 2020, without its distillation and its training on the chip). What
    the cells of zero do to a sum is the macro's: nothing where errors are of weights. Not the identity as it begins: it
    corrects at once. Only weights are counted; places follow from a seed. Taken away, weights go back as they are now.
    """

    SIZE = "share"
    SIZES = (0.02, 0.05, 0.1)
    kind: Literal["sparse"] = "sparse"
    share: float = Field(default=0.05, gt=0, lt=1)

    @property
    def title(self) -> str:
        return self.told(f"{100 * self.share:g} % of the weights")

    def build(self, layer: CimLayer) -> SparsePath:
        return SparsePath(self, layer)


class SparsePath(TrainedPath):
    """The weights of one layer that are digital."""

    chosen: Tensor

    @torch.no_grad()
    def __init__(self, config: Sparse, layer: CimLayer) -> None:
        super().__init__(config)
        count = layer.weight.numel()
        order = draws.words(draws.key("side path", "share", layer.site.name), torch.arange(count)).argsort()
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[order[: max(1, round(config.share * count))]] = True
        self.register_buffer("chosen", chosen.view(layer.weight.shape).to(layer.weight.device))
        self.values = parameter(layer.weight[self.chosen])
        self.groups = layer.matrix_shape[2]
        layer.weight.masked_fill_(self.chosen, 0.0)

    def forward(self, layer: CimLayer, x: Tensor, read: Read) -> Tensor:
        y = read(x)
        return y + layer.product(x, self.digital(layer, self.held(layer, "values")), None).to(y.dtype)

    def digital(self, layer: CimLayer, values: Tensor) -> Tensor:
        """The layer's weights, zero but for those chosen."""
        return torch.zeros_like(layer.weight).masked_scatter(self.chosen, values)

    def lower(self, layer: CimLayer, x: int, read: ReadStep, steps: Steps) -> int:
        weight = self.digital(layer, self.exact("values"))
        return steps.add(read(x), steps.product(x, weight, self.groups))

    def macs(self, positions: int, inputs: int) -> int:
        return positions * self.size

    def fetched(self, positions: int, inputs: int) -> int:
        chosen = self.chosen.view(self.groups, len(self.chosen) // self.groups, -1)
        return positions * int(chosen.any(1).sum())  # an input that no chosen weight meets is left where it is

    @property
    def terms(self) -> int:
        return int(self.chosen.flatten(1).sum(1).max())

    @torch.no_grad()
    def take_back(self, layer: CimLayer) -> None:
        layer.weight.masked_scatter_(self.chosen, self.values)
