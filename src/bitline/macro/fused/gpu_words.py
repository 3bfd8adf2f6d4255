"""Inputs and their words on CUDA, in plain torch, and the gradient back through them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bitline.encode import Word
from bitline.macro.fused.words import ROOM, Quantised, Words, extents
from bitline.macro.geometry import Conv, Geometry


def pack(x: Quantised, word: Word, geometry: Geometry) -> Words:
    """As ``Quantised.words``, in plain torch."""
    values, scale, zero = _laid(x.x, geometry), *_range(x)
    at = values / scale + zero
    if bool(at.isnan().any()):
        raise ValueError(f"at least {int(at.isnan().sum())} of {at.numel()} inputs of a layer on the macro are NaN")
    at = at.clamp_(x.low, x.high)
    if x.stride == 1:
        at = (at + 0.5).floor_()
    else:
        at = ((at - x.low) / 2 + 0.5).floor_() * 2 + x.low
    code = at.clamp_(max=x.high).int()
    pads = [p for pair in reversed(x.pads) for p in pair]
    code = F.pad(code, (0, 0, *pads), value=x.pad)
    packed = torch.where(code >= 0, code + word.above, ((code * word.sign) << word.left) + word.below)
    room = torch.empty(packed.numel() + ROOM, dtype=torch.int16, device=packed.device)  # the size of halves
    data = room[: packed.numel()].view(packed.shape)
    data.copy_(packed)
    return Words(data, word, len(geometry.kernel) if isinstance(geometry, Conv) else 0)


def unpack(x: Quantised, grad: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    """As ``Quantised.backward``, in plain torch."""
    values, scale, zero = _laid(x.x, geometry), *_range(x)
    grad = _laid(grad, geometry)
    pads = (*((0, 0),) * (3 - len(x.pads)), *x.pads)
    for axis, (before, after) in enumerate(pads, 1):
        grad = grad.narrow(axis, before, grad.shape[axis] - before - after)
    at = values / scale + zero
    inside = (at >= x.low) & (at <= x.high)
    grad = torch.where(inside, grad, 0.0)
    value = (at + 0.5).floor_() - zero if x.rounded else values / scale
    by_scale, by_zero = -(grad * value / scale).sum(dtype=torch.float64), grad.sum(dtype=torch.float64)
    grad_x = grad / scale
    grad_x = grad_x.movedim(-1, 1) if isinstance(geometry, Conv) else grad_x
    return grad_x.reshape(x.x.shape), by_scale.to(x.scale.dtype), by_zero.to(x.zero.dtype)


def _laid(x: Tensor, geometry: Geometry) -> Tensor:
    """Inputs (B, D, H, W, channels), or (B, 1, 1, S, K), float32."""
    x = x.detach().float()
    if not isinstance(geometry, Conv):
        return x[:, None, None]
    return x.movedim(1, -1).reshape(len(x), *extents(x.shape[2:], 1), x.shape[1])


def _range(x: Quantised) -> tuple[Tensor, Tensor]:
    """Scale and zero on the device of the inputs: there a division is one, not a product with the reciprocal."""
    device = x.x.device
    return x.scale.detach().float().to(device), x.zero.detach().float().to(device)
