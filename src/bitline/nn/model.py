"""A converted model as a whole: its layers, the die they share, and the macro they compute with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from bitline.macro import Chip, Column, Macro, causes
from bitline.nn.cim import CimLayer
from bitline.nn.die import Silicon


def layers(model: nn.Module) -> dict[str, CimLayer]:
    """The layers of a model that sit on a macro, by dotted name."""
    return {layer.site.name: layer for layer in model.modules() if isinstance(layer, CimLayer)}


def silicon(model: nn.Module) -> Silicon:
    """The die and reads that a converted model's layers share; raises ValueError for a model that was not converted."""
    for layer in layers(model).values():
        return layer.silicon
    raise ValueError("no layer of this model sits on a macro: call bitline.convert(model, macro) first")


@torch.no_grad()
def programmed(model: nn.Module, name: str) -> Column:
    """The column of a layer as it is programmed now; raises ValueError naming the layers there are."""
    found = layers(model)
    if name not in found:
        raise ValueError(f"no layer {name!r} on the macro; there are: {', '.join(found) or 'none'}")
    return found[name].program()[0]


def use(model: nn.Module, variant: Callable[[Macro], Macro] | None = None, cause: str | None = None) -> None:
    """Compute with a variant of each layer's macro (``ideal``, ``nominal``), or with the design itself.

    ``cause``: one cause of error made ideal on top, where a layer's macro has it.
    """
    for layer in layers(model).values():
        macro = variant(layer.design) if variant else layer.design
        layer.use(macro, cause if cause and cause in causes(macro) else None)


def on_chip(model: nn.Module, chip: Chip, write: int = 0) -> None:
    """Put the model on a die, its arrays written for the ``write``-th time."""
    shared = silicon(model)
    shared.chip, shared.write = chip, write
    for layer in layers(model).values():
        layer.renew()
