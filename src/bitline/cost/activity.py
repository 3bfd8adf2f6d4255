"""What a network's reads could skip: rows that are driven with nothing, and reads in which all are."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from bitline.configuration import Frozen
from bitline.macro import Layout
from bitline.nn import CimLayer, kept, layers


class Activity(Frozen):
    """Shares of a layer's work that are done, 0 to 1, where zeros are skipped: the rest needs neither drive nor
    conversion."""

    reads: float = Field(default=1.0, ge=0, le=1, description="passes of row groups that have a digit other than 0")
    drives: float = Field(default=1.0, ge=0, le=1, description="digits other than 0")


@torch.no_grad()
def measure_activity(model: nn.Module, x: Tensor) -> dict[str, Activity]:
    """The activity of each layer of a calibrated model on the samples ``x``, by name.

    Digits are those that the word lines see, padding included. Raises ValueError for a macro without digits.
    """
    seen: dict[str, list[Tensor]] = {}
    with kept(model):
        model.eval()

        def hook(layer: CimLayer, inputs: tuple[Tensor, ...]) -> None:
            seen.setdefault(layer.site.name, []).append(_digits(layer, layer.driven(inputs[0])))

        hooks = [layer.register_forward_pre_hook(hook) for layer in layers(model).values()]
        try:
            model(x)
        finally:
            for one in hooks:
                one.remove()
    found = {}
    for name, sums in seen.items():
        reads, busy, digits, driven = torch.stack(sums).sum(0).tolist()
        found[name] = Activity(reads=busy / reads, drives=driven / digits)
    return found


def _digits(layer: CimLayer, x: Tensor) -> Tensor:
    """(reads, those with a digit other than 0, digits, those other than 0) of a layer's inputs."""
    scheme = layer.design.inputs
    if scheme is None or layer.input_quantizer is None:
        raise ValueError(f"{layer.site.name}: macro {layer.design.name} has continuous inputs: there are no digits")
    codes, _, zero = layer.input_quantizer(x)
    padded, _ = layer.padded(codes, zero if layer.input_quantizer.asymmetric else None)
    layout: Layout = layer.design.layout(*layer.matrix_shape)
    total = torch.zeros(4, dtype=torch.float64)
    for plane in scheme.digits(padded):
        rows = layer.geometry.rows(plane) != 0  # B S G K
        for first, count, _, _ in layout.spans:
            group = rows[..., first : first + count]
            busy = group.any(-1)
            total += torch.tensor([busy.numel(), busy.sum(), group.numel(), group.sum()], dtype=torch.float64)
    return total
