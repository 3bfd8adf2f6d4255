"""A trained network on another macro than its own."""

from __future__ import annotations

import copy
import glob
from collections.abc import Callable, Mapping

from torch import nn

from bitline.macro import Macro
from bitline.nn.cim import CimLayer
from bitline.nn.convert import convert, restore
from bitline.nn.model import converted_layers, layers, parts
from bitline.nn.quantizer import Quantizer
from bitline.nn.quantizers import Xnor


def moved(model: nn.Module, change: Callable[[Macro], Macro] | Mapping[str, Macro]) -> nn.Module:
    """A copy of a converted model, each layer on ``change`` of its macro; weights stay as they were trained.

    ``change``: or macros by layer's name; a layer that is not named stays on its own.

    Quantizers stay where their codes do, converter ranges where bits, rule and span of the converter do. Others begin
    anew, of the same kinds: ``calibrated`` says whether any does, and ``calibrate`` sets them and leaves the rest. Side
    paths go along as they are. Raises ValueError as ``convert`` does, for a model that was not converted, and for a
    side path that cannot be on the macro.
    """
    found = converted_layers(model)
    first = next(iter(found.values()))
    if isinstance(change, Mapping):
        if unknown := [name for name in change if name not in found]:
            raise ValueError(f"macros for {', '.join(unknown)}: the layers on a macro are {', '.join(found)}")
        wanted = {name: change.get(name, part.design) for name, part in parts(model).items()}
    else:
        wanted = {name: change(part.design) for name, part in parts(model).items()}
    designs = {glob.escape(name): one for name, one in wanted.items() if name in found or one.norm is not None}
    bare = copy.deepcopy(model)
    for layer in layers(bare).values():
        layer.side = None
    made = convert(restore(bare, inplace=True), designs, gradient=first.asked, plan=first.forced, inplace=True)
    for name, layer in layers(made).items():
        _carry(found[name], layer)
        if layer.side is not None and (reason := layer.side.refuses(layer.design)):
            raise ValueError(f"{name}: {reason}")
    return made.to(first.weight.device).train(model.training)


def calibrated(model: nn.Module) -> bool:
    """Whether every quantizer and converter of a model has its range."""
    return all(
        part is None or part.calibrated
        for layer in layers(model).values()
        for part in (layer.input_quantizer, layer.weight_quantizer, layer.converters)
    )


def _carry(old: CimLayer, new: CimLayer) -> None:
    """Give a layer what its codes and its converters have in common with those of the layer it replaces."""
    before, after = old.design, new.design
    new.verified = old.verified
    new.side = copy.deepcopy(old.side)
    new.input_quantizer = _quantizer(old.input_quantizer, new.input_quantizer, before.inputs == after.inputs, None)
    new.weight_quantizer = _quantizer(
        old.weight_quantizer, new.weight_quantizer, before.weights == after.weights, len(new.weight)
    )
    if old.converters is None or new.converters is None or before.value_range != after.value_range:
        return
    kept, wanted = old.converters.adc, new.converters.adc
    if (kept.bits, kept.range) == (wanted.bits, wanted.range):
        new.converters.load_state_dict(old.converters.state_dict())


def _quantizer(old: Quantizer | None, new: Quantizer | None, same: bool, channels: int | None) -> Quantizer | None:
    """The old one where codes are the same, else one of its kind for the new codes."""
    if same:
        return copy.deepcopy(old)
    if old is None or new is None or isinstance(old.config, Xnor):  # chosen for binary weights, by convert
        return new
    grid = new.grid
    made: Quantizer = old.config.build(grid.low, grid.high, role=new.role, step=grid.step, channels=channels)  # type: ignore[attr-defined]
    made.name = new.name
    return made
