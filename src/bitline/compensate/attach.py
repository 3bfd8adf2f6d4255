"""Side paths put beside the layers of a converted model, and taken away again."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from bitline.compensate.nested import NestedPath
from bitline.compensate.path import Path
from bitline.nn import SidePath, all_match, converted_layers, layers, matches


def attach(model: nn.Module, path: Path, at: Sequence[str] = ("*",)) -> nn.Module:
    """Give the layers whose names match a side path of this kind, in place; returns the model.

    A kind made on each chip goes around or inside a side path that is there (``Path.STANDS``). Raises ValueError, and
    changes nothing, for a pattern that matches no layer, of ``at`` or of the kind itself, a layer that has a side path
    already (of the same kind, for those), one whose macro the kind refuses, and a model that was not converted.
    """
    found = converted_layers(model)
    if isinstance(at, str):
        raise ValueError(f"at = {at!r}: a list of patterns is expected, such as [{at!r}]")
    all_match(at, found, "at: ")
    all_match(path.patterns, found, f"{path.kind}: ")
    chosen = {name: layer for name, layer in found.items() if matches(name, at)}
    for name, layer in chosen.items():
        if layer.side is not None and (path.STANDS == "alone" or has(layer.side, type(path))):
            raise ValueError(f"{name} has a side path already: bitline.compensate.remove(model) first")
        if reason := path.refuses(layer.design):
            raise ValueError(f"{name}: {reason}")
    for layer in chosen.values():
        new, there = path.build(layer), layer.side
        if there is not None:
            new = NestedPath(new, there) if path.STANDS == "around" else NestedPath(there, new)
        layer.side = new.train(layer.training)
        layer.renew()
    return model


def has(side: SidePath, kind: type[Path]) -> bool:
    """Whether a side path is of a kind, or one nested in it."""
    return any(isinstance(one, SidePath) and isinstance(one.config, kind) for one in side.modules())


def sides(model: nn.Module) -> dict[str, SidePath]:
    """The side paths of a model, by the layer's dotted name."""
    return {name: layer.side for name, layer in layers(model).items() if layer.side is not None}


def remove(model: nn.Module) -> nn.Module:
    """Take all side paths away, in place, and what they learned with them; returns the model.

    What a kind took out of a layer (``Sparse``) goes back.
    """
    for layer in layers(model).values():
        if layer.side is not None:
            layer.side.take_back(layer)
            layer.side = None
            layer.renew()
    return model
