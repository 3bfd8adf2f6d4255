"""Ways to train a network for its macro. A method is a row of the comparison."""

from typing import Annotated

from pydantic import Field

from bitline.methods.compensate import Compensate
from bitline.methods.distil import Distillation
from bitline.methods.dnat import DNat
from bitline.methods.gaussian import Gaussian
from bitline.methods.hasgd import HaSgd
from bitline.methods.kinds import OfWeights
from bitline.methods.machine import ErrorAware, OnFreshChips, OnMacro, Qat, Ranges, training_chip
from bitline.methods.parts import Clip, CosineRamp, Injection, Ramp, Sam, Spread
from bitline.methods.plain import Plain
from bitline.methods.protocol import Batches, Criterion, Method, Progress
from bitline.methods.suppression import Suppression

AnyMethod = Annotated[OfWeights | Compensate, Field(discriminator="kind")]

__all__ = [
    "AnyMethod",
    "Batches",
    "Clip",
    "Compensate",
    "CosineRamp",
    "Criterion",
    "DNat",
    "Distillation",
    "ErrorAware",
    "Gaussian",
    "HaSgd",
    "Injection",
    "Method",
    "OnFreshChips",
    "OnMacro",
    "Plain",
    "Progress",
    "Qat",
    "Ramp",
    "Ranges",
    "Sam",
    "Spread",
    "Suppression",
    "training_chip",
]
