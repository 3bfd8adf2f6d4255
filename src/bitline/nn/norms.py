"""Batch norms that are their torch classes, their factors and shifts held by analog cells."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitline import draws
from bitline.devices import OffsetRow
from bitline.macro import Macro, Site
from bitline.nn.die import OnSilicon, Silicon


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a model, digital and analog."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


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
            weights, offsets = (self._drawn(what, mean.shape, mean.device) for what in ("weights", "bias"))
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
        y: Tensor = super().forward(x)
        error = self.macro.variation
        _, n, m = self._draws
        assert error is not None
        w, b = self.written()
        held = self.row.stored(error, w, b, n, m)
        shape = [1, -1, *[1] * (x.dim() - 2)]
        if held.w is not w:
            more, shift = ((found - clean).view(shape).to(y.dtype) for found, clean in ((held.w, w), (held.b, b)))
            y = y.addcmul_(x.to(y.dtype), more).add_(shift)
        if held.deviation is not None:
            keys = self._keys(x)
            assert keys is not None
            size = held.deviation * (x.detach().square() + held.amplitude.square()).sqrt()
            y = y + (size * draws.sample_normals(keys, x.shape)).to(y.dtype)
        return y


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
