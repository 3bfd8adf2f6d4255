"""What every network's config has in common: it is a value, and `build()` turns it into a module."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from pydantic import model_validator
from torch import nn

from bitline.configuration import Frozen

from .weights import load_weights


class Network(Frozen, ABC):
    """A network as a frozen value. Every concrete network adds a literal tag `kind` and its own sizes."""

    weights: str | None = None
    """A safetensors file, or the bare name of one in the folder that BITLINE_NETWORKS names. None: random weights."""
    fresh: tuple[str, ...] = ()
    """Name patterns of what starts anew instead, such as the last layer for other classes: `1.4.*`. Then train it."""

    @model_validator(mode="after")
    def _from_somewhere(self) -> Network:
        if self.fresh and self.weights is None:
            raise ValueError(
                f"fresh: {', '.join(self.fresh)}: without weights all starts anew; give weights, or leave it out"
            )
        return self

    @abstractmethod
    def module(self) -> nn.Module:
        """The module, f32 [B, C, H, W] to [B, classes], with fresh weights drawn from torch's global generator."""

    def build(self, seed: int = 0) -> nn.Module:
        """The module, in training mode, with `weights` loaded where given.

        Fresh weights depend on `seed` alone; torch's global generator is left as it was found.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = self.module()
        if self.weights is not None:
            load_weights(net, self.weights, self.fresh)
        return net
