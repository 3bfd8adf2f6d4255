"""Ranges from a few batches: quantizers first, then converters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from bitline.macro import Probe, nominal
from bitline.nn.cim import CimLayer
from bitline.nn.kept import kept
from bitline.nn.model import converted_layers, layers
from bitline.nn.ranges import ConverterRange


class _Values(Probe):
    def __init__(self, converters: ConverterRange) -> None:
        self.converters = converters

    def values(self, v: Tensor) -> None:
        self.converters.observe(v)


def calibrate(model: nn.Module, loader: Iterable[Any], batches: int = 8) -> nn.Module:
    """Set the ranges of a converted model from the first ``batches`` of ``loader`` (x or (x, …) a batch).

    Input and weight quantizers see the float network; then converter ranges, where the macro leaves them to be
    calibrated, see a typical die (mean curve, no spread, no noise). Ranges already set stay. Raises ValueError
    naming the layers that no sample reached, or NaN in the data.
    """
    converted_layers(model)
    data = unlabelled(model, islice(loader, batches), "calibration", "calibration batch")
    with kept(model), torch.no_grad():
        model.eval()
        _quantizers(model, data)
        _converters(model, data)
    return model


def unlabelled(model: nn.Module, batches: Iterable[Any], what: str, each: str = "batch") -> list[Tensor]:
    """The inputs of batches (x or (x, …) each), on the model's device; raises ValueError where ``what`` needs them
    and there are none, or NaN."""
    device = next(model.parameters()).device
    data = [(batch[0] if isinstance(batch, tuple | list) else batch).to(device) for batch in batches]
    if not data:
        raise ValueError(f"{what} needs at least one batch of inputs: the loader is empty")
    _check_finite(data, each)
    return data


def _check_finite(data: Iterable[Tensor], what: str) -> None:
    """Raise ValueError that names the first input that is NaN or infinite, and its batch as ``what``."""
    for i, x in enumerate(data):
        if x.is_floating_point() and not bool(x.isfinite().all()):
            first = (~x.isfinite()).nonzero()[0].tolist()
            raise ValueError(f"{what} {i}: input{first} = {x[tuple(first)].item()} is not a finite number")


def walk(
    model: nn.Module, data: Iterable[Tensor], see: Callable[[CimLayer, Tensor, Tensor], None] | None = None
) -> None:
    """Pass data through the float network: layers learn their positions, quantizers what they will have to hold, and
    ``see`` is called with each layer, its inputs and its outputs.

    Raises ValueError naming the layers that no sample reaches.
    """
    found = layers(model)
    hooks = []
    if see is not None:
        tell = lambda layer, x, y: see(layer, x[0], y)  # noqa: E731
        hooks = [layer.register_forward_hook(tell) for layer in found.values()]
    for layer in found.values():
        layer.observing, layer.positions = True, 0
    try:
        for x in data:
            model(x)
    finally:
        for layer in found.values():
            layer.observing = False
        for hook in hooks:
            hook.remove()
    silent = [name for name, layer in found.items() if not layer.positions]
    if silent:
        raise ValueError(f"no sample reached {', '.join(silent)}: the model does not call them; skip them in convert")


def _quantizers(model: nn.Module, data: list[Tensor]) -> None:
    walk(model, data)
    for layer in layers(model).values():
        if layer.input_quantizer is not None and not layer.input_quantizer.calibrated:
            layer.input_quantizer.freeze()
        if layer.weight_quantizer is not None and not layer.weight_quantizer.calibrated:
            layer.weight_quantizer.observe(layer.weight)
            layer.weight_quantizer.freeze()


def _converters(model: nn.Module, data: list[Tensor]) -> None:
    found = layers(model)
    if all(layer.converters is None or layer.converters.calibrated for layer in found.values()):
        return
    in_use = {name: layer.macro for name, layer in found.items()}
    for layer in found.values():
        layer.use(nominal(layer.design).model_copy(update={"converter": None, "trim": None}))
        if layer.converters is not None and not layer.converters.calibrated:
            layer.probe = _Values(layer.converters)
            layer.plan = type(layer.plan)("reference", "values of the converters are observed")
    try:
        for x in data:
            model(x)
    finally:
        for name, layer in found.items():
            layer.probe = None
            layer.use(in_use[name])
    for layer in found.values():
        if layer.converters is not None and not layer.converters.calibrated:
            layer.converters.freeze()
