"""The digital side of a network as a list of plain operations: traced once at export, run without its code later."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from bitline.lab.bundle import Bundle, Node
from bitline.lab.errors import BundleError
from bitline.lab.lowered import Written
from bitline.nn import CimLayer, SampleNorm

Settings = dict[str, Any]
Run = Callable[[list[Tensor], Settings, dict[str, Tensor]], Tensor]


def _norm(x: list[Tensor], s: Settings, t: dict[str, Tensor]) -> Tensor:
    return F.batch_norm(x[0], t["mean"], t["variance"], t.get("weight"), t.get("bias"), eps=s["eps"])


def _conv(x: list[Tensor], s: Settings, t: dict[str, Tensor]) -> Tensor:
    convolve = (F.conv1d, F.conv2d, F.conv3d)[t["weight"].dim() - 3]
    return convolve(x[0], t["weight"], t.get("bias"), s["stride"], s["padding"], s["dilation"], s["groups"])


def _add(x: list[Tensor], s: Settings, t: dict[str, Tensor]) -> Tensor:
    if s.get("alike") and x[0].shape != x[1].shape:
        raise ValueError(f"results of {tuple(x[0].shape)} and {tuple(x[1].shape)} are to be of one shape")
    return x[0] + x[1]


def _affine(x: list[Tensor], s: Settings, t: dict[str, Tensor]) -> Tensor:
    """scale · x + shift by channel, which is on ``axis`` from the last."""
    (y,), shape = x, [1] * x[0].dim()
    shape[s["axis"]] = wanted = x[0].shape[s["axis"]]
    for name, value in t.items():
        if value.shape != (wanted,):
            raise ValueError(f"{name} has the shape {tuple(value.shape)}, ({wanted},) is needed")
    y = y * t["scale"].view(shape) if "scale" in t else y
    return y + t["shift"].view(shape) if "shift" in t else y


def _pad(x: list[Tensor], s: Settings, t: dict[str, Tensor]) -> Tensor:
    """Zeros before and after each of the last dimensions."""
    pairs = list(zip(s["before"], s["after"], strict=True))
    return F.pad(x[0], [side for pair in reversed(pairs) for side in pair])


AVERAGES: tuple[Any, ...] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
OPERATIONS: dict[str, Run] = {
    "relu": lambda x, s, t: torch.relu(x[0]),
    "relu6": lambda x, s, t: F.relu6(x[0]),
    "add": _add,
    "affine": _affine,
    "same": lambda x, s, t: x[0],
    "batch_norm": _norm,
    "conv": _conv,
    "linear": lambda x, s, t: F.linear(x[0], t["weight"], t.get("bias")),
    "max_pool2d": lambda x, s, t: F.max_pool2d(x[0], s["kernel"], s["stride"], s["padding"]),
    "avg_pool2d": lambda x, s, t: F.avg_pool2d(x[0], s["kernel"], s["stride"], s["padding"]),
    "adaptive_avg_pool2d": lambda x, s, t: F.adaptive_avg_pool2d(x[0], s["size"]),
    "avg_pool_like": lambda x, s, t: AVERAGES[s["axes"] - 1](x[0], x[1].shape[-s["axes"] :]),
    "pad": _pad,
    "flatten": lambda x, s, t: x[0].flatten(s["first"], s["last"]),
    "mean": lambda x, s, t: x[0].mean(s["axes"], s["keep"]),
}


def evaluate(bundle: Bundle, x: Tensor, layer: Callable[[str, Tensor], Tensor]) -> Tensor:
    """Run a bundle's steps on a batch of images; ``layer`` computes what is on the board."""
    nodes = bundle.record.nodes
    last = {i: number for number, node in enumerate(nodes) for i in node.inputs}
    held: dict[int, Tensor] = {}
    for number, node in enumerate(nodes):
        given = [held[i] for i in node.inputs]
        if node.op == "input":
            held[number] = x
        elif node.op == "layer":
            assert node.layer is not None
            held[number] = layer(node.layer, given[0])
        elif node.op in OPERATIONS:
            tensors = {key: bundle.tensors[name] for key, name in node.tensors.items()}
            try:
                held[number] = OPERATIONS[node.op](given, dict(node.settings), tensors)
            except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
                raise BundleError(f"step {number} ({node.op}) of the bundle cannot be run: {error}") from None
        else:
            raise BundleError(f"step {number}: no operation {node.op!r}; there are: {', '.join(OPERATIONS)}")
        for i in node.inputs:
            if last[i] == number:
                held.pop(i, None)
    return held[len(nodes) - 1]


