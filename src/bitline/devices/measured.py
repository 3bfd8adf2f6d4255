"""Cells that hold what was measured: drawn from the conductances of real cells of the same level and age."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator
from torch import Tensor

from bitline.devices.conductances import NORMAL_SCORES, REFERENCE, Conductances, moments, names, shipped
from bitline.devices.draw import Draw
from bitline.devices.errors import CellError
from bitline.units import Kelvin, Seconds, Siemens, si


def _named(value: Any) -> Any:
    """Conductances from the name of shipped ones, ``name@digest`` of a written configuration, or a file."""
    if not isinstance(value, str):
        return value
    if value.endswith(".parquet"):
        return Conductances.load(value)
    name, _, digest = value.partition("@")
    found = shipped(name)
    if digest and digest != found.digest:
        raise ValueError(
            f"{value} is another version of the measured cells {name} than the one installed ({found.digest}); "
            f"give {name!r} alone to use that"
        )
    return found


def _written(table: Conductances) -> Any:
    """Short where the library has them, else with every number."""
    if table.name in names() and shipped(table.name) == table:
        return f"{table.name}@{table.digest}"
    return table.model_dump(mode="json")


Table = Annotated[
    Conductances,
    BeforeValidator(_named),
    PlainSerializer(_written),
    WithJsonSchema({"description": "measured cells: a shipped name (rram-a, rram-b), a .parquet file, or the numbers"}),
]


class MeasuredCell(CellError):
    """A cell holds a conductance drawn from those measured at its level, age and temperature.

    Level 0 aims at ``g_min``, the highest level at ``g_max``, the levels between them at even steps; each draws from
    the quantiles of the measured levels around its aim, interpolated in conductance, so that any number of levels
    works. A cell keeps its rank among the cells of its level at every age: the distribution at each age is the
    measured one, but a cell's own path is smoother than a real one's. ``seconds`` and ``kelvin`` say when and where
    the cells are read; ``bitline.macro.age`` moves them. Outside what was measured: ValueError.
    """

    kind: Literal["measured"] = "measured"
    table: Table
    g_min: Siemens | None = Field(default=None, ge=0, description="aim of level 0; absent: of the lowest measured")
    g_max: Siemens | None = Field(
        default=None, gt=0, description="aim of the top level; absent: of the highest measured"
    )
    seconds: Seconds = Field(default=0.0, ge=0, description="age of the cells when they are read")
    kelvin: Kelvin = Field(default=REFERENCE, gt=0, description="temperature that they are kept at")

    @model_validator(mode="after")
    def _measured(self) -> MeasuredCell:
        low, high = self.span
        if not self.table.low - 1e-12 <= low < high <= self.table.high + 1e-12:
            raise ValueError(
                f"measured cells: g_min = {si(low, 'S')} … g_max = {si(high, 'S')}; the levels of {self.table.name} "
                f"aim at {si(self.table.low, 'S')} … {si(self.table.high, 'S')}"
            )
        self.table.at(self.seconds, self.kelvin)
        return self

    @property
    def span(self) -> tuple[float, float]:
        """(aim of level 0, aim of the highest level), S."""
        low = self.table.low if self.g_min is None else self.g_min
        return low, self.table.high if self.g_max is None else self.g_max

    def aged(self, seconds: float, kelvin: float) -> MeasuredCell:
        """The cell at another age and temperature; raises ValueError outside what was measured."""
        self.table.at(seconds, kelvin)
        return self.model_copy(update={"seconds": seconds, "kelvin": kelvin})

    def young(self) -> MeasuredCell:
        """The cell as programmed; raises ValueError where that was not measured."""
        return self.aged(0.0, REFERENCE)

    def quantiles(self, levels: np.ndarray, level_high: int) -> np.ndarray:
        """Quantiles (S) of cells that should hold ``levels`` of 0 … ``level_high``: (levels, quantiles)."""
        low, high = self.span
        aim = low + (high - low) * levels / level_high
        place = (aim - self.table.low) / self.table.step
        left = np.clip(np.floor(place), 0, self.table.levels - 2).astype(np.int64)
        share = (place - left)[:, None]
        measured = self.table.at(self.seconds, self.kelvin)
        return np.asarray(measured[left] * (1 - share) + measured[left + 1] * share)

    def moments(self, levels: Tensor, level_high: int) -> tuple[Tensor, Tensor]:
        low, high = self.span
        wanted = levels.detach().double().cpu().numpy()
        found = moments(self.quantiles(wanted.reshape(-1), level_high))
        mean, sigma = (torch.from_numpy(each.reshape(wanted.shape)).to(levels) for each in found)
        return (mean - low) * (level_high / (high - low)), sigma * (level_high / (high - low))

    def apply(self, levels: Tensor, draw: Draw, level_high: int) -> Tensor:
        low, high = self.span
        outside = (levels < 0) | (levels > level_high)
        if bool(outside.any()):
            raise ValueError(
                f"measured cells hold the levels 0 … {level_high}, not {float(levels[outside][0]):g}: put other errors "
                "after them"
            )
        wanted, row = torch.unique(levels, return_inverse=True)
        if len(wanted) > 4096:
            raise ValueError(
                f"measured cells start from whole levels, not from {len(wanted)} different values: "
                "let them be the first of the errors"
            )
        table = torch.from_numpy(self.quantiles(wanted.double().cpu().numpy(), level_high)).to(levels.device)
        place = (draw.normal().clamp(NORMAL_SCORES[0], NORMAL_SCORES[-1]) - NORMAL_SCORES[0]) / (1 / 4)
        left = place.floor().clamp(max=len(NORMAL_SCORES) - 2).long()
        index = row * len(NORMAL_SCORES) + left
        start = torch.take(table, index)
        siemens = start + (place - left) * (torch.take(table, index + 1) - start)
        return ((siemens - low) * (level_high / (high - low))).to(levels.dtype)

    def centred(self) -> MeasuredCell:
        return self.model_copy(update={"table": self.table.centred()})

    def typical(self) -> MeasuredCell:
        return self.model_copy(update={"table": self.table.typical()})
