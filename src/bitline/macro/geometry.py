"""Linear layers and convolutions of any dimension as matrices: which inputs meet which weights.

Inputs are already padded. Rows of a matrix are ordered (kernel position, channel), the order in which word lines are
filled and tiles cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


@dataclass(frozen=True)
class Dense:
    """A linear layer: inputs (B, S, K), S positions a sample, outputs (B, S, N)."""

    groups: int = 1
    channel: ClassVar[int] = -1  # axis of the outputs

    def shape(self, x: Tensor, outputs: int) -> tuple[int, ...]:
        """Shape of the output of one sample, outputs last."""
        return (x.shape[1], outputs)

    def rows(self, x: Tensor) -> Tensor:
        """(Q, S, K) to (Q, positions, G, K)."""
        return x[:, :, None]

    def restore(self, y: Tensor, extent: tuple[int, ...]) -> Tensor:
        """(B, positions, N) to the layer's own layout, outputs of extent ``extent``."""
        return y

    def channels_last(self, x: Tensor) -> Tensor:
        """The same values, channels next to one another in memory."""
        return x

    def per_output(self, y: Tensor) -> Tensor:
        """Sum of ``y`` (the layer's layout) for each output, (N,)."""
        return y.flatten(0, -2).sum(0)

    def broadcast(self, value: Tensor) -> Tensor:
        """One value an output, (N,), shaped to meet the layer's layout."""
        return value

    def row_sums(self, x: Tensor) -> Tensor:
        """Sum of the inputs that each position meets, (B, positions, G)."""
        return x.sum(-1, keepdim=True)

    def native(self, weight: Tensor) -> Tensor:
        """(N, K) to the layer's own weight layout."""
        return weight

    def matrix(self, weight: Tensor) -> Tensor:
        """The layer's own weight to (N, K)."""
        return weight

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """The exact product; ``weight`` as (N, K)."""
        return F.linear(x, weight)

    def backward(self, grad: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]) -> tuple[Tensor | None, ...]:
        """Gradients of ``linear`` with respect to x and weight (N, K)."""
        return (
            grad @ weight if needs[0] else None,
            grad.flatten(0, -2).t() @ x.flatten(0, -2) if needs[1] else None,
        )


@dataclass(frozen=True)
class Conv:
    """A convolution over 1, 2 or 3 dimensions: inputs (B, C, …), outputs (B, N, …)."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    channel: ClassVar[int] = 1  # axis of the outputs

    def outer(self, x: Tensor) -> tuple[int, ...]:
        """Output extent of each dimension of inputs (B, C, …)."""
        return self.extent(tuple(x.shape[2:]))

    def extent(self, inputs: tuple[int, ...]) -> tuple[int, ...]:
        """Output extent of each dimension; raises ValueError where the kernel is larger than the padded input."""
        extent = tuple(
            (size - d * (k - 1) - 1) // s + 1
            for size, k, s, d in zip(inputs, self.kernel, self.stride, self.dilation, strict=True)
        )
        if min(extent) < 1:
            raise ValueError(f"padded input of {inputs} is smaller than the kernel {self.kernel}")
        return extent

    def shape(self, x: Tensor, outputs: int) -> tuple[int, ...]:
        """Shape of the output of one sample, outputs last."""
        return (*self.outer(x), outputs)

    def rows(self, x: Tensor) -> Tensor:
        """(Q, C, …) to (Q, positions, G, K), K in the order (kernel position, channel)."""
        dims = len(self.kernel)
        last = x.movedim(1, -1).contiguous()
        q, channels = last.shape[0], last.shape[-1]
        per = channels // self.groups
        jumps = last.stride()
        outer = self.outer(x)
        size = (q, *outer, self.groups, *self.kernel, per)
        stride = (
            jumps[0],
            *(s * j for s, j in zip(self.stride, jumps[1 : 1 + dims], strict=True)),
            per,
            *(d * j for d, j in zip(self.dilation, jumps[1 : 1 + dims], strict=True)),
            1,
        )
        windows = last.as_strided(size, stride)
        return windows.reshape(q, -1, self.groups, per * self.taps)

    @property
    def taps(self) -> int:
        """Positions of the kernel."""
        taps = 1
        for k in self.kernel:
            taps *= k
        return taps

    def restore(self, y: Tensor, extent: tuple[int, ...]) -> Tensor:
        """(B, positions, N) to (B, N, …)."""
        return y.view(len(y), *extent[-len(self.kernel) :], y.shape[-1]).movedim(-1, 1)

    def channels_last(self, x: Tensor) -> Tensor:
        """The same values, channels next to one another in memory."""
        return x.movedim(1, -1).contiguous().movedim(-1, 1)

    def per_output(self, y: Tensor) -> Tensor:
        """Sum of ``y`` (the layer's layout) for each output, (N,)."""
        return y.movedim(1, -1).flatten(0, -2).sum(0)

    def broadcast(self, value: Tensor) -> Tensor:
        """One value an output, (N,), shaped to meet the layer's layout."""
        return value.view(-1, *[1] * len(self.kernel))

    def row_sums(self, x: Tensor) -> Tensor:
        """Sum of the inputs that each position meets, (B, positions, G)."""
        channels = x.unflatten(1, (self.groups, -1)).sum(2)
        convolve = CONVOLUTIONS[len(self.kernel) - 1]
        ones = x.new_ones(self.groups, 1, *self.kernel)
        return convolve(channels, ones, None, self.stride, 0, self.dilation, self.groups).flatten(2).mT

    def native(self, weight: Tensor) -> Tensor:
        """(N, K) to (N, C/G, …)."""
        return weight.view(len(weight), *self.kernel, -1).movedim(-1, 1)

    def matrix(self, weight: Tensor) -> Tensor:
        """(N, C/G, …) to (N, K)."""
        return weight.movedim(1, -1).reshape(len(weight), -1)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """The exact product; ``weight`` as (N, K)."""
        convolve = CONVOLUTIONS[len(self.kernel) - 1]
        return convolve(x, self.native(weight), None, self.stride, 0, self.dilation, self.groups)

    def backward(self, grad: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]) -> tuple[Tensor | None, ...]:
        """Gradients of ``linear`` with respect to x and weight (N, K)."""
        zero = [0] * len(self.kernel)
        gx, gw, _ = torch.ops.aten.convolution_backward(
            grad,
            x,
            self.native(weight),
            None,
            self.stride,
            zero,
            self.dilation,
            False,
            zero,
            self.groups,
            [*needs, False],
        )
        return gx if needs[0] else None, self.matrix(gw) if needs[1] else None


Geometry = Dense | Conv
