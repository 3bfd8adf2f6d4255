"""How many numbers go into and come out of each layer of a network for a sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitline.nn.layers import LAYERS

LINEAR: tuple[type[nn.Module], ...] = tuple(LAYERS)  # and so the layers on a macro, which are their torch classes


@torch.no_grad()
def count_outputs(net: nn.Module, x: Tensor) -> dict[nn.Module, tuple[int, torch.Size, int]]:
    """(outputs of a sample, shape of the weight, inputs of a sample) of each linear layer and convolution that ``x``,
    (B, …), reaches, in that order; a layer that is called several times has those of all calls. Runs ``net`` as it
    is."""
    found: dict[nn.Module, tuple[int, torch.Size, int]] = {}

    def seen(module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        made, _, taken = found.get(module, (0, weight.shape, 0))
        found[module] = (made + y.numel() // len(x), weight.shape, taken + inputs[0].numel() // len(x))

    hooks = [module.register_forward_hook(seen) for module in net.modules() if isinstance(module, LINEAR)]
    try:
        net(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found
