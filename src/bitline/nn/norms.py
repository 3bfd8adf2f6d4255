"""Batch norms that are their torch classes, their factors and shifts held by analog cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from bitline import draws
from bitline.devices import OffsetRow
from bitline.macro import Macro, Site
from bitline.nn.die import OnSilicon, Silicon


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a model, digital and analog."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def share_of_batch(norm: _BatchNorm) -> float:
    """Of one batch more in the running statistics, as the torch class has it; the batch is counted."""
    factor = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        factor = 1 / float(norm.num_batches_tracked) if factor is None else factor
    return factor or 0.0


class AnalogNorm(OnSilicon, _BatchNorm):
    """A batch norm as an array does it: a depthwise 1×1 convolution by w = γ/√(σ² + ε) with the shift b = β − µ·w in a
    row beside it, both with the errors of this die, on one physical range (S1: Wan et al., JETC 2022, authors' code).

    Running statistics are updated as ever, from inputs without the error of this norm. In training the batch's own
    statistics normalise, as ever; w and b of the running ones, which would be written, set range and error.
    """

    row: OffsetRow
    _draws: tuple[Any, Tensor | None, Tensor | None]

    @staticmethod
    def of(module: _BatchNorm, macro: Macro, site: Site, silicon: Silicon) -> AnalogNorm:
        """A torch norm on a macro with a row for its shifts; it shares parameters and statistics."""
        kind = NORMS[type(module)]
        norm = kind.__new__(kind)
        nn.Module.__init__(norm)
        norm.__dict__.update({k: v for k, v in module.__dict__.items() if k != "_modules"})
        norm._parameters, norm._buffers = dict(module._parameters), dict(module._buffers)
        assert macro.norm is not None
        norm.design, norm.site, norm.silicon, norm.row = macro, site, silicon, macro.norm
        norm._pass = (-1, 0)
        norm._draws = (None, None, None)
        norm.use(macro)
        return norm

    def restored(self) -> _BatchNorm:
        """The torch norm with this one's parameters and statistics."""
        kind = next(plain for plain, own in NORMS.items() if type(self) is own)
        own = (self.eps, self.momentum, self.affine, self.track_running_stats)
        module = kind(self.num_features, *own, device="meta").train(self.training)
        module._parameters, module._buffers = dict(self._parameters), dict(self._buffers)
        return module

    def renew(self) -> None:
        """Draw anew: the die or the macro changed."""
        error = self.macro.variation
        assert error is not None
        mean = self.running_mean
        assert mean is not None
        die = (self.silicon.chip, self.silicon.write, mean.device)
        whose = (*die, error.varies, error.model_dump(exclude={"sigma"}))
        if self._draws[0] != whose:
            weights, offsets = (self.drawn(what, mean.shape, mean.device) for what in ("weights", "bias"))
            self._draws = (whose, weights, offsets)

    def written(self) -> tuple[Tensor, Tensor]:
        """(w, b) of the running statistics, (C,) each, without error."""
        mean, variance = self.running_mean, self.running_var
        assert mean is not None
        assert variance is not None
        factor = (variance + self.eps).rsqrt()
        w = factor if self.weight is None else factor * self.weight
        mean = mean.clone()  # which the next forward pass changes, perhaps before this one's backward
        return w, -mean * w if self.bias is None else self.bias - mean * w

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) to the same shape."""
        error, (_, n, m), mean = self.macro.variation, self._draws, self.running_mean
        assert error is not None
        assert mean is not None
        exact = error.apply(mean, n) is mean
        batch = None if exact or not self.training else self._of_batch(x)
        y: Tensor = super().forward(x) if exact else x
        w, b = self.written()
        held = self.row.stored(error, w, b, n, m)
        if not exact:
            y = self._with(x, held.w - w, held.b - b, batch)
        if held.deviation is not None:
            keys = self._keys(x)
            assert keys is not None
            size = held.deviation * (x.detach().square() + held.amplitude.square()).sqrt()
            y = y + (size * draws.sample_normals(keys, x.shape)).to(y.dtype)
        return y

    def _of_batch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of a batch, (C,) each; running statistics are updated as the torch class does."""
        self._check_input_dim(x)
        factor = share_of_batch(self)
        mean, variance = torch.batch_norm_update_stats(x.detach(), self.running_mean, self.running_var, factor)
        return mean, variance

    def _with(self, x: Tensor, more: Tensor, shift: Tensor, batch: tuple[Tensor, Tensor] | None) -> Tensor:
        """The norm of x plus ``more`` · x + ``shift``, (C,) each, in one pass: x is σ · x̂ + µ."""
        mean, variance = (self.running_mean, self.running_var) if batch is None else batch
        assert mean is not None
        assert variance is not None
        gamma = torch.ones_like(mean) if self.weight is None else self.weight
        beta = torch.zeros_like(mean) if self.bias is None else self.bias
        if batch is not None:
            found: Tensor = _Normalised.apply(x, gamma, beta, more, shift, mean, variance, self.eps)
            return found
        mean = mean.clone()  # which the next pass in training changes, perhaps before this one's backward
        factor, offset = gamma + more * (variance + self.eps).sqrt(), beta + more * mean + shift
        return batch_norm(x, mean, variance.clone(), factor, offset, False, 0.0, self.eps)


class _Normalised(torch.autograd.Function):
    """γ · x̂ + β + more · x + shift for x̂ normalised by the batch's own statistics, through which gradients pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        more: Tensor,
        shift: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
    ) -> Tensor:
        spread = (variance + eps).sqrt()
        ctx.save_for_backward(x, gamma, more, mean, spread)
        ctx.eps = eps
        return batch_norm(x, mean, variance, gamma + more * spread, beta + more * mean + shift, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, more, mean, spread = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], True, True]
        grad_x, by_gamma, by_beta = torch.ops.aten.native_batch_norm_backward(
            grad, x, gamma, None, None, mean, 1 / spread, True, ctx.eps, wanted
        )
        if wanted[0]:
            grad_x.addcmul_(grad, more.view(1, -1, *[1] * (x.dim() - 2)).to(grad.dtype))
        return grad_x, by_gamma, by_beta, spread * by_gamma + mean * by_beta, by_beta, None, None, None


class BatchNorm1d(AnalogNorm, nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` in analog."""


class BatchNorm2d(AnalogNorm, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` in analog."""


class BatchNorm3d(AnalogNorm, nn.BatchNorm3d):
    """``torch.nn.BatchNorm3d`` in analog."""


NORMS: dict[type[_BatchNorm], type[AnalogNorm]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
}
