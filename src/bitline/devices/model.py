"""What every device model is made of."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict
from torch import Tensor


@runtime_checkable
class Draw(Protocol):
    """The standard draws of one effect, one value for each cell or weight (float64)."""

    def normal(self) -> Tensor: ...

    def uniform(self) -> Tensor: ...


class Model(BaseModel):
    """A frozen part of a macro's description."""

    model_config = ConfigDict(frozen=True, extra="forbid")
