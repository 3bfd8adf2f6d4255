"""Ranges of inputs and weights that suit the machine: those that lose least of what a layer computes there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bitline.nn.calibrate import walk
from bitline.nn.kept import kept
from bitline.nn.model import layers, silicon
from bitline.nn.quantizer import Quantizer

FACTORS = tuple(2.0 ** (i / 2) for i in range(-6, 4))  # 1/8 … 2.8
WEIGHTS = tuple(2.0 ** (i / 4) for i in range(-4, 2))  # 1/2 … 1.2


@torch.no_grad()
def suit_ranges(
    model: nn.Module,
    x: Tensor,
    samples: Tensor | None = None,
    factors: Sequence[float] = FACTORS,
    weights: Sequence[float] = WEIGHTS,
) -> None:
    """Scale each layer's ranges, of its inputs by one of ``factors`` and of its weights by one of ``weights``, to those
    that lose least on the machine the model computes with.

    A wide range makes small codes, which drown in what a column adds and in its converter's steps; a narrow one clips,
    and drives a column that saturates further. What is lost is the share of the variance of a layer's outputs (B, N, …)
    in float that no gain and offset an output explain of those on the macro; a batch norm sets both anyway. Inputs go
    first, then weights, then inputs again; where nothing is won a range stays. Each layer gets what reaches it in the
    float network as ``x`` (B, …) passes, on the die of the model as it is now; ``samples`` (int64, (B,)) key the reads.
    What is continuous has no range. Raises ValueError naming the layers that no sample reached, and a layer that was
    not calibrated.
    """
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def see(layer: nn.Module, own: Tensor, wanted: Tensor) -> None:
        seen[layer] = (own, wanted)

    with kept(model):
        model.eval()
        walk(model, [x], see)
        for name, layer in layers(model).items():
            own, wanted = seen[layer]
            axis = -1 if isinstance(layer, nn.Linear) else 1

            def lost(layer: nn.Module = layer, own: Tensor = own, wanted: Tensor = wanted, axis: int = axis) -> float:
                silicon(model).begin(samples, silicon(model).read)
                return _lost(layer(own), wanted, axis)

            inputs = _Range(name, layer.input_quantizer, own[:1], factors)
            for part in (inputs, _Range(name, layer.weight_quantizer, layer.weight, weights), inputs):
                part.suit(lost)


class _Range:
    """A quantizer, the range it began with, and what that may be scaled by."""

    def __init__(self, layer: str, quantizer: Quantizer | None, values: Tensor, factors: Sequence[float]) -> None:
        self.quantizer, self.factors = quantizer, factors
        if quantizer is not None:
            if not quantizer.calibrated:
                raise ValueError(f"{layer}: its {quantizer.role} were not calibrated: call bitline.calibrate first")
            _, scale, zero = quantizer(values)
            self.scale, self.zero = scale.detach().reshape(-1), zero.detach().reshape(-1)

    def suit(self, lost: Callable[[], float]) -> None:
        """Scale it by the factor that loses least; of several that lose the same, the one nearest to 1."""
        if self.quantizer is None:
            return
        losses = {}
        for factor in self.factors:
            self.quantizer.begin_at(self.scale * factor, self.zero)
            losses[factor] = lost()
        best = min(self.factors, key=lambda factor: (losses[factor], abs(math.log(factor))))
        self.quantizer.begin_at(self.scale * best, self.zero)


def _lost(y: Tensor, wanted: Tensor, axis: int) -> float:
    """Share of the variance of ``wanted`` that the best gain and offset of ``y`` leave, over all outputs."""
    a, b = (part.double().movedim(axis, 0).flatten(1) for part in (y, wanted))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    power = a.square().sum(1)
    explained = (a * b).sum(1).square() / power.clamp(min=torch.finfo(torch.float64).tiny)
    return float(1 - explained.sum() / b.square().sum().clamp(min=torch.finfo(torch.float64).tiny))
