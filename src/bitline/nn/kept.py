"""A model left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from bitline.nn.model import layers, on_chip, silicon


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
