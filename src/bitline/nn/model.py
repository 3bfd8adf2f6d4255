"""A converted model as a whole: its layers, the die they share, and the macro they compute with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from bitline.macro import AnyGradient, Chip, Column, Macro, causes
from bitline.nn.cim import CimLayer
from bitline.nn.die import OnSilicon, Silicon
from bitline.nn.quantizers import AnyQuantizer

NOT_CONVERTED = "no layer of this model sits on a macro: call bitline.convert(model, macro) first"


def layers(model: nn.Module) -> dict[str, CimLayer]:
    """The layers of a model that sit on a macro, by dotted name."""
    return {layer.site.name: layer for layer in model.modules() if isinstance(layer, CimLayer)}


def converted_layers(model: nn.Module) -> dict[str, CimLayer]:
    """The layers of a model that sit on a macro; raises ValueError for a model that was not converted."""
    if not (found := layers(model)):
        raise ValueError(NOT_CONVERTED)
    return found


def parts(model: nn.Module) -> dict[str, OnSilicon]:
    """Everything of a model that sits on a macro, its layers and its analog norms, by dotted name."""
    return {part.site.name: part for part in model.modules() if isinstance(part, OnSilicon)}


def silicon(model: nn.Module) -> Silicon:
    """The die and reads that a converted model's parts share; raises ValueError for a model that was not converted."""
    for part in parts(model).values():
        return part.silicon
    raise ValueError(NOT_CONVERTED)


@torch.no_grad()
def programmed(model: nn.Module, name: str) -> Column:
    """The column of a layer as it is programmed now; raises ValueError naming the layers there are."""
    found = layers(model)
    if name not in found:
        raise ValueError(f"no layer {name!r} on the macro; there are: {', '.join(found) or 'none'}")
    return found[name].program()[0]


def use(model: nn.Module, variant: Callable[[Macro], Macro] | None = None, cause: str | None = None) -> None:
    """Compute with a variant of each part's macro (``ideal``, ``nominal``), or with the design itself.

    ``cause``: one cause of error made ideal on top, where a part's macro has it.
    """
    for part in parts(model).values():
        macro = variant(part.design) if variant else part.design
        part.use(macro, cause if cause and cause in causes(macro) else None)


def on_chip(model: nn.Module, chip: Chip, write: int = 0) -> None:
    """Put the model on a die, its arrays written for the ``write``-th time."""
    shared = silicon(model)
    shared.chip, shared.write = chip, write
    for part in parts(model).values():
        part.renew()


def differentiate(model: nn.Module, gradient: AnyGradient | None = None) -> None:
    """Pass gradients through every layer by another rule, by plans that can; None: as ``convert`` was asked."""
    for layer in layers(model).values():
        layer.differentiate(gradient)


def requantise(model: nn.Module, inputs: AnyQuantizer) -> None:
    """Give the layers' inputs another kind of quantizer, which starts with the range of the one it replaces.

    Layers that have this one already keep it, trained or not. Raises ValueError, naming the layer, where its inputs are
    not calibrated yet or the kind does not fit its codes; the model is then unchanged.
    """
    new = {}
    for name, layer in layers(model).items():
        old, scheme = layer.input_quantizer, layer.macro.inputs
        if old is None or scheme is None or old.config == inputs:
            continue
        try:
            quantizer = inputs.build(scheme.low, scheme.high, role="inputs", step=scheme.stride)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if not old.calibrated:
            raise ValueError(f"{name}: its inputs are not calibrated: call bitline.calibrate(model, loader) first")
        quantizer.name = old.name
        with torch.no_grad():
            _, scale, zero = old(layer.weight.new_zeros(1))
        quantizer = quantizer.to(layer.weight.device)
        quantizer.begin_at(scale.reshape(1), zero.reshape(1))
        new[name] = quantizer
    for name, quantizer in new.items():
        layer = layers(model)[name]
        layer.input_quantizer = quantizer.train(layer.training)
        layer.renew()
