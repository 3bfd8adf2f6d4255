"""Networks to start from, each a frozen config whose `build()` gives the module, and the reader of their weights."""

from typing import Annotated

from pydantic import Field

from .config import Network
from .resnet import ResNet
from .small import Digits, LeNet5
from .tokens import TokenClassifier
from .vgg import Vgg
from .vit import Vit
from .weights import load_weights, weight_file
from .wide_resnet import WideResNet

AnyNetwork = Annotated[ResNet | Vgg | WideResNet | LeNet5 | Vit | Digits, Field(discriminator="kind")]
"""The tagged union, for a config that holds a network."""

__all__ = [
    "AnyNetwork",
    "Digits",
    "LeNet5",
    "Network",
    "ResNet",
    "TokenClassifier",
    "Vgg",
    "Vit",
    "WideResNet",
    "load_weights",
    "weight_file",
]
