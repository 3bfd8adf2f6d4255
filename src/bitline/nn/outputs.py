"""How many outputs each layer of a network has for a sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitline.nn.layers import LAYERS

LINEAR: tuple[type[nn.Module], ...] = tuple(LAYERS)  # and so the layers on a macro, which are their torch classes


@torch.no_grad()
def count_outputs(net: nn.Module, x: Tensor) -> dict[nn.Module, tuple[int, torch.Size]]:
    """(outputs of a sample, shape of the weight) of each linear layer and convolution that ``x``, (B, …), reaches, in
    that order; a layer that is called several times has the outputs of all calls. Runs ``net`` as it is."""
    found: dict[nn.Module, tuple[int, torch.Size]] = {}

    def seen(module: nn.Module, _: object, y: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        before = found[module][0] if module in found else 0
        found[module] = (before + y.numel() // len(x), weight.shape)

    hooks = [module.register_forward_hook(seen) for module in net.modules() if isinstance(module, LINEAR)]
    try:
        net(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found
