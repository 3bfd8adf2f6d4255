"""What side paths cost beside their network: numbers stored and digital multiplications, counted."""

from __future__ import annotations

import copy

import torch
from pydantic import Field
from torch import Tensor, nn

from bitline.compensate.attach import remove
from bitline.configuration import Frozen
from bitline.nn import count_outputs, digital, layers


class Overhead(Frozen):
    """Of one layer with a side path, or of all together, for one sample."""

    layer: str
    parameters: int = Field(description="of the layer: weights and biases")
    macs: int = Field(description="of the layer: multiplications with addition")
    side_parameters: int = Field(description="numbers the side path stores")
    side_macs: int = Field(description="digital multiplications with addition of the side path")
    side_inputs: int = Field(default=0, description="inputs fetched for the side path")

    @property
    def parameter_share(self) -> float:
        """Numbers of the side path relative to the layer's."""
        return self.side_parameters / self.parameters

    @property
    def mac_share(self) -> float:
        """Multiplications of the side path relative to the layer's: a few numbers on a large map are many."""
        return self.side_macs / self.macs


@torch.no_grad()
def overhead(model: nn.Module, x: Tensor) -> tuple[Overhead, ...]:
    """The cost of each side path, and last of all against the whole network (``total``); ``x``: some samples, (B, …).

    The network counts with all its parameters, quantizers' left out, and the products of all its linear layers and
    convolutions, on the macro or not. Sums and averages are not counted. The model stays as it is.
    """
    found = layers(model)
    plain = digital(remove(copy.deepcopy(model))).eval()
    names = {module: name for name, module in plain.named_modules()}
    counted = count_outputs(plain, x.to(next(model.parameters()).device))
    reached = {names[module]: (made // shape[0], taken) for module, (made, shape, taken) in counted.items()}
    macs = {names[module]: made * shape[1:].numel() for module, (made, shape, _) in counted.items()}
    rows = []
    for name, layer in found.items():
        if layer.side is not None:
            weights = layer.weight.numel() + (0 if layer.bias is None else layer.bias.numel())
            positions, taken = reached.get(name, (0, 0))
            side = layer.side.size, layer.side.macs(positions, taken), layer.side.fetched(positions, taken)
            rows.append(_cost(name, weights, macs.get(name, 0), *side))
    whole = sum(p.numel() for p in plain.parameters())
    totals = (sum(getattr(row, f"side_{one}") for row in rows) for one in ("parameters", "macs", "inputs"))
    return (*rows, _cost("total", whole, sum(macs.values()), *totals))


def _cost(layer: str, parameters: int, macs: int, stored: int, multiplied: int, fetched: int) -> Overhead:
    side = {"side_parameters": stored, "side_macs": multiplied, "side_inputs": fetched}
    return Overhead(layer=layer, parameters=parameters, macs=macs, **side)
