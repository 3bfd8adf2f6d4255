"""Parts that a method of weight noise may have, each absent or of its own kind; ``HaSgd`` puts them together."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from bitline import draws
from bitline.configuration import Frozen
from bitline.macro import Macro
from bitline.methods.protocol import Progress
from bitline.nn import batch_norms, layers


class Injection(Frozen):
    """The weight errors met in training; what is absent is that of the macro.

    S1 trains at a sigma and mu of its own and tests at others. ``censor`` cuts draws above so many sigma: TRICE (Yan et
    al., ICCAD 2023) proves a right-censored Gaussian better than a Gaussian for the worst chips. Their adaptive choice
    of the threshold is not rebuilt: it is given here.
    """

    sigma: float | None = Field(default=None, ge=0, description="spread, in the unit of the macro's variation")
    mu: float | None = Field(default=None, description="shift of all devices relative to R; range errors only")
    censor: float | None = Field(default=None, description="largest draw, in sigma; range errors only")

    @property
    def changes(self) -> dict[str, float]:
        """What differs from the macro's variation."""
        return self.model_dump(exclude_none=True)

    def on(self, macro: Macro) -> Macro:
        """The macro with these errors; raises ValueError where it has no variation, or one of another kind."""
        if not self.changes:
            return macro
        if macro.variation is None:
            raise ValueError(f"noise sets {', '.join(self.changes)} of `variation`, and the macro has none")
        own = type(macro.variation).model_validate(macro.variation.model_dump() | self.changes)
        return macro.model_copy(update={"variation": own})


class Levels(Frozen):
    """How large the noise is from step to step, as a factor on its spread; or a penalty, on its weight."""

    @abstractmethod
    def at(self, progress: Progress, seed: int) -> float:
        """The factor before a step."""

    @property
    @abstractmethod
    def title(self) -> str:
        """In a few words."""


class Ramp(Levels):
    """From ``start`` to ``end`` in a straight line over the first ``share`` of the steps, then ``end``."""

    kind: Literal["ramp"] = "ramp"
    start: float = Field(default=0.0, ge=0)
    end: float = Field(default=1.0, ge=0)
    share: float = Field(default=1.0, gt=0, le=1)

    def at(self, progress: Progress, seed: int) -> float:
        done = min(1.0, progress.step / max(1.0, self.share * (progress.total - 1)))
        return self.start + done * (self.end - self.start)

    @property
    def title(self) -> str:
        return f"noise from {self.start:g} to {self.end:g}"


class CosineRamp(Levels):
    """From ``start`` to ``end`` along half a cosine over all steps."""

    kind: Literal["cosine"] = "cosine"
    start: float = Field(default=0.0, ge=0)
    end: float = Field(default=1.0, ge=0)

    def at(self, progress: Progress, seed: int) -> float:
        done = progress.step / max(1, progress.total - 1)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * done)) / 2

    @property
    def title(self) -> str:
        return f"noise from {self.start:g} to {self.end:g} along a cosine"


class Spread(Levels):
    """Uniform between ``low`` and ``high``, drawn at each step: variance-aware noisy training (Wang et al., arXiv
    2503.16183), for noise that is not known when the network is trained. Their law of levels is not public here: a
    uniform one is this library's."""

    kind: Literal["spread"] = "spread"
    low: float = Field(default=0.0, ge=0)
    high: float = Field(default=1.5, ge=0)

    def at(self, progress: Progress, seed: int) -> float:
        drawn = draws.uniform(draws.key("noise level", seed), torch.tensor(progress.step))
        return self.low + float(drawn) * (self.high - self.low)

    @property
    def title(self) -> str:
        return f"noise between {self.low:g} and {self.high:g}"


AnyLevels = Annotated[Ramp | CosineRamp | Spread, Field(discriminator="kind")]


class Clip(Frozen):
    """Weights of each layer on the macro clipped to ±``k`` standard deviations before each step, again and again: the
    iterative clipping of Analog Foundation Models (Büchel et al., NeurIPS 2025), there by column, here by layer as the
    physical range is. What is relative to the range falls with it."""

    k: float = Field(default=2.5, ge=1, description="standard deviations of the layer's weights; below 1 none survive")

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Clip in place."""
        for layer in layers(model).values():
            most = self.k * layer.weight.std(correction=0)
            layer.weight.clamp_(-most, most)


class Sam(Frozen):
    """Sharpness-aware minimisation (Foret et al., ICLR 2021): the gradient at w + ``rho`` · g/‖g‖, g the gradient at w
    on the same batch, chip and reads. Batch norm statistics are those of the first of the two passes."""

    rho: float = Field(default=0.05, gt=0)

    def loss(self, objective: Callable[[nn.Module], Tensor], model: nn.Module) -> Tensor:
        """The objective at the perturbed parameters; its gradient reaches the parameters themselves."""
        moving = {name: p for name, p in model.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(objective(model), list(moving.values()), allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(moving.values(), found, strict=True)]
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        step = self.rho / (norm + 1e-12)
        there = {f"model.{name}": p + step * g for (name, p), g in zip(moving.items(), gradients, strict=True)}
        with _statistics_kept(model):
            value: Tensor = functional_call(_Objective(model, objective), there, ())
        return value


class _Objective(nn.Module):
    """An objective as a module, so that its parameters can be replaced."""

    def __init__(self, model: nn.Module, objective: Callable[[nn.Module], Tensor]) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self) -> Tensor:
        return self.objective(self.model)


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Batch norms normalise, but learn nothing from what passes."""
    found: list[tuple[Any, float | None, Tensor | None]] = []
    for norm in batch_norms(model):
        seen = norm.num_batches_tracked
        found.append((norm, norm.momentum, seen if seen is None else seen.clone()))
    try:
        for norm, _, _ in found:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum, seen in found:
            norm.momentum = momentum
            if seen is not None:
                norm.num_batches_tracked.copy_(seen)
