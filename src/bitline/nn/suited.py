"""Input ranges that suit the machine: those that lose least of what a layer computes there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitline.nn.calibrate import walk
from bitline.nn.kept import kept
from bitline.nn.model import layers, silicon

FACTORS = tuple(2.0 ** (i / 2) for i in range(-6, 4))  # 1/8 … 2.8


@torch.no_grad()
def suit_ranges(model: nn.Module, x: Tensor, samples: Tensor | None = None, factors: Sequence[float] = FACTORS) -> None:
    """Scale each layer's input range by the one of ``factors`` that loses least on the machine the model computes with.

    A wide range makes small codes, which drown in what a column adds and in its converter's steps; a narrow one clips,
    and drives a column that saturates further. What is lost is the share of the variance of a layer's outputs (B, N, …)
    in float that no gain and offset an output explain of those on the macro; a batch norm sets both anyway. Each layer
    gets what reaches it in the float network as ``x`` (B, …) passes, on the die of the model as it is now; ``samples``
    (int64, (B,)) key the reads. Layers with continuous inputs stay. Raises ValueError naming the layers that no sample
    reached, and a layer that was not calibrated.
    """
    found = {name: layer for name, layer in layers(model).items() if layer.input_quantizer is not None}
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def see(layer: nn.Module, own: Tensor, wanted: Tensor) -> None:
        seen[layer] = (own, wanted)

    with kept(model):
        model.eval()
        walk(model, [x], see)
        for name, layer in found.items():
            quantizer = layer.input_quantizer
            assert quantizer is not None
            if not quantizer.calibrated:
                raise ValueError(f"{name}: its input range was not calibrated: call bitline.calibrate first")
            own, wanted = seen[layer]
            _, scale, zero = (part.detach().reshape(1) if i else part for i, part in enumerate(quantizer(own[:1])))
            lost = []
            for factor in factors:
                quantizer.begin_at(scale * factor, zero)
                silicon(model).begin(samples, silicon(model).read)
                lost.append(_lost(layer(own), wanted, -1 if isinstance(layer, nn.Linear) else 1))
            quantizer.begin_at(scale * factors[lost.index(min(lost))], zero)


def _lost(y: Tensor, wanted: Tensor, axis: int) -> float:
    """Share of the variance of ``wanted`` that the best gain and offset of ``y`` leave, over all outputs."""
    a, b = (part.double().movedim(axis, 0).flatten(1) for part in (y, wanted))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    power = a.square().sum(1)
    explained = (a * b).sum(1).square() / power.clamp(min=torch.finfo(torch.float64).tiny)
    return float(1 - explained.sum() / b.square().sum().clamp(min=torch.finfo(torch.float64).tiny))
