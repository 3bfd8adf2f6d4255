"""Which weights of a network are verified as they are written."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bitline.nn.model import layers


def choose_writes(priority: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The ``share`` of all weights, 0 … 1, with the highest priority, of equal ones the first (bool, shapes as given).

    SWIM's priority (Yan et al., DAC 2022) is curvature times mean square error: ``gauss_newton`` times
    ``error_powers``. Raises ValueError for another share and where there are no weights.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share = {share:g}; accepted is 0 … 1")
    if not priority:
        raise ValueError("no weights to choose from: priority names no layer")
    every = torch.cat([value.detach().flatten() for value in priority.values()])
    chosen = torch.zeros(len(every), dtype=torch.bool, device=every.device)
    chosen[every.argsort(descending=True, stable=True)[: round(share * len(every))]] = True
    pieces = chosen.split([value.numel() for value in priority.values()])
    return {name: piece.view(value.shape) for (name, value), piece in zip(priority.items(), pieces, strict=True)}


def verify_writes(model: nn.Module, priority: Mapping[str, Tensor] | None, share: float = 1.0) -> None:
    """Let the write–verify loop of the macro's cells correct the weights that ``choose_writes`` chooses; None: all.

    ``priority``: by layer, a number for each weight, in its shape; layers that are not named have none, but their
    weights count in ``share``. Raises ValueError naming a layer that is not on the macro, or a shape that is not its
    weight's.
    """
    found = layers(model)
    masks: dict[str, Tensor | None] = dict.fromkeys(found)
    if priority is not None:
        for name, value in priority.items():
            if name not in found:
                raise ValueError(f"no layer {name!r} on the macro; there are: {', '.join(found) or 'none'}")
            if value.shape != found[name].weight.shape:
                raise ValueError(f"{name}: priority of shape {tuple(value.shape)}; its weight's is accepted")
        none = {name: torch.full_like(layer.weight, -torch.inf) for name, layer in found.items()}
        masks |= choose_writes({name: priority.get(name, none[name]).to(none[name]) for name in found}, share)
    for name, layer in found.items():
        layer.verified = masks[name]
        layer.renew()
