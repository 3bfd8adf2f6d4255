"""Distillation: the float network's answers as targets beside the labels."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from bitline.configuration import Frozen
from bitline.methods.protocol import Criterion
from bitline.nn import restore


class Distillation(Frozen):
    """(1 - weight) · loss + weight · T² · KL(teacher ‖ network), both softened by the temperature T (Hinton, Vinyals
    and Dean, 2015); with a noisy network for its student, Zhou et al., Noisy Machines, 2020.

    The teacher is the network as training starts, in float and off the macro, in eval mode. For networks whose output
    is logits (B, classes). Costs one float forward pass a step.
    """

    weight: float = Field(default=0.9, gt=0, le=1, description="share of the teacher in the loss")
    temperature: float = Field(default=4.0, gt=0, le=100)

    def teacher(self, model: nn.Module) -> nn.Module:
        """The network as it is, off the macro."""
        return restore(model).requires_grad_(False).eval()

    def around(self, criterion: Criterion, teacher: nn.Module, x: Tensor) -> Criterion:
        """The criterion with the teacher's answers to ``x``; raises ValueError where outputs are not logits."""
        with torch.no_grad():
            wanted: Any = teacher(x)
        if not isinstance(wanted, Tensor) or wanted.dim() != 2:
            shape = tuple(wanted.shape) if isinstance(wanted, Tensor) else type(wanted).__name__
            raise ValueError(f"distil needs logits of shape (B, classes); the network gives {shape}")
        soft = log_softmax(wanted.float() / self.temperature, 1)

        def loss(output: Tensor, y: Tensor) -> Tensor:
            own = log_softmax(output.float() / self.temperature, 1)
            away = kl_div(own, soft, reduction="batchmean", log_target=True) * self.temperature**2
            return (1 - self.weight) * criterion(output, y) + self.weight * away

        return loss
