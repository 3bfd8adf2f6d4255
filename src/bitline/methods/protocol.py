"""What a training method is to the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from bitline.macro import Macro

Batch = tuple[Tensor, Tensor, Tensor]
"""``(x, y, index)``: inputs (B, …), targets (B, …), and the samples' indices in the data set (B,), int64."""
Batches = Callable[[int], Iterable[Batch]]
"""The batches of an epoch, the same ones whenever it is called with the same epoch."""
Criterion = Callable[[Tensor, Tensor], Tensor]
"""``criterion(output, target)``: a scalar, the mean over the batch."""


@dataclass(frozen=True)
class Progress:
    """Where a training run is: before optimiser step ``step``, 0 … ``total`` - 1, on one of ``ranks`` processes."""

    step: int
    total: int
    rank: int = 0
    ranks: int = 1

    @property
    def draw(self) -> int:
        """A number that no other step has, on any rank: what a step draws for itself is keyed by it."""
        return self.step * self.ranks + self.rank


@runtime_checkable
class Method(Protocol):
    """How a network is trained for its macro: what happens around each step, and what the loss is.

    A method keeps no state of its own between steps: what must survive a restart lives in the model, the rest
    follows from the run's progress. ``begin`` and ``measure`` are called again on resume, on the starting model, before
    its saved weights are loaded; they have to do the same thing each time. A finished run is loaded and not measured.
    """

    @property
    def title(self) -> str:
        """What the comparison calls a network made this way, on chips."""
        ...

    def refuses(self, macro: Macro) -> str | None:
        """Why a layer on this macro cannot be trained; None if it can."""
        ...

    def begin(self, model: nn.Module, batches: Batches) -> None:
        """Once before training: add parameters, keep a teacher."""
        ...

    def measure(self, model: nn.Module, batches: Batches) -> None:
        """Once after ``begin``, where there is training to do: gather statistics, set ranges by them."""
        ...

    def before_step(self, model: nn.Module, progress: Progress) -> None:
        """Before each optimiser step: draw a fresh chip, set a noise level."""
        ...

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, criterion: Criterion) -> Tensor:
        """The scalar to minimise on one batch."""
        ...

    def end(self, model: nn.Module) -> None:
        """Once after training, also when it was interrupted: leave the model ready to use."""
        ...
