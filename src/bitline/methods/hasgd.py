"""Training under weight noise: HA-SGD, and what has been found to go well with it."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from bitline import draws
from bitline.macro import Chip, Macro, ideal
from bitline.methods.machine import OnFreshChips, training_chip
from bitline.methods.parts import AnyLevels, Clip, Injection, Sam
from bitline.methods.protocol import Batches, Criterion, Progress
from bitline.nn import on_chip, silicon, use


class HaSgd(OnFreshChips):
    """Hessian-aware SGD (Wan et al., JETC 18(2), 2022, after the authors' code): the gradient at weights perturbed by
    ``samples`` fresh chips, averaged, taken as a step of the clean weights. On average over errors of spread sigma · R
    the loss is L(w) + ½ Σ_l sigma² R_l² Tr(H_l) + O(sigma⁴), R and H half range and Hessian of a layer: flat minima.

    Parts, each alone or together. ``noise``: errors of training that differ from the macro's; null: none, plain SGD on
    the ideal macro, for the other parts' own effect. ``levels``: their size by step. ``clip``: narrower ranges, so that
    errors relative to them are smaller. ``percentile``: of the loss over the samples, instead of their mean: TRICE's
    aim (Yan et al., ICCAD 2023), rebuilt as the empirical percentile of a step; with ``noise.censor`` it is TRICE as
    far as its abstract tells. ``sam``: its gradient at the worst point nearby. ``samples`` = S costs S passes and the
    memory of S graphs, ``sam`` two.

    Traps in the published code, not repeated here: it calls ``optimizer.step()`` twice a batch, which at a steady
    gradient goes twice as far (``bitline.train.HASGD`` has 0.02 for its rate of 0.01); it keeps a layer's range for
    30 s of wall clock, so that R lags behind the weights; its uniform errors leave sigma out, and its unrolled form
    multiplies by it twice; it chooses the checkpoint by accuracy on the test set. Here R is that of the weights now.
    """

    kind: Literal["ha_sgd"] = "ha_sgd"
    samples: int = Field(default=1, ge=1, description="chips a step, whose gradients are averaged")
    noise: Injection | None = Injection()
    levels: AnyLevels | None = None
    clip: Clip | None = None
    percentile: float | None = Field(default=None, ge=50, lt=100, description="of the loss over a step's chips, %")
    sam: Sam | None = None

    @model_validator(mode="after")
    def _go_together(self) -> HaSgd:
        if self.noise is None and (self.levels is not None or self.samples > 1):
            raise ValueError("without noise every chip is the same: remove levels and samples, or give noise: {}")
        if self.percentile is not None and self.samples < 2:
            raise ValueError(f"percentile {self.percentile:g} of samples = {self.samples}: a step needs several chips")
        return self

    @property
    def title(self) -> str:
        changes = {} if self.noise is None else self.noise.changes
        parts = [f"{name} {value:g}" for name, value in changes.items()]
        parts += [f"{self.samples} chips a step"] if self.samples > 1 else []
        parts += [f"{self.percentile:g}th percentile"] if self.percentile is not None else []
        parts += [self.levels.title] if self.levels is not None else []
        parts += [f"clipped at {self.clip.k:g} std"] if self.clip is not None else []
        parts += [f"SAM {self.sam.rho:g}"] if self.sam is not None else []
        name = "plain SGD" if self.noise is None else "HA-SGD"
        return self.titled(name + (f" ({', '.join(parts)})" if parts else ""))

    def refuses(self, macro: Macro) -> str | None:
        if (reason := super().refuses(macro)) is not None or self.noise is None:
            return reason
        if self.levels is not None and macro.variation is None:
            return "levels scale the spread of `variation`, and the macro has none"
        try:
            self.noise.on(macro)
        except ValueError as error:
            return str(error)
        return None

    def variant(self, macro: Macro, level: float = 1.0) -> Macro:
        """The macro as training meets it, with ``level`` times the spread."""
        if self.noise is None:
            return ideal(macro)
        found = self.noise.on(macro)
        if found.variation is None:
            return found
        return found.model_copy(update={"variation": found.variation.at(level)})

    def begin(self, model: nn.Module, batches: Batches) -> None:
        super().begin(model, batches)
        use(model, self.variant)

    def before_step(self, model: nn.Module, progress: Progress) -> None:
        if self.clip is not None:
            self.clip.apply(model)
        if self.levels is not None:
            level = self.levels.at(progress, self.seed)
            use(model, lambda macro: self.variant(macro, level))
        super().before_step(model, progress)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, criterion: Criterion) -> Tensor:
        """The mean, or percentile, over the step's chips."""

        def objective(model: nn.Module) -> Tensor:
            values = []
            for sample in range(self.samples):
                self._meet(model, sample)
                values.append(self.read(model, x, y, index, criterion))
            found = torch.stack(values)
            value = found.mean() if self.percentile is None else found.quantile(self.percentile / 100)
            return self.penalised(value, model)

        return objective(model) if self.sam is None else self.sam.loss(objective, model)

    def _meet(self, model: nn.Module, sample: int) -> None:
        """The step's chip number ``sample``: the first is every method's, each other of a lot of its own."""
        shared = silicon(model)
        number = shared.chip.number  # the step's on this rank, as before_step chose it, in every lot
        first = training_chip(self.seed, number)
        die = first if not sample else Chip(draws.key("training lot", self.seed, sample), number)
        if shared.chip != die:
            on_chip(model, die)

    def end(self, model: nn.Module) -> None:
        if self.clip is not None:
            self.clip.apply(model)
        super().end(model)
