"""What a training run is: one frozen value that its checkpoint repeats."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import nn

from bitline.configuration import Frozen
from bitline.train.schedules import Cosine, Schedule

Unit = Annotated[float, Field(ge=0, lt=1)]


class Sgd(Frozen):
    """Stochastic gradient descent."""

    kind: Literal["sgd"] = "sgd"
    momentum: Unit = 0.9
    nesterov: bool = False
    weight_decay: float = Field(5e-4, ge=0)

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """The optimiser of these parameter groups."""
        return torch.optim.SGD(groups, lr=lr, momentum=self.momentum, nesterov=self.nesterov)


class Adam(Frozen):
    """Adam; its weight decay is an L2 term in the gradient."""

    kind: Literal["adam"] = "adam"
    betas: tuple[Unit, Unit] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: float = Field(0.0, ge=0)

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """The optimiser of these parameter groups."""
        return torch.optim.Adam(groups, lr=lr, betas=self.betas, eps=self.eps)


class AdamW(Frozen):
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019)."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[Unit, Unit] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: float = Field(0.01, ge=0)

    def build(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """The optimiser of these parameter groups."""
        return torch.optim.AdamW(groups, lr=lr, betas=self.betas, eps=self.eps)


Optimizer = Annotated[Sgd | Adam | AdamW, Field(discriminator="kind")]


class TrainConfig(Frozen):
    """A training run. A *step* is one optimiser step, made of ``accumulate`` batches.

    Give ``epochs`` or ``steps``. Weight decay acts on tensors of two or more axes alone, so not on biases,
    normalisation or quantizer scales and bounds, and not on names that match a pattern in ``no_decay``.
    """

    epochs: PositiveInt | None = None
    steps: PositiveInt | None = None
    lr: PositiveFloat = 0.1
    optimizer: Optimizer = Sgd()
    schedule: Schedule = Cosine()
    accumulate: PositiveInt = 1
    clip: PositiveFloat | None = Field(None, description="largest norm of the whole gradient")
    amp: Literal["bf16", "fp16"] | None = Field(None, description="autocast; fp16 on CUDA only, with a loss scale")
    label_smoothing: Unit = 0.0
    seed: int = Field(0, description="an experiment gives its own")
    one_chip: Literal[True] | None = Field(
        None, description="ranks of torchrun meet the same chips, as one process does; absent: each its own"
    )
    frozen_norms: Unit | None = Field(
        None, description="last share of the steps, in which batch norms normalise by their running statistics"
    )
    no_decay: tuple[str, ...] = Field((), description="parameter name patterns, e.g. 'head.*'")
    log_every: PositiveInt = Field(10, description="steps")
    checkpoint_every: PositiveInt = Field(500, description="steps")

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"give either epochs or steps, not epochs={self.epochs} and steps={self.steps}")
        return self

    def total_steps(self, batches: int) -> int:
        """Optimiser steps of the run, for epochs of so many batches."""
        return self.steps if self.steps is not None else (self.epochs or 0) * -(-batches // self.accumulate)

    def keeps_norms(self, step: int, total: int) -> bool:
        """Whether batch norms keep their statistics in this step of so many: as on a chip, which is given no other."""
        return self.frozen_norms is not None and step >= (1 - self.frozen_norms) * total

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of the model's trainable parameters, in two groups: with and without weight decay.

        Raises ValueError for a model without any and for a ``no_decay`` pattern that matches nothing.
        """
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError(f"{type(model).__name__} has no trainable parameter")
        for pattern in self.no_decay:
            if not any(fnmatchcase(name, pattern) for name, _ in named):
                raise ValueError(f"no_decay pattern {pattern!r} matches no parameter; the first are {_first(named)}")
        groups: list[dict[str, Any]] = [
            {"params": [], "weight_decay": self.optimizer.weight_decay},
            {"params": [], "weight_decay": 0.0},
        ]
        for name, p in named:
            spared = p.dim() < 2 or any(fnmatchcase(name, pattern) for pattern in self.no_decay)
            groups[spared]["params"].append(p)
        return self.optimizer.build([group for group in groups if group["params"]], self.lr)


def _first(named: Iterable[tuple[str, Any]], most: int = 5) -> str:
    return ", ".join([name for name, _ in named][:most])
