"""Layers that are their torch classes, with their product read from a macro."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from bitline.macro import Conv, Dense
from bitline.nn import transposed
from bitline.nn.cim import CimLayer


class Linear(CimLayer, nn.Linear):  # type: ignore[misc]
    """``torch.nn.Linear`` on a macro; inputs (…, K), the first axis counts samples."""

    groups_of = 1

    def _geometry(self) -> Dense:
        return Dense()

    def padded(self, codes: Tensor, zero: Tensor | None) -> tuple[Tensor, tuple[int, ...]]:
        lead = codes.shape[:-1]
        batch = lead[0] if lead else 1
        return codes.reshape(batch, lead[1:].numel(), codes.shape[-1]), lead

    def _shaped(self, x: Tensor) -> tuple[Tensor, tuple[tuple[int, int], ...], tuple[int, ...]]:
        shaped, lead = self.padded(x, None)
        return shaped, (), lead

    def _finished(self, y: Tensor, lead: tuple[int, ...]) -> Tensor:
        return y.reshape(*lead, y.shape[-1])

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class TransposedLinear(Linear):
    """Hugging Face's ``Conv1D`` on a macro; inputs (…, K), the first axis counts samples."""


class _Conv(CimLayer):
    """What convolutions of all dimensions share; inputs (B, C, …) or (C, …)."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    _reversed_padding_repeated_twice: list[int]

    @property
    def groups_of(self) -> int:  # type: ignore[override]
        """G of the grouped convolution."""
        return self.groups

    def _geometry(self) -> Conv:
        return Conv(tuple(self.kernel_size), tuple(self.stride), tuple(self.dilation), self.groups)

    def padded(self, codes: Tensor, zero: Tensor | None) -> tuple[Tensor, tuple[int, ...]]:
        batched = codes if codes.dim() == len(self.kernel_size) + 2 else codes[None]
        pads = list(self._reversed_padding_repeated_twice)
        if any(pads):
            if self.padding_mode != "zeros":
                batched = F.pad(batched, pads, mode=self.padding_mode)
            elif zero is None:
                batched = F.pad(batched, pads)
            else:  # pad with the code of zero
                batched = F.pad(batched - zero, pads) + zero
        return batched, () if batched.dim() == codes.dim() else (1,)

    def _shaped(self, x: Tensor) -> tuple[Tensor, tuple[tuple[int, int], ...], tuple[int, ...]]:
        if self.padding_mode != "zeros":
            shaped, lead = self.padded(x, None)
            return shaped, (), lead
        batched = x if x.dim() == len(self.kernel_size) + 2 else x[None]
        flat = self._reversed_padding_repeated_twice
        pads = tuple((flat[i], flat[i + 1]) for i in range(len(flat) - 2, -1, -2))
        return batched, pads, () if batched.dim() == x.dim() else (1,)

    def _finished(self, y: Tensor, lead: tuple[int, ...]) -> Tensor:
        return y[0] if lead else y

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)  # type: ignore[operator]


class Conv1d(_Conv, nn.Conv1d):  # type: ignore[misc]
    """``torch.nn.Conv1d`` on a macro."""


class Conv2d(_Conv, nn.Conv2d):  # type: ignore[misc]
    """``torch.nn.Conv2d`` on a macro."""


class Conv3d(_Conv, nn.Conv3d):  # type: ignore[misc]
    """``torch.nn.Conv3d`` on a macro."""


LAYERS: dict[type[nn.Module], type[CimLayer]] = {
    nn.Linear: Linear,
    transposed.TransposedLinear: TransposedLinear,
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.Conv3d: Conv3d,
}
