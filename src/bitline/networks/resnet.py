"""Residual networks for small images, with a 3×3 stem of stride 1 and no max pooling after it."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from .config import Network

STAGES: dict[int, tuple[int, tuple[int, ...]]] = {  # depth: width of the first stage, blocks in each stage
    20: (16, (3, 3, 3)),
    32: (16, (5, 5, 5)),
    44: (16, (7, 7, 7)),
    56: (16, (9, 9, 9)),
    18: (64, (2, 2, 2, 2)),
    34: (64, (3, 4, 6, 3)),
}


class BasicBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)): f32 [B, C, H, W] to [B, N, H/stride, W/stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N H2 W2"]:
        y = torch.relu(self.bn1(self.conv1(x)))
        total: Tensor = self.bn2(self.conv2(y)) + self.shortcut(x)
        return torch.relu(total)


class ResidualNet(nn.Module):
    """Stem, stages of basic blocks (each after the first halves the image and doubles the width), mean, linear."""

    def __init__(self, width: int, blocks: tuple[int, ...], in_channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages: list[nn.Module] = []
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width << stage
            row = []
            for block in range(count):
                row.append(BasicBlock(inputs, outputs, 2 if stage > 0 and block == 0 else 1))
                inputs = outputs
            stages.append(nn.Sequential(*row))
        self.layers = nn.Sequential(*stages)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N"]:
        y = self.layers(torch.relu(self.bn1(self.conv1(x))))
        scores: Tensor = self.fc(y.mean((2, 3)))
        return scores


class ResNet(Network):
    """A residual network.

    Depths 20 to 56 are the three-stage CIFAR networks (widths 16, 32, 64) and 18 and 34 the four-stage ones (widths
    64 to 512) with the stem made for small images. Shortcuts that change shape are a 1×1 convolution and BN (option B).
    Source: K. He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2 and table 1.
    """

    kind: Literal["resnet"] = "resnet"
    depth: Literal[18, 20, 32, 34, 44, 56] = 20
    classes: int = Field(default=10, ge=2)
    in_channels: int = Field(default=3, ge=1)

    def module(self) -> ResidualNet:
        width, blocks = STAGES[self.depth]
        return ResidualNet(width, blocks, self.in_channels, self.classes)
