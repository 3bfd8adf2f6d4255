"""Wide residual networks: BN and ReLU come before each convolution, and the shortcut carries no BN."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor, nn

from .config import Network


class PreActivationBlock(nn.Module):
    """conv(relu(bn(conv(relu(bn(x)))))) + shortcut: f32 [B, C, H, W] to [B, N, H/stride, W/stride].

    Where the shape changes the shortcut is a 1×1 convolution of relu(bn1(x)), otherwise x itself.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N H2 W2"]:
        active = torch.relu(self.bn1(x))
        past = x if self.shortcut is None else self.shortcut(active)
        y: Tensor = self.conv2(torch.relu(self.bn2(self.conv1(active))))
        return y + past


class PreActivationNet(nn.Module):
    """Stem of 16 channels, three stages of widths (16, 32, 64)·widen, BN, ReLU, mean, linear."""

    def __init__(self, blocks: int, widen: int, in_channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        stages: list[nn.Module] = []
        inputs = 16
        for stage in range(3):
            outputs = (16 << stage) * widen
            row = []
            for block in range(blocks):
                row.append(PreActivationBlock(inputs, outputs, 2 if stage > 0 and block == 0 else 1))
                inputs = outputs
            stages.append(nn.Sequential(*row))
        self.layers = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N"]:
        y = torch.relu(self.bn(self.layers(self.conv1(x))))
        scores: Tensor = self.fc(y.mean((2, 3)))
        return scores


class WideResNet(Network):
    """WRN-depth-widen without dropout; depth is 6n + 4 for n blocks a stage.

    Source: S. Zagoruyko and N. Komodakis, "Wide residual networks", BMVC 2016, table 1.
    """

    kind: Literal["wide_resnet"] = "wide_resnet"
    depth: int = 16
    widen: int = Field(default=4, ge=1)
    classes: int = Field(default=10, ge=2)
    in_channels: int = Field(default=3, ge=1)

    @field_validator("depth")
    @classmethod
    def _whole_blocks(cls, depth: int) -> int:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth {depth} of a wide ResNet is not 6n + 4: take 10, 16, 22, 28, 40 …")
        return depth

    def module(self) -> PreActivationNet:
        return PreActivationNet((self.depth - 4) // 6, self.widen, self.in_channels, self.classes)
