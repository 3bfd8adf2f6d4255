"""Batch norms that correct what a chip does to each sample by that sample alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitline.nn.norms import AnalogNorm, batch_norms, share_of_batch

POSITIONS = 256.0


class SampleNorm(_BatchNorm):
    """A batch norm whose mean and variance are those of a sample's own positions beside the running ones (in training
    the batch's), which count as ``positions`` more: of a feature map of P positions the sample has the share
    P / (P + positions). Digital, with the parameters, statistics and name of the norm it takes the place of.

    A chip that errs by offset and gain of an output is corrected without a step on it: nothing passes from one sample
    to another. What a sample's own mean and variance said about it is lost by the same share. The prior is Schneider et
    al.'s (NeurIPS 2020: batch statistics and N samples' worth of the running ones), of one sample as in SITA (Khurana
    et al., arXiv 2112.02355), but counted in positions. Inputs (B, C, …); of (B, C) there is one position, and the norm
    is the batch norm. A feature map has to be complete before it is normalised: one multiplication and addition a value
    more than where the norm is folded away, and two sums.
    """

    positions: float

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) to the same shape."""
        own = x.shape[2:].numel()
        if own == 1:
            return super().forward(x)
        self._check_input_dim(x)
        at = tuple(range(2, x.dim()))
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        variance, mean = torch.var_mean(wide, at, correction=0)  # (B, C)
        square = variance + mean.square()
        if self.training or self.running_mean is None:
            prior, prior_square = mean.mean(0), square.mean(0)
            self._learn(prior.detach(), (prior_square - prior.square()).detach(), x.numel() // x.shape[1])
        else:
            assert self.running_var is not None
            prior, prior_square = self.running_mean, self.running_var + self.running_mean.square()
        share = own / (own + self.positions)
        mean = torch.lerp(prior.expand_as(mean), mean, share)
        variance = torch.lerp(prior_square.expand_as(square), square, share) - mean.square()
        factor = (variance + self.eps).rsqrt()
        factor = factor if self.weight is None else factor * self.weight
        shift = -mean * factor if self.bias is None else self.bias - mean * factor
        shape = (*factor.shape, *(1 for _ in at))
        return torch.addcmul(shift.view(shape), wide, factor.view(shape)).to(x.dtype)

    def _learn(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Running statistics go on as the torch class's do."""
        if self.running_mean is None:
            return
        assert self.running_var is not None
        factor = share_of_batch(self)
        self.running_mean.lerp_(mean, factor)
        self.running_var.lerp_(variance * (count / max(1, count - 1)), factor)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, positions={self.positions:g}"


class SampleNorm1d(SampleNorm, nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` with it."""


class SampleNorm2d(SampleNorm, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` with it."""


class SampleNorm3d(SampleNorm, nn.BatchNorm3d):
    """``torch.nn.BatchNorm3d`` with it."""


KINDS = {nn.BatchNorm1d: SampleNorm1d, nn.BatchNorm2d: SampleNorm2d, nn.BatchNorm3d: SampleNorm3d}


def per_sample(model: nn.Module, positions: float = POSITIONS) -> nn.Module:
    """Let each sample's own statistics count in all batch norms, in place: ``SampleNorm``.

    Raises ValueError for a model without batch norm, and for norms on the array, whose factors are written once.
    """
    if not batch_norms(model):
        raise ValueError("the network has no batch norm that a sample's own statistics could count in")
    made: dict[_BatchNorm, SampleNorm] = {}
    for name, norm in list(model.named_modules(remove_duplicate=False)):
        if isinstance(norm, AnalogNorm):
            raise ValueError(
                f"{name} is on the array, where its factors are written once: take `norm` out of the macro"
            )
        if isinstance(norm, _BatchNorm):
            if norm not in made:
                made[norm] = _made(norm, positions)
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, made[norm])
    return model


def _made(norm: _BatchNorm, positions: float) -> SampleNorm:
    kind = type(norm) if isinstance(norm, SampleNorm) else KINDS[type(norm)]
    found = kind.__new__(kind)
    found.__dict__ = norm.__dict__ | {"positions": positions}
    return found
