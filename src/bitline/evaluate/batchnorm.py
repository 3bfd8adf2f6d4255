"""Batch-norm statistics estimated again on the macro: the simplest remedy, and the bar for every other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from bitline.macro import Chip
from bitline.nn import batch_norms, kept, on_chip, silicon


@torch.no_grad()
def recalibrate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, ...]],
    chip: Callable[[int], Chip] | None = None,
    most: int | None = None,
    prepare: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module:
    """Estimate all batch-norm means and variances again from unlabelled ``batches``, in place.

    ``chip(i)``: the die that batch i meets: dies of the training lot give *population* statistics, with no step on the
    chip that is tested. Absent: all on the die the model sits on now. Statistics are plain averages over batches;
    quantizers and weights stay. ``prepare(model, i)``: a step that passes nothing through, made on each of these
    dies first, as on those that are tested. Raises ValueError for a model without batch norm, or
    without any batch.
    """
    found = batch_norms(model)
    if not found:
        raise ValueError("the network has no batch norm to recalibrate")
    momenta = [norm.momentum for norm in found]
    device = next(model.parameters()).device
    number = -1
    try:
        with kept(model):
            model.eval()
            for norm in found:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True
            for number, batch in enumerate(islice(batches, most)):
                if chip is not None:
                    on_chip(model, chip(number))
                if prepare is not None:
                    prepare(model, number)
                silicon(model).begin(batch[2].to(device) if len(batch) > 2 else None, -1 - number)
                model(batch[0].to(device))
    finally:
        for norm, momentum in zip(found, momenta, strict=True):
            norm.momentum = momentum
    if number < 0:
        raise ValueError("no batch to recalibrate batch norm with: the loader is empty")
    return model


@dataclass(frozen=True)
class Recalibration:
    """What is done on each chip before it is tested: statistics of its own outputs, from these batches."""

    batches: Sequence[tuple[Tensor, ...]]

    @property
    def key(self) -> int:
        """What sets the step besides network and chip."""
        return len(self.batches)

    def __call__(self, model: nn.Module, chip: int) -> None:
        recalibrate(model, self.batches)


def recalibrated(model: nn.Module, batches: Iterable[tuple[Tensor, ...]], chip: Callable[[int], Chip]) -> nn.Module:
    """A copy of the model with population statistics; the model itself stays as it is."""
    return recalibrate(copy.deepcopy(model), batches, chip)
