"""Batch norms folded into the layers before them: what an array holds when there is no circuit for the norm."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jaxtyping
import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitline.nn.norms import NORMS

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Fold each batch norm that alone takes the output of a linear layer or convolution into that layer.

    Works in place and returns ``model``; the norm's place holds ``nn.Identity``, other names stay. With the running
    statistics, w ← w·γ/√(σ² + ε) and b ← (b − µ)·γ/√(σ² + ε) + β: exact in eval mode. Left alone: norms without
    running statistics, layers or norms called twice, hooked, tied or read elsewhere. A linear layer is taken to have
    outputs (B, N); after (B, N, N) a norm is over axis 1, which a trace cannot tell. Raises ValueError, and changes
    nothing, where ``model`` cannot be traced by torch.fx or nothing can be folded.
    """
    pairs = _pairs(model, _graph(model))
    if not pairs:
        raise ValueError(
            f"{type(model).__name__} has no batch norm directly after a linear layer or convolution that could be "
            "folded: use fold_bn=False"
        )
    for layer, norm in pairs:
        _fold(layer, norm)
        for parent in model.modules():
            for leaf, child in parent._modules.items():
                if child is norm:
                    parent._modules[leaf] = nn.Identity().train(norm.training)
    return model


@contextmanager
def _traceable(model: nn.Module) -> Iterator[None]:
    """Eval mode, and no shape checks by jaxtyping: what is traced has no shape."""
    modes = [(module, module.training) for module in model.modules()]
    checked = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        model.eval()
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", checked)
        for module, mode in modes:
            module.training = mode


class _Tracer(fx.Tracer):
    def __init__(self, leaf: type[nn.Module] | None) -> None:
        super().__init__()
        self.leaf = leaf

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = (_BatchNorm,) if self.leaf is None else (_BatchNorm, self.leaf)
        return isinstance(m, known) or super().is_leaf_module(m, module_qualified_name)


def traced(model: nn.Module, leaf: type[nn.Module] | None = None) -> fx.Graph:
    """The traced graph, arguments with a default at their default; modules of class ``leaf`` are not looked into.

    Raises ValueError where ``model`` cannot be traced by torch.fx.
    """
    arguments = inspect.signature(inspect.unwrap(type(model).forward)).parameters.values()
    defaults: dict[str, Any] = {a.name: a.default for a in arguments if a.default is not a.empty}
    try:
        with _traceable(model):
            return _Tracer(leaf).trace(model, concrete_args=defaults or None)
    except Exception as error:  # whatever the model's own code raises on a value without a shape
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{type(model).__name__} cannot be traced by torch.fx ({type(error).__name__}: {reason})"
        ) from error


def _graph(model: nn.Module) -> fx.Graph:
    try:
        return traced(model)
    except ValueError as error:
        raise ValueError(f"batch norms cannot be folded: {error}; use fold_bn=False") from error.__cause__


def _pairs(model: nn.Module, graph: fx.Graph) -> list[tuple[nn.Module, _BatchNorm]]:
    """(layer, norm) that may be folded, in the order of the graph."""
    modules = dict(model.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    pairs = []
    for node in graph.nodes:
        if node.op != "call_module" or type(modules[node.target]) not in NORMS:
            continue
        before = node.args[0] if node.args else node.kwargs.get("input")
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        layer, norm = modules[str(before.target)], modules[node.target]
        weight = layer._parameters.get("weight")
        if type(layer) not in LAYERS or weight is None or len(weight) != norm.num_features:
            continue
        if norm._buffers.get("running_mean") is None or norm._buffers.get("running_var") is None:
            continue
        if any(calls[n.target] != 1 or n.target in read for n in (before, node)):
            continue
        if any(m._forward_hooks or m._forward_pre_hooks for m in (layer, norm)):
            continue
        if any(owners[id(p)] != 1 for p in layer._parameters.values() if p is not None):
            continue
        assert isinstance(norm, _BatchNorm)
        pairs.append((layer, norm))
    return pairs


@torch.no_grad()
def _fold(layer: nn.Module, norm: _BatchNorm) -> None:
    """Change the layer's parameters (in double precision, then rounded once); ``weight`` stays the same object."""
    weight, bias = layer._parameters["weight"], layer._parameters["bias"]
    mean, variance = norm._buffers["running_mean"], norm._buffers["running_var"]
    assert weight is not None
    assert mean is not None
    assert variance is not None
    gamma, beta = norm._parameters["weight"], norm._parameters["bias"]
    factor = (variance.double() + norm.eps).rsqrt()
    if gamma is not None:
        factor = factor * gamma.double()
    shift = -mean.double() * factor
    if bias is not None:
        shift += bias.double() * factor
    if beta is not None:
        shift += beta.double()
    weight.copy_(weight.double() * factor.view(-1, *[1] * (weight.dim() - 1)))
    if bias is None:
        layer._parameters["bias"] = nn.Parameter(shift.to(weight.dtype), requires_grad=weight.requires_grad)
    else:
        bias.copy_(shift)
