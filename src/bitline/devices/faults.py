"""Faults: cells that no programming moves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from torch import Tensor

from bitline.devices.draw import Draw
from bitline.devices.errors import CellError
from bitline.devices.kept import KeptError


class StuckAt(KeptError):
    """Cells stuck at the lowest or highest level: a random fault map of the die."""

    permanent: ClassVar[bool] = True
    kind: Literal["stuck"] = "stuck"
    low: float = Field(default=0.0, ge=0, le=1, description="share of cells stuck at level 0")
    high: float = Field(default=0.0, ge=0, le=1, description="share of cells stuck at the highest level")
    clock: Literal["fabrication"] = "fabrication"

    @model_validator(mode="after")
    def _shares(self) -> StuckAt:
        if self.low + self.high > 1:
            raise ValueError(f"stuck cells: low + high = {self.low + self.high:g} exceeds 1")
        return self

    def drawn(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        u = draw.uniform()
        stuck = torch.where(u < self.low, torch.zeros_like(levels), levels)
        return torch.where(u >= 1 - self.high, torch.full_like(levels, level_high), stuck)

    def law(self, levels: Tensor, level_high: int) -> tuple[Tensor, Tensor]:
        free = 1 - self.low - self.high
        mean = free * levels + self.high * level_high
        square = free * levels**2 + self.high * level_high**2
        return mean, (square - mean**2).clamp(min=0).sqrt()


def _addresses(value: Any) -> Any:
    """Addresses from a list, or from a file: .npy, or text with one in a line."""
    if not isinstance(value, str):
        return value
    path = Path(value)
    try:
        found = (
            np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, dtype=np.int64, ndmin=1)
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"fault map {value}: {error}; expected a .npy of integers or text, an address a line"
        ) from None
    if found.dtype.kind not in "iu":
        raise ValueError(f"fault map {value} holds {found.dtype}, not integers: addresses are expected")
    return tuple(found.reshape(-1).tolist())


Addresses = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=1 << 62)], ...],
    BeforeValidator(_addresses),
    WithJsonSchema(
        {
            "anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "string"}],
            "description": "addresses (array · rows + row) · columns + column, or a .npy or text file of them",
        }
    ),
]


class StuckMap(CellError):
    """The fault map of one die: the cells at these physical addresses are stuck.

    An address is (array · rows + row) · columns + column. Where every layer has arrays of its own (``unbounded``), each
    layer's arrays count from 0 and have these faults; ``reload`` shares them. Every chip has the map. It is no spread
    around a mean: explanations take it out as a whole, with what differs from cell to cell.
    """

    permanent: ClassVar[bool] = True
    kind: Literal["stuck_map"] = "stuck_map"
    low: Addresses = Field(default=(), description="cells stuck at level 0")
    high: Addresses = Field(default=(), description="cells stuck at the highest level")
    clock: Literal["fabrication"] = "fabrication"

    @model_validator(mode="after")
    def _once(self) -> StuckMap:
        both = set(self.low) & set(self.high)
        if both:
            raise ValueError(f"fault map: cell {min(both)} is stuck both low and high; accepted is one of them")
        return self

    def apply(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        for addresses, level in ((self.low, 0), (self.high, level_high)):
            if addresses:
                stuck = torch.isin(draw.address, torch.tensor(addresses, device=levels.device))
                levels = torch.where(stuck, torch.full_like(levels, level), levels)
        return levels

    def moments(self, levels: Tensor, level_high: int) -> tuple[Tensor, Tensor]:
        """Those of a cell that the map does not name."""
        return levels, torch.zeros_like(levels)

    def centred(self) -> StuckMap:
        return self

    def typical(self) -> None:
        return None
