"""Reads of a 1T1R array with gated rows, as samples: what a column of it is fitted to."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Integer
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from bitline.circuits.crossbar.laws import Gated
from bitline.circuits.crossbar.newton import operating_point
from bitline.circuits.crossbar.wires import Wires
from bitline.samples import Samples
from bitline.units import Siemens, Volts

AT_ONCE = 1 << 18  # cells solved at a time


class GatedArray(BaseModel):
    """1T1R cells whose word lines are gates: an input of 1 opens the row, 0 closes it. ``Gated`` has the equations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wires: Wires = Field(description="word_line and driver are those of the line that carries the read voltage")
    read: Volts = Field(gt=0, description="read voltage of every row, open or not")
    gate: Volts = Field(description="gate voltage of an open row; a closed one has 0 V")
    threshold: Volts = Field(gt=0, description="threshold voltage of the transistors")
    beta: float = Field(gt=0, description="A/V²: mobility times gate capacitance times width over length")
    g_min: Siemens = Field(ge=0, description="conductance of level 0")
    g_max: Siemens = Field(gt=0, description="conductance of the highest level")
    level_high: int = Field(default=1, ge=1, description="highest level")

    @model_validator(mode="after")
    def _in_order(self) -> GatedArray:
        if self.g_min >= self.g_max:
            raise ValueError(f"g_min = {self.g_min:g} S must be below g_max = {self.g_max:g} S")
        if self.gate <= self.threshold:
            raise ValueError(f"gate = {self.gate:g} V opens no row: it must be above threshold = {self.threshold:g} V")
        return self

    @property
    def count(self) -> float:
        """Current of one level in one open row with ideal wires and transistors, A."""
        return self.read * (self.g_max - self.g_min) / self.level_high

    def currents(
        self, levels: Float[Tensor, "tiles R C"], inputs: Float[Tensor, "tiles n R"]
    ) -> Float[Tensor, "tiles n C"]:
        """Sensed currents (A) for stored levels and n input vectors of 0 and 1 a tile, solved to 1e-11 each."""
        tiles, n, rows = inputs.shape
        columns = levels.shape[2]
        g = self.g_min + (self.g_max - self.g_min) * levels.double() / self.level_high
        each = g[:, None].expand(-1, n, -1, -1).reshape(-1, rows, columns)
        gates = self.gate * inputs.double().reshape(-1, rows)
        sources = torch.full_like(gates, self.read)
        few = max(1, AT_ONCE // (rows * columns))
        found = [
            operating_point(Gated(g_part, gate, self.threshold, self.beta), self.wires, source, columns).current
            for g_part, gate, source in zip(each.split(few), gates.split(few), sources.split(few), strict=True)
        ]
        return torch.cat(found).view(tiles, n, columns)


def gated_samples(
    array: GatedArray,
    levels: Integer[np.ndarray, "chips R C"],
    inputs: Integer[np.ndarray, "chips n R"],
    step: float = 1 / 16,
) -> Samples:
    """Every column of every array read with every input: the sum it should give, and what it gives.

    ``levels``: 0 … level_high; ``inputs``: 0 or 1. A code is ``step`` counts of current, half up, a count being
    ``array.count`` above what g_min alone leaks in the open rows. The order of the inputs is the read. What differs
    between inputs of one sum comes out as fresh, what differs between columns as frozen. Raises ValueError for levels
    and inputs out of range, NotConverged as ``operating_point`` does.
    """
    for name, values, high in (("levels", levels, array.level_high), ("inputs", inputs, 1)):
        bad = (values < 0) | (values > high)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(f"{name}{list(at)} = {values[at]} is outside 0 … {high}")
    chips, rows, columns = levels.shape
    n = inputs.shape[1]
    current = array.currents(torch.from_numpy(levels).double(), torch.from_numpy(inputs).double()).numpy()
    leak = array.read * array.g_min * inputs.sum(2)[:, :, None]
    code = np.floor((current - leak) / (array.count * step) + 0.5).astype(np.int64)
    ideal = np.einsum("tnr,trc->tnc", inputs.astype(np.int64), levels.astype(np.int64))
    shape = (chips, n, columns)

    def spread(values: np.ndarray, axis: int) -> np.ndarray:
        return np.broadcast_to(values.reshape([-1 if i == axis else 1 for i in range(3)]), shape).ravel()

    return Samples(
        ideal=ideal.ravel(),
        code=code.ravel(),
        chip=spread(np.arange(chips), 0),
        read=spread(np.arange(n), 1),
        column=spread(np.arange(columns), 2),
        x=np.broadcast_to(inputs[:, :, None].astype(np.int8), (*shape, rows)).reshape(-1, rows),
        w=np.broadcast_to(levels.transpose(0, 2, 1)[:, None].astype(np.int16), (*shape, rows)).reshape(-1, rows),
        provenance={"source": "crossbar, gated rows", "step": step, "array": array.model_dump(mode="json")},
    )
