"""The gradient of a layer's outputs on its way to the counts they were read from."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from bitline.macro.fused import memory, native
from bitline.macro.geometry import Conv, Geometry


def passed(
    grad: Tensor, share: Tensor | None, y: Tensor | None, scale: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor | None]:
    """(gradient of the counts, gradient of ``scale`` where ``y`` is given).

    ``grad``: of the outputs ``y`` = counts · ``scale``, () or (N,); ``share``: what of it passes the converter, of the
    outputs' shape. A convolution's comes channels last in memory, which its own backward pass reads fastest.
    """
    if isinstance(geometry, Conv) and grad.device.type == "cpu" and grad.dtype == torch.float32 and grad.numel():
        into, sums = _passed(grad, share, y, scale)
    else:
        each = geometry.broadcast(scale) if scale.dim() else scale
        into = grad * each if share is None else grad * each * share
        sums = None if y is None else geometry.per_output((grad * y).double())
    if sums is None:
        return into, None
    return into, ((sums if scale.dim() else sums.sum()) / scale.double()).to(scale.dtype)


def _passed(grad: Tensor, share: Tensor | None, y: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor | None]:
    batch, outputs, *extent = grad.shape
    grad, scales = grad.contiguous(), scale.detach().float().expand(outputs).contiguous()
    share, y = (None if value is None else value.contiguous() for value in (share, y))
    into = memory.empty(batch, *extent, outputs)
    sums = None if y is None else torch.empty(batch, outputs, dtype=torch.float64)
    job = native.Pass(
        grad=grad.data_ptr(),
        share=None if share is None else share.data_ptr(),
        y=None if y is None else y.data_ptr(),
        scale=scales.data_ptr(),
        passed=into.data_ptr(),
        sums=None if sums is None else sums.data_ptr(),
        batch=batch,
        outputs=outputs,
        positions=grad[0, 0].numel(),
        threads=native.threads(grad.numel()),
    )
    native.kernel().bitline_pass(ctypes.byref(job))
    return into.movedim(-1, 1), None if sums is None else sums.sum(0)
