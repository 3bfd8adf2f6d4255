"""What follows a layer and is done with its read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Tail:
    """What follows a layer in eval mode: a batch norm, perhaps a sum with something else, perhaps a ReLU."""

    norm: _BatchNorm
    relu: bool
    add: Tensor | None = None

    def __call__(self, y: Tensor) -> Tensor:
        """What follows, module by module."""
        y = self.norm(y)
        y = y if self.add is None else y + self.add
        return torch.relu(y) if self.relu else y

    def affine(self) -> tuple[Tensor, Tensor]:
        """(factor, shift) of each channel."""
        mean, variance = self.norm._buffers["running_mean"], self.norm._buffers["running_var"]
        assert mean is not None
        assert variance is not None
        gamma, beta = self.norm._parameters.get("weight"), self.norm._parameters.get("bias")
        factor = (variance + self.norm.eps).rsqrt()
        factor = factor if gamma is None else factor * gamma
        shift = -mean * factor
        return factor, shift if beta is None else shift + beta
