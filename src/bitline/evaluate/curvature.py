"""Curvature of the loss by layer, and what follows from it: which weights to verify as they are written, and which
layers deserve more bits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bitline import draws
from bitline.nn import digital, layers
from bitline.nn.layers import LAYERS

Data = Iterable[Any]
"""Batches (x, y) or (x, y, index)."""


@dataclass(frozen=True)
class Trace:
    """The trace of a layer's block of the Hessian, and the standard error of the estimate over probes."""

    value: float
    error: float


def hessian_traces(
    model: nn.Module,
    data: Data,
    *,
    probes: int = 8,
    criterion: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    seed: int = 0,
) -> dict[str, Trace]:
    """Tr(H) of the mean loss by layer: v·Hv of random signs v, on average over ``probes`` (Hutchinson, 1990).

    ``model``: any network; of one on a macro, its clean weights in torch layers, digits and errors left out. Its linear
    layers and convolutions count, in eval mode; their sum is the trace over all weights. Memory is that of a training
    step and its gradient's graph. Raises ValueError for empty data or fewer than two probes.
    """
    if probes < 2:
        raise ValueError(f"probes = {probes}: two at least, for an error of the estimate")
    net, weights = _clean(model)
    each, count = torch.zeros(probes, len(weights), dtype=torch.float64), 0
    for number, (x, y) in enumerate(_batches(data, net)):
        gradients = torch.autograd.grad(criterion(net(x), y), list(weights.values()), create_graph=True)
        for probe in range(probes):
            signs = [_signs(w.shape, w, seed, name, number, probe) for name, w in weights.items()]
            curved = torch.autograd.grad(
                gradients, list(weights.values()), signs, retain_graph=True, materialize_grads=True
            )
            parts = [(v * h).sum(dtype=torch.float64) for v, h in zip(signs, curved, strict=True)]
            each[probe] += len(x) * torch.stack(parts).cpu()
        count += len(x)
    each /= count
    mean, error = each.mean(0).tolist(), (each.std(0) / probes**0.5).tolist()
    return {name: Trace(*pair) for name, pair in zip(weights, zip(mean, error, strict=True), strict=True)}


def gauss_newton(model: nn.Module, data: Data, *, probes: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Diagonal of the Gauss-Newton matrix of the mean cross entropy, by layer in the shape of its weight.

    Each probe is one backward pass a batch: gradients of Σ_i f_i·S_i z_i with random signs z and S Sᵀ = diag p - p pᵀ
    have that diagonal as their mean square. It is never negative, equals the Hessian's where the network is linear in
    its weights, and serves where SWIM (Yan et al., arXiv 2202.08395) propagates second derivatives layer by layer.
    ``model`` as in ``hessian_traces``; outputs are scores (B, classes).
    """
    net, weights = _clean(model)
    total, count = {name: torch.zeros_like(w) for name, w in weights.items()}, 0
    for number, (x, _) in enumerate(_batches(data, net)):
        scores = net(x)
        p = scores.detach().softmax(1)
        for probe in range(probes):
            z = p.sqrt() * _signs(p.shape, p, seed, "scores", number, probe)
            ahead = z - p * z.sum(1, keepdim=True)
            found = torch.autograd.grad(
                scores, list(weights.values()), ahead, retain_graph=True, materialize_grads=True
            )
            for name, gradient in zip(weights, found, strict=True):
                total[name] += gradient.square()
        count += len(x)
    return {name: value / (count * probes) for name, value in total.items()}


def write_verify(priority: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Which weights to verify as they are written: the ``share`` of all, 0 … 1, with the highest priority (bool, shapes
    as given). SWIM's priority is curvature times mean square error, ``gauss_newton`` times ``error_powers``."""
    if not 0 <= share <= 1:
        raise ValueError(f"share = {share:g}: a share of all weights, 0 … 1")
    flat = torch.cat([value.flatten() for value in priority.values()])
    chosen = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    chosen[flat.topk(round(share * len(flat))).indices] = True
    sizes = [value.numel() for value in priority.values()]
    return {
        name: part.view(value.shape) for (name, value), part in zip(priority.items(), chosen.split(sizes), strict=True)
    }


def spend_bits(
    curvature: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    mean: float,
    choices: Sequence[int] = (2, 3, 4, 6, 8),
) -> dict[str, int]:
    """Bits of each layer's weights, on average ``mean`` a weight or fewer: what lowers the loss most is bought first.

    Rounding to b bits of the range ±max|w| moves each weight by step²/12 in the mean square, and the loss by ½ Σ h of
    that, h the diagonal ``curvature``. Layers start at the fewest bits. Raises ValueError for a mean below them.
    """
    bits = sorted(choices)
    if mean < bits[0]:
        raise ValueError(f"mean = {mean:g} bits: the fewest of a layer are {bits[0]}")
    sizes = {name: w.numel() for name, w in weights.items()}

    def rise(name: str, b: int) -> float:
        step = 2 * float(weights[name].detach().abs().max()) / (2**b - 1)
        return float(curvature[name].sum()) * step**2 / 24

    given = dict.fromkeys(weights, 0)  # place in `bits`
    left = (mean - bits[0]) * sum(sizes.values())
    while True:
        offers = []
        for name, at in given.items():
            if at + 1 < len(bits) and (price := (bits[at + 1] - bits[at]) * sizes[name]) <= left:
                offers.append(((rise(name, bits[at]) - rise(name, bits[at + 1])) / price, price, name))
        if not offers:
            return {name: bits[at] for name, at in given.items()}
        _, price, name = max(offers)
        given[name] += 1
        left -= price


def _clean(model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """(a copy in torch layers, in eval mode; the weights of its linear layers and convolutions, which alone train)."""
    net = (digital(model) if layers(model) else copy.deepcopy(model)).eval().requires_grad_(False)
    found = {name: module for name, module in net.named_modules() if type(module) in LAYERS}
    if not found:
        raise ValueError(f"{type(model).__name__} has no linear layer or convolution")
    return net, {name: module.weight.requires_grad_() for name, module in found.items()}


def _batches(data: Data, net: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    device, number = next(net.parameters()).device, -1
    for number, batch in enumerate(data):  # noqa: B007
        yield batch[0].to(device), batch[1].to(device)
    if number < 0:
        raise ValueError("no curvature without data: the loader is empty")


def _signs(shape: torch.Size, like: Tensor, *key: object) -> Tensor:
    """Random signs, functions of the key."""
    words = draws.words(draws.key("signs", *key), torch.arange(shape.numel(), device=like.device))
    return (1 - 2 * ((words >> 40) & 1)).view(shape).to(like.dtype)
