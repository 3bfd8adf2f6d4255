"""Ranges of inputs and weights that suit the machine: those that lose least of what a layer computes there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bitline.nn.calibrate import walk
from bitline.nn.cim import CimLayer
from bitline.nn.kept import kept
from bitline.nn.model import layers
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
    first, then weights and, where these have moved, inputs again. Each layer gets what reaches it in the
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
            _suit(name, layer, *seen[layer], samples, factors, weights)


def _suit(
    name: str,
    layer: CimLayer,
    own: Tensor,
    wanted: Tensor,
    samples: Tensor | None,
    factors: Sequence[float],
    weights: Sequence[float],
) -> None:
    """One layer's ranges, for inputs ``own`` that should give ``wanted``."""
    shared, axis = layer.silicon, -1 if isinstance(layer, nn.Linear) else 1

    def lost() -> float:
        shared.begin(samples, shared.read)
        return _lost(layer(own), wanted, axis)

    parts = ((layer.input_quantizer, own[:1], factors), (layer.weight_quantizer, layer.weight, weights))
    ranges = [_Range(name, one, values, choices) for one, values, choices in parts if one is not None]
    moved = [one.suit(lost) for one in ranges]
    if len(ranges) > 1 and moved[-1]:
        ranges[0].suit(lost)


class _Range:
    """A quantizer, the range it began with, and what that may be scaled by."""

    def __init__(self, layer: str, quantizer: Quantizer, values: Tensor, factors: Sequence[float]) -> None:
        if not quantizer.calibrated:
            what = quantizer.role.removesuffix("s")
            raise ValueError(f"{layer}: its {what} range was not calibrated: call bitline.calibrate first")
        _, scale, zero = quantizer(values)
        self.quantizer, self.factors = quantizer, factors
        self.scale, self.zero = scale.reshape(-1).clone(), zero.reshape(-1).clone()  # not the quantizer's own

    def suit(self, lost: Callable[[], float]) -> bool:
        """Scale it by the factor that loses least, of several the one nearest to 1; whether that is not 1."""
        losses = {}
        for factor in self.factors:
            self.quantizer.begin_at(self.scale * factor, self.zero)
            losses[factor] = lost()
        best = min(self.factors, key=lambda factor: (losses[factor], abs(math.log(factor))))
        self.quantizer.begin_at(self.scale * best, self.zero)
        return best != 1


def _lost(y: Tensor, wanted: Tensor, axis: int) -> float:
    """Share of the variance of ``wanted`` that the best gain and offset of ``y`` leave, over all outputs."""
    a, b = (part.double().movedim(axis, 0).flatten(1) for part in (y, wanted))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    power = a.square().sum(1)
    explained = (a * b).sum(1).square() / power.clamp(min=torch.finfo(torch.float64).tiny)
    return float(1 - explained.sum() / b.square().sum().clamp(min=torch.finfo(torch.float64).tiny))
