"""VGG networks for 32×32 images: 3×3 convolutions with BN, max pooling after each group, global mean, two linears."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from .config import Network

GROUPS: dict[int, tuple[tuple[int, ...], ...]] = {  # depth: widths of the convolutions between max poolings
    8: ((64, 128), (256, 256), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}


class Vgg(Network):
    """VGG8 (6 convolutions and 2 linears) or VGG16 (13 convolutions; its three linears of 4096 made two of 512).

    The first linear has 512 outputs; a max pooling of 2×2 follows each group.
    Source: K. Simonyan and A. Zisserman, "Very deep convolutional networks for large-scale image recognition",
    ICLR 2015, table 1 column D, with BN after each convolution (S. Ioffe and C. Szegedy, ICML 2015).
    """

    kind: Literal["vgg"] = "vgg"
    depth: Literal[8, 16] = 8
    classes: int = Field(default=10, ge=2)
    in_channels: int = Field(default=3, ge=1)

    def module(self) -> nn.Sequential:
        features: list[nn.Module] = []
        inputs = self.in_channels
        for group in GROUPS[self.depth]:
            for width in group:
                features += [nn.Conv2d(inputs, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            features.append(nn.MaxPool2d(2))
        head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 512), nn.ReLU(), nn.Linear(512, self.classes)
        )
        return nn.Sequential(nn.Sequential(*features), head)
