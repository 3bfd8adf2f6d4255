"""First and second moments of what passes a layer, found batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Mean and, where wanted, covariance of the channels of what passes."""

    def __init__(self, covariance: bool) -> None:
        self.count, self.sum, self.shift = 0, torch.zeros(()), torch.zeros(())
        self.square = torch.zeros(()) if covariance else None

    def add(self, x: Tensor, channel: int) -> None:
        """Count inputs, whose channels are on this axis."""
        flat = x.movedim(channel, -1).flatten(0, -2).float()
        if not self.count:
            self.shift = flat.mean(0)  # squares are of small numbers
        flat = flat - self.shift
        self.count += len(flat)
        self.sum = self.sum + flat.sum(0).double()
        if self.square is not None:
            self.square = self.square + (flat.T @ flat).double()

    def __call__(self) -> tuple[Tensor, Tensor | None]:
        mean = self.sum / self.count
        covariance = None if self.square is None else self.square / self.count - torch.outer(mean, mean)
        return self.shift + mean, covariance

    def powers(self) -> Tensor:
        """Share of the power beside the mean in each principal direction, the largest first; zeros where there is
        none. Raises ValueError for moments without covariance."""
        _, covariance = self()
        if covariance is None:
            raise ValueError("these moments have no covariance")
        values = torch.linalg.eigvalsh(covariance).flip(0).clamp(min=0)
        values[max(0, self.count - 1) :] = 0  # so many numbers less their mean have no more directions
        return values / values.sum().clamp(min=1e-300)
