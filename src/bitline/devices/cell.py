"""The memory cell: everything that goes wrong with it, in the order it happens."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator
from torch import Tensor

from bitline.devices.drift import AnyDrift
from bitline.devices.errors import GaussianCell, LevelTable, LogNormalCell, StuckAt
from bitline.devices.measured import MeasuredCell
from bitline.devices.model import Draw, Model
from bitline.units import Siemens, si

AnyCellError = Annotated[
    GaussianCell | LogNormalCell | LevelTable | MeasuredCell | StuckAt, Field(discriminator="kind")
]


class Cell(Model):
    """A memory cell: conductance range and everything that goes wrong with it, in the order it happens."""

    g_min: Siemens | None = Field(default=None, ge=0, description="conductance of level 0; leaks into every read")
    g_max: Siemens | None = Field(default=None, gt=0, description="conductance of the highest level")
    errors: tuple[AnyCellError, ...] = Field(default=(), description="frozen errors, applied in this order")
    read_sigma: float | None = Field(
        default=None, gt=0, le=1, description="fresh noise of each driven cell at each read, relative to the range"
    )
    drift: AnyDrift | None = None

    @model_validator(mode="after")
    def _range(self) -> Cell:
        if (self.g_min is None) != (self.g_max is None):
            raise ValueError("cell: give both g_min and g_max, or neither")
        if self.g_min is not None and self.g_max is not None and self.g_min >= self.g_max:
            raise ValueError(f"cell: g_min = {si(self.g_min, 'S')} must be below g_max = {si(self.g_max, 'S')}")
        for error in self.errors:
            if error.span is not None and self.g_min is not None and self.g_max is not None:
                low, high = error.span
                if abs(low - self.g_min) + abs(high - self.g_max) > 1e-9 * high:
                    raise ValueError(
                        f"cell: g_min = {si(self.g_min, 'S')}, g_max = {si(self.g_max, 'S')}, but its measured cells "
                        f"aim at {si(low, 'S')} … {si(high, 'S')}: give both the same"
                    )
        if self.drift is not None and self.measured:
            raise ValueError("cell: measured cells hold what they drifted to: remove cell.drift")
        return self

    @property
    def measured(self) -> bool:
        """Whether cells hold what was measured, at the ages measured."""
        return any(error.span is not None for error in self.errors)

    def aged(self, seconds: float, kelvin: float) -> Cell:
        """The cell whose measured errors are those ``seconds`` after programming at ``kelvin``."""
        return self.model_copy(update={"errors": tuple(error.aged(seconds, kelvin) for error in self.errors)})

    def range_from_zero(self) -> dict[str, float | None]:
        """Conductances of the same range that start at 0 S, as an update."""
        if self.g_min is None or self.g_max is None:
            return {"g_min": None, "g_max": None}
        return {"g_min": 0.0, "g_max": self.g_max - self.g_min}

    def pedestal(self, level_high: int) -> float:
        """What level 0 conducts, in levels."""
        if self.g_min is None or self.g_max is None:
            return 0.0
        return level_high * self.g_min / (self.g_max - self.g_min)

    def typical(self) -> Cell:
        """The cell without spread between cells; what all cells have in common stays."""
        kept = tuple(typical for error in self.errors if (typical := error.typical()) is not None)
        return self.model_copy(update={"errors": kept})

    def centred(self) -> Cell:
        """The cell with its spread, but without what all cells have in common."""
        return self.model_copy(update={"errors": tuple(error.centred() for error in self.errors)})

    def held(self, levels: Tensor, draws: list[Draw], level_high: int) -> Tensor:
        """Levels held after programming, pedestal included; ``draws`` pairs with ``errors``."""
        for error, draw in zip(self.errors, draws, strict=True):
            levels = error.apply(levels, draw, level_high)
        return levels + self.pedestal(level_high)
