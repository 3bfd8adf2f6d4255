"""A model left as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from bitline.macro import Macro
from bitline.nn.model import layers, on_chip, parts, silicon, use


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Modes, die and announced reads of a model as they were, afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    shared = silicon(model) if layers(model) else None
    before = replace(shared) if shared is not None else None
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        if shared is not None and before is not None:
            if (shared.chip, shared.write) != (before.chip, before.write):
                on_chip(model, before.chip, before.write)
            shared.seed = before.seed
            shared.begin(before.samples, before.read)


@contextmanager
def computing(model: nn.Module, change: Callable[[Macro], Macro]) -> Iterator[None]:
    """The model with a variant of the macros it was designed for, and afterwards with those it had."""
    before = [(part, part.macro, part.cause) for part in parts(model).values()]
    try:
        use(model, change)
        yield
    finally:
        for part, macro, cause in before:
            part.use(macro, cause)
