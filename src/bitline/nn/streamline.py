"""A network as evaluation runs it: what follows a layer on a macro is done as its outputs are written.

That is a batch norm, the sum of a residual connection, and a ReLU.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bitline.nn.cim import CimLayer
from bitline.nn.die import OnSilicon
from bitline.nn.folding import traced
from bitline.nn.norms import NORMS, batch_norms
from bitline.nn.tail import Tail

RELU = (torch.relu, F.relu, "relu")
SUMS = (operator.add, torch.add, operator.iadd)


class Tailed(nn.Module):
    """A layer on a macro, the norm that alone takes its output, what is added to that, and the ReLU after it."""

    def __init__(self, layer: CimLayer, norm: _BatchNorm, relu: bool) -> None:
        super().__init__()
        self.layer, self.norm, self.relu = layer, norm, relu

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        tail = Tail(self.norm, self.relu, add)
        if self.norm.training or torch.is_grad_enabled():
            return tail(self.layer(x))
        return cast(Tensor, self.layer(x, tail))


def streamlined(model: nn.Module) -> nn.Module:
    """``model`` with layers and norms joined; it shares all modules. The model itself where it cannot be traced, or has
    hooks, which see the outputs of modules.

    In eval mode and without gradients it computes the same but for float32 rounding.
    """
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return model
    return _remembered(_made, model, _joined) or model


def norms_behind(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norm that alone takes a layer's outputs, by the layer's name; layers without one are absent.

    Raises ValueError where the model has batch norms, but cannot be traced by torch.fx.
    """
    return _remembered(_behind, model, _norms_behind)


def _norms_behind(model: nn.Module) -> dict[str, _BatchNorm]:
    if not batch_norms(model):
        return {}
    modules = dict(model.named_modules())
    found = {}
    for node in traced(model, OnSilicon).nodes:
        layer, after = modules.get(str(node.target)), _only(node)
        norm = modules.get(str(after.target)) if after is not None else None
        if isinstance(layer, CimLayer) and isinstance(norm, _BatchNorm) and norm.running_var is not None:
            found[layer.site.name] = norm
    return found


Found = TypeVar("Found")
Kept = WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], Found]]
_made: Kept[nn.Module | None] = WeakKeyDictionary()
_behind: Kept[dict[str, _BatchNorm]] = WeakKeyDictionary()


def _remembered(kept: Kept[Found], model: nn.Module, make: Callable[[nn.Module], Found]) -> Found:
    """What is made of a model by tracing it, made once as long as its modules stay the same."""
    shape = tuple(map(id, model.modules()))
    found = kept.get(model)
    if found is None or found[0] != shape:
        found = kept[model] = (shape, make(model))
    return found[1]


def _joined(model: nn.Module) -> nn.Module | None:
    try:
        graph = traced(model, OnSilicon)
    except ValueError:
        return None
    modules = dict(model.named_modules())
    root: dict[str, Any] = {}
    for node in list(graph.nodes):
        if node.op not in ("call_module", "get_attr"):
            continue
        root[str(node.target)] = operator.attrgetter(str(node.target))(model)
    joined = 0
    for node in list(graph.nodes):
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        norm_node = next(iter(node.users), None)
        if not isinstance(layer, CimLayer) or len(node.users) != 1 or norm_node is None or len(node.args) != 1:
            continue
        norm = modules.get(str(norm_node.target)) if norm_node.op == "call_module" else None
        if not _takes(norm, layer):
            continue
        assert isinstance(norm, _BatchNorm)
        nodes = [node, norm_node]  # what is joined
        other: tuple[fx.Node, ...] = ()
        if (following := _only(nodes[-1])) is not None and following.target in SUMS and len(following.args) == 2:
            one, two = following.args
            add = two if one is norm_node else one
            if isinstance(add, fx.Node) and add is not norm_node and not following.kwargs:
                nodes.append(following)
                other = (add,)
        if (following := _only(nodes[-1])) is not None and _is_relu(following, modules):
            nodes.append(following)
            relu = True
        else:
            relu = False
        name = f"tailed_{joined}"
        joined += 1
        root[name] = Tailed(layer, norm, relu)
        with graph.inserting_before(nodes[-1]):
            new = graph.call_module(name, (node.args[0], *other))
        nodes[-1].replace_all_uses_with(new)
        for old in reversed(nodes):
            graph.erase_node(old)
    if not joined:
        return None
    return fx.GraphModule(root, graph).train(model.training)


def _takes(norm: nn.Module | None, layer: CimLayer) -> bool:
    """Whether the norm can be done as the layer's outputs are written."""
    if not isinstance(norm, _BatchNorm) or type(norm) not in NORMS or norm._buffers.get("running_mean") is None:
        return False
    return norm.num_features == len(layer.weight)


def _only(node: fx.Node) -> fx.Node | None:
    """The one user of a node."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        module = modules.get(str(node.target))
        return type(module) is nn.ReLU
    return node.target in RELU
