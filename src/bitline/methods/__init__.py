"""Ways to train a network for its macro. A method is a row of the comparison."""

from typing import Annotated

from pydantic import Field

from bitline.methods.distil import Distillation
from bitline.methods.dnat import DNat
from bitline.methods.gaussian import Gaussian
from bitline.methods.machine import ErrorAware, OnFreshChips, OnMacro, Qat, training_chip
from bitline.methods.plain import Plain
from bitline.methods.protocol import Batches, Criterion, Method, Progress

AnyMethod = Annotated[Plain | Qat | ErrorAware | Gaussian | DNat, Field(discriminator="kind")]

__all__ = [
    "AnyMethod",
    "Batches",
    "Criterion",
    "DNat",
    "Distillation",
    "ErrorAware",
    "Gaussian",
    "Method",
    "OnFreshChips",
    "OnMacro",
    "Plain",
    "Progress",
    "Qat",
    "training_chip",
]
