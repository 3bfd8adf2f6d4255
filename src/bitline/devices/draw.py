"""What every device model draws its errors from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Draw(Protocol):
    """The standard draws of one effect, one value for each cell or weight (float64).

    Each ``part`` is one random number: drawn again it is equal, and ``normal`` is ``uniform`` of it through the inverse
    CDF. An effect that is random in two ways draws two parts: ``draw.uniform("state")``, ``draw.normal("amplitude")``.
    Parts are independent of one another.
    """

    @property
    def address(self) -> Tensor:
        """Physical address of each cell, (array · rows + row) · columns + column, int64."""

    def normal(self, part: str = "") -> Tensor: ...

    def uniform(self, part: str = "") -> Tensor: ...

    def some(self, which: Tensor) -> Draw:
        """The draws of the cells at ``which``, a mask or an index over the addresses."""
