"""A small vision transformer for 32×32 images."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from .config import Network


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): f32 [B, L tokens, D] to the same shape."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        change: Tensor = self.fc2(self.act(self.fc1(self.norm2(x))))
        return x + change


class VisionTransformer(nn.Module):
    """Patches by a strided convolution, learned positions, encoder blocks, norm, mean over tokens, linear."""

    def __init__(self, config: Vit) -> None:
        super().__init__()
        tokens = (config.size // config.patch) ** 2
        self.patches = nn.Conv2d(config.in_channels, config.width, config.patch, config.patch)
        self.position = nn.Parameter(torch.empty(1, tokens, config.width))
        nn.init.trunc_normal_(self.position, std=0.02)
        blocks = [EncoderBlock(config.width, config.heads, config.hidden) for _ in range(config.depth)]
        self.layers = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(config.width)
        self.fc = nn.Linear(config.width, config.classes)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N"]:
        y = self.patches(x).flatten(2).transpose(1, 2) + self.position
        scores: Tensor = self.fc(self.norm(self.layers(y)).mean(1))
        return scores


class Vit(Network):
    """A pre-norm vision transformer with mean pooling: 1.8 M parameters and 64 tokens as it stands.

    Source: A. Dosovitskiy et al., "An image is worth 16×16 words", ICLR 2021, section 3.1; mean pooling in the place
    of the class token after L. Beyer et al., "Better plain ViT baselines for ImageNet-1k", 2022.
    """

    kind: Literal["vit"] = "vit"
    size: int = Field(default=32, ge=1)
    patch: int = Field(default=4, ge=1)
    width: int = Field(default=192, ge=1)
    depth: int = Field(default=6, ge=1)
    heads: int = Field(default=3, ge=1)
    hidden: int = Field(default=384, ge=1)
    classes: int = Field(default=10, ge=2)
    in_channels: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> Vit:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} is not a multiple of patch {self.patch}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    def module(self) -> VisionTransformer:
        return VisionTransformer(self)
