"""Ordinary training: the loss of the model as it is."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from bitline.configuration import Frozen
from bitline.macro import Macro
from bitline.methods.protocol import Batches, Criterion, Progress
from bitline.nn import layers


class Plain(Frozen):
    """The model's own loss and nothing around it: for networks that are not on a macro."""

    kind: Literal["plain"] = "plain"

    @property
    def title(self) -> str:
        """What the comparison calls a network made this way, on chips."""
        return "trained plainly"

    def refuses(self, macro: Macro) -> str | None:
        """Every macro: the network would meet one and the same die at every step."""
        return "plain training would meet one die only; use qat or error_aware for a network on a macro"

    def begin(self, model: nn.Module, batches: Batches) -> None:
        """Raise ValueError for a network on a macro."""
        for layer in layers(model).values():
            raise ValueError(self.refuses(layer.design))

    def measure(self, model: nn.Module, batches: Batches) -> None:
        """Nothing."""

    def before_step(self, model: nn.Module, progress: Progress) -> None:
        """Nothing."""

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, criterion: Criterion) -> Tensor:
        """``criterion(model(x), y)``."""
        return criterion(model(x), y)

    def end(self, model: nn.Module) -> None:
        """Nothing."""
