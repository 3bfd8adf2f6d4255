"""Gaussian noise of matched size in place of the macro's own errors: the usual remedy, as a baseline."""

from __future__ import annotations

from itertools import islice
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bitline.macro import Macro, Probe, ideal
from bitline.macro.kinds import TableColumn
from bitline.methods.machine import OnMacro, training_chip
from bitline.methods.protocol import Batches
from bitline.nn import kept, layers, on_chip, silicon, use


class _Error(Probe):
    """Sum, sum of squares and number of code - ideal code over conversions."""

    wants_codes = True

    def __init__(self) -> None:
        self.total = self.squares = 0.0
        self.count = 0

    def errors(self, error: Tensor) -> None:
        error = error.double()
        self.total += float(error.sum())
        self.squares += float(error.square().sum())
        self.count += error.numel()

    def size(self, match: str) -> float:
        mean = self.total / max(1, self.count)
        power = self.squares / max(1, self.count)
        return max(0.0, power - mean**2 if match == "variance" else power) ** 0.5


class Gaussian(OnMacro):
    """Zero-mean Gaussian noise on each conversion, after the ideal converter, unclipped, fresh at each read.

    Its size is measured layer by layer, over ``chips`` dies of the training lot: the standard deviation of
    (code - ideal code) · step, or its root mean square with ``match: rms``, bias included.
    """

    kind: Literal["gaussian"] = "gaussian"
    match: Literal["variance", "rms"] = "variance"
    chips: int = Field(default=4, ge=1)

    @property
    def title(self) -> str:
        return self.titled("gaussian-trained" + (" (rms)" if self.match == "rms" else ""))

    def refuses(self, macro: Macro) -> str | None:
        if macro.converter is None and not isinstance(macro.column, TableColumn):
            return "gaussian sizes its noise by a converter, and the macro has none: use error_aware"
        return super().refuses(macro)

    def begin(self, model: nn.Module, batches: Batches) -> None:
        super().begin(model, batches)
        use(model, ideal)

    def measure(self, model: nn.Module, batches: Batches) -> None:
        super().measure(model, batches)
        sizes = self.measured(model, batches)
        use(model, ideal)
        for name, layer in layers(model).items():
            layer.added_noise = sizes.get(name)

    def end(self, model: nn.Module) -> None:
        for layer in layers(model).values():
            layer.added_noise = None
        super().end(model)

    @torch.no_grad()
    def measured(self, model: nn.Module, batches: Batches) -> dict[str, float]:
        """Error of a conversion (counts) by layer; layers without a converter are absent."""
        use(model)
        shared, found = silicon(model), layers(model)
        probes = {name: _Error() for name, layer in found.items() if layer.codes}
        for name, probe in probes.items():
            found[name].probe = probe
        device = next(model.parameters()).device
        try:
            with kept(model):
                model.eval()
                for number, (x, _, index) in enumerate(islice(batches(0), self.chips)):
                    on_chip(model, training_chip(self.seed, number, "before"))
                    shared.begin(index, number)
                    model(x.to(device))
        finally:
            for layer in found.values():
                layer.probe = None
        return {name: probe.size(self.match) * found[name].counts_per_code for name, probe in probes.items()}
