"""Ordinary training: the loss of the model as it is."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from bitline.methods.protocol import Batches, Criterion


class Plain(BaseModel):
    """The model's own loss and nothing around it; quantisation-aware training when its layers quantise."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["plain"] = "plain"

    @property
    def title(self) -> str:
        """What the comparison calls a network made this way, on chips."""
        return "trained plainly"

    def begin(self, model: nn.Module, batches: Batches) -> None:
        """Nothing."""

    def before_step(self, model: nn.Module, step: int) -> None:
        """Nothing."""

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, criterion: Criterion) -> Tensor:
        """``criterion(model(x), y)``."""
        return criterion(model(x), y)

    def end(self, model: nn.Module) -> None:
        """Nothing."""
