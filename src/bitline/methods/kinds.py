"""The methods that train a network's own weights on a macro: a new one is entered here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bitline.methods.dnat import DNat
from bitline.methods.gaussian import Gaussian
from bitline.methods.hasgd import HaSgd
from bitline.methods.machine import ErrorAware, Qat

OfWeights = Qat | ErrorAware | Gaussian | DNat | HaSgd
AnyOfWeights = Annotated[OfWeights, Field(discriminator="kind")]
