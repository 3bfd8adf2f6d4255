"""CorrectNet's compensation: a generator and a compensator, both convolutions 1×1, behind a layer."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from bitline.compensate.path import Trained, TrainedPath, axis, inputs, normals, outputs, parameter, pointwise, pooled
from bitline.nn import CimLayer, Read, ReadStep, Steps


class CorrectNet(Trained):
    """C = W_g · [pool(A), F~] + b_g of m channels, F = F~ + W_c · [F~, C] + b_c, from a layer's inputs A (l channels,
    averaged to the extent of its outputs) and its outputs F~ (n channels): CorrectNet (Eldebiky et al., DATE 2023,
    arXiv 2211.14917) and CorrectNet+ (TCAD 43(2), 2024).

    A reconstruction: neither text nor code was at hand. Of a linear layer, channels are inputs and outputs, and nothing
    is averaged. The compensator's [I | 0] stands outside the product, so that the network begins bit for bit as it was,
    in any arithmetic, and decay of weights pulls towards that. It stores m(l + n) + n(n + m) weights and m + n biases.
    """

    SIZE = "width"
    SIZES = (0.125, 0.25)
    kind: Literal["correctnet"] = "correctnet"
    width: float = Field(default=0.25, gt=0, le=4, description="m relative to n; at least one channel")

    @property
    def title(self) -> str:
        return self.told(f"generator and compensator, width {self.width:g}")

    def build(self, layer: CimLayer) -> CorrectNetPath:
        return CorrectNetPath(self, layer)


class CorrectNetPath(TrainedPath):
    """Generator and compensator of one layer."""

    def __init__(self, config: CorrectNet, layer: CimLayer) -> None:
        super().__init__(config)
        before, after = inputs(layer), outputs(layer)
        middle = max(1, round(config.width * after))
        self.generator = parameter(normals(layer, "generator", middle, before + after) / (before + after) ** 0.5)
        self.generator_bias = parameter(layer.weight.new_zeros(middle))
        self.compensator = parameter(layer.weight.new_zeros(after, after + middle))
        self.compensator_bias = parameter(layer.weight.new_zeros(after))

    def forward(self, layer: CimLayer, x: Tensor, read: Read) -> Tensor:
        y = read(x)
        seen = torch.cat([pooled(layer, x, y).to(y.dtype), y], axis(layer))
        made = pointwise(layer, seen, self.held(layer, "generator"), self.generator_bias)
        both = torch.cat([y, made.to(y.dtype)], axis(layer))
        return y + pointwise(layer, both, self.held(layer, "compensator"), self.compensator_bias).to(y.dtype)

    def lower(self, layer: CimLayer, x: int, read: ReadStep, steps: Steps) -> int:
        y, (before, after) = read(x), (inputs(layer), outputs(layer))
        of_inputs, of_outputs = self.exact("generator").split((before, after), 1)
        made = steps.pointwise(steps.pooled(x, y), of_inputs, self.generator_bias)
        made = steps.add(made, steps.pointwise(y, of_outputs))
        of_outputs, of_made = self.exact("compensator").split((after, len(self.generator)), 1)
        more = steps.pointwise(y, of_outputs, self.compensator_bias)
        return steps.add(y, steps.add(more, steps.pointwise(made, of_made)))

    def macs(self, positions: int, inputs: int) -> int:
        return positions * (self.generator.numel() + self.compensator.numel())

    def fetched(self, positions: int, inputs: int) -> int:
        return inputs  # once: averages grow as they pass

    @property
    def terms(self) -> int:
        return max(self.generator.shape[1], self.compensator.shape[1])