class _Tracer(fx.Tracer):
    """Stops at layers on the macro, at norms, and at torch's own modules."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, CimLayer | SampleNorm) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> tuple[tuple[Node, ...], dict[str, Tensor]]:
    """The steps of a converted network in eval mode, and their tensors by name.

    Raises ValueError naming what the network does that no operation of ``OPERATIONS`` does.
    """
    try:
        found = _Tracer().trace(model)
    except (TypeError, fx.proxy.TraceError, ValueError) as error:
        raise ValueError(f"the network's forward pass cannot be traced: {error}") from None
    written, place = Written(), dict[fx.Node, int]()
    for node in found.nodes:
        if node.op == "output":
            (result,) = node.args
            if not isinstance(result, fx.Node):
                raise ValueError("the network gives more than one tensor: a bundle holds networks with one result")
            if place[result] != len(written.nodes) - 1:
                written.add("same", place[result])
            continue
        if node.op == "placeholder":
            if written.nodes:
                raise ValueError(f"the network has a second input {node.name!r}: a bundle holds networks with one")
            place[node] = written.add("input")
            continue
        inputs = tuple(place[n] for n in node.all_input_nodes)
        if (layer := _layer(model, node)) is not None:
            place[node] = written.layer(layer, *inputs)
            continue
        op, settings, own = _operation(model, node)
        if op == "add" and len(inputs) == 1:
            inputs *= 2  # x + x
        place[node] = written.add(op, *inputs, settings=settings, tensors=own)
    return tuple(written.nodes), written.tensors


def _layer(model: nn.Module, node: fx.Node) -> CimLayer | None:
    """The layer on the macro that a traced step calls; None if it calls another thing."""
    module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
    return module if isinstance(module, CimLayer) else None


_ZEROS = ("zeros", tuple)  # padding of a convolution, by number
Found = tuple[str, Settings, dict[str, Tensor]]


def _operation(model: nn.Module, node: fx.Node) -> Found:
    """(operation, settings, tensors) of a traced step."""
    if node.op == "call_module":
        return _module(model.get_submodule(str(node.target)), str(node.target))
    plain: dict[Any, str] = {torch.relu: "relu", F.relu: "relu", F.relu6: "relu6"}
    plain |= {operator.add: "add", operator.iadd: "add", torch.add: "add", "relu": "relu", "contiguous": "same"}
    arguments = [a for a in node.args if not isinstance(a, fx.Node)]
    if node.target in plain and not arguments:
        return plain[node.target], {}, {}
    if node.target in (torch.flatten, "flatten"):
        first, last = (*arguments, *(0, -1)[len(arguments) :])[:2]
        return (
            "flatten",
            {"first": node.kwargs.get("start_dim", first), "last": node.kwargs.get("end_dim", last)},
            {},
        )
    if node.target in (torch.mean, "mean") and (axes := node.kwargs.get("dim", arguments[0] if arguments else None)):
        several = tuple(axes) if isinstance(axes, list | tuple) else (axes,)
        return "mean", {"axes": several, "keep": bool(node.kwargs.get("keepdim", False))}, {}
    name = getattr(node.target, "__name__", str(node.target))
    raise ValueError(
        f"the network calls {name} ({node.name}), which a bundle cannot hold; it can: {', '.join(OPERATIONS)}"
    )


def _module(module: nn.Module, name: str) -> Found:
    def parameters(*names: str) -> dict[str, Tensor]:
        return {n: value for n in names if (value := getattr(module, n, None)) is not None}

    if isinstance(module, nn.Identity | nn.Dropout | nn.Dropout2d):
        return "same", {}, {}
    if isinstance(module, nn.ReLU | nn.ReLU6):
        return ("relu6" if isinstance(module, nn.ReLU6) else "relu"), {}, {}
    if isinstance(module, SampleNorm):
        raise ValueError(f"{name} ({module}) cannot be held by a bundle: its statistics are each sample's own")
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
        assert module.running_var is not None
        held = {"mean": module.running_mean, "variance": module.running_var}
        return "batch_norm", {"eps": float(module.eps)}, held | parameters("weight", "bias")
    if isinstance(module, nn.Flatten):
        return "flatten", {"first": module.start_dim, "last": module.end_dim}, {}
    if isinstance(module, nn.Linear):
        return "linear", {}, parameters("weight", "bias")
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and (module.padding_mode, type(module.padding)) == _ZEROS:
        whole = {key: tuple(getattr(module, key)) for key in ("stride", "padding", "dilation")}
        return "conv", whole | {"groups": module.groups}, parameters("weight", "bias")
    if isinstance(module, nn.AdaptiveAvgPool2d) and (size := _pair(module.output_size)) is not None:
        return "adaptive_avg_pool2d", {"size": size}, {}
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d) and not module.ceil_mode:
        kernel, stride, padding = (_pair(v) for v in (module.kernel_size, module.stride, module.padding))
        usual = module.dilation in (1, (1, 1)) if isinstance(module, nn.MaxPool2d) else _usual(module)
        if kernel and stride and padding and usual:
            op = "max_pool2d" if isinstance(module, nn.MaxPool2d) else "avg_pool2d"
            return op, {"kernel": kernel, "stride": stride, "padding": padding}, {}
    raise ValueError(f"{name} ({module}) cannot be held by a bundle; it can: layer, {', '.join(OPERATIONS)}")


def _usual(pool: nn.AvgPool2d) -> bool:
    return pool.count_include_pad and pool.divisor_override is None


def _pair(value: Any) -> tuple[int, int] | None:
    """One number or two as two; None for anything else."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    return pair if len(pair) == 2 and all(isinstance(v, int) for v in pair) else None
