"""Reads of arrays that are not linear, gated rows or cells of a sinh law, as samples: what a column is fitted to."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import torch
from jaxtyping import Float, Integer
from pydantic import Field, model_validator
from torch import Tensor

from bitline.circuits.crossbar.laws import Gated, Law, Sinh
from bitline.circuits.crossbar.newton import operating_point
from bitline.circuits.crossbar.wires import Wires
from bitline.configuration import Frozen
from bitline.samples import Samples
from bitline.units import Siemens, Volts

AT_ONCE = 1 << 18  # cells solved at a time


class NonlinearArray(Frozen):
    """Cells of several levels behind wires, read by rows that an input of 1 turns on and 0 off."""

    wires: Wires = Field(description="word_line and driver are those of the line that carries the read voltage")
    read: Volts = Field(gt=0, description="read voltage of a row that is on")
    g_min: Siemens = Field(ge=0, description="conductance of level 0")
    g_max: Siemens = Field(gt=0, description="conductance of the highest level")
    level_high: int = Field(default=1, ge=1, description="highest level")

    @model_validator(mode="after")
    def _in_order(self) -> NonlinearArray:
        if self.g_min >= self.g_max:
            raise ValueError(f"g_min = {self.g_min:g} S must be below g_max = {self.g_max:g} S")
        return self

    @property
    def per_siemens(self) -> float:
        """Current of a cell in a row that is on, of 1 S, with ideal wires and transistors, A."""
        return self.read

    @property
    def count(self) -> float:
        """Current of one level in one row that is on, with ideal wires and transistors, A."""
        return self.per_siemens * (self.g_max - self.g_min) / self.level_high

    @abstractmethod
    def law(self, g: Float[Tensor, "tiles R C"], inputs: Float[Tensor, "tiles R"]) -> Law:
        """The law of cells of these conductances (S), under these inputs."""

    @abstractmethod
    def sources(self, inputs: Float[Tensor, "tiles R"]) -> Float[Tensor, "tiles R"]:
        """Voltages of the rows' drivers, V."""

    def currents(
        self, levels: Float[Tensor, "tiles R C"], inputs: Float[Tensor, "tiles n R"]
    ) -> Float[Tensor, "tiles n C"]:
        """Sensed currents (A) for stored levels and n input vectors of 0 and 1 a tile, solved to 1e-11 each."""
        tiles, n, rows = inputs.shape
        columns = levels.shape[2]
        g = self.g_min + (self.g_max - self.g_min) * levels.double() / self.level_high
        each = g[:, None].expand(-1, n, -1, -1).reshape(-1, rows, columns)
        on = inputs.double().reshape(-1, rows)
        few = max(1, AT_ONCE // (rows * columns))
        found = [
            operating_point(self.law(some, part), self.wires, self.sources(part), columns).current
            for some, part in zip(each.split(few), on.split(few), strict=True)
        ]
        return torch.cat(found).view(tiles, n, columns)


class GatedArray(NonlinearArray):
    """1T1R cells whose word lines are gates: an input of 1 opens the row, 0 closes it. ``Gated`` has the equations.

    Every row has the read voltage, open or not.
    """

    gate: Volts = Field(description="gate voltage of an open row; a closed one has 0 V")
    threshold: Volts = Field(gt=0, description="threshold voltage of the transistors")
    beta: float = Field(gt=0, description="A/V²: mobility times gate capacitance times width over length")

    @model_validator(mode="after")
    def _opens(self) -> GatedArray:
        if self.gate <= self.threshold:
            raise ValueError(f"gate = {self.gate:g} V opens no row: it must be above threshold = {self.threshold:g} V")
        return self

    def law(self, g: Float[Tensor, "tiles R C"], inputs: Float[Tensor, "tiles R"]) -> Gated:
        return Gated(g, self.gate * inputs, self.threshold, self.beta)

    def sources(self, inputs: Float[Tensor, "tiles R"]) -> Float[Tensor, "tiles R"]:
        return torch.full_like(inputs, self.read)


class SinhArray(NonlinearArray):
    """Cells of a sinh law in rows that are driven: an input of 1 is the read voltage, 0 is 0 V. ``Sinh`` has the
    equation; conductances are those at low voltage."""

    scale: Volts = Field(gt=0, description="v₀ of g · v₀ · sinh(v / v₀)")

    @property
    def per_siemens(self) -> float:
        return self.scale * math.sinh(self.read / self.scale)

    def law(self, g: Float[Tensor, "tiles R C"], inputs: Float[Tensor, "tiles R"]) -> Sinh:
        return Sinh(g, self.scale)

    def sources(self, inputs: Float[Tensor, "tiles R"]) -> Float[Tensor, "tiles R"]:
        return self.read * inputs


def array_samples(
    array: NonlinearArray,
    levels: Integer[np.ndarray, "chips R C"],
    inputs: Integer[np.ndarray, "chips n R"],
    step: float = 1 / 16,
) -> Samples:
    """Every column of every array read with every input: the sum it should give, and what it gives.

    ``levels``: 0 … level_high; ``inputs``: 0 or 1. A code is ``step`` counts of current, half up, a count being
    ``array.count`` above what g_min alone leaks in the rows that are on. The order of the inputs is the read. What
    differs between inputs of one sum comes out as fresh, what differs between columns as frozen. Raises ValueError for
    levels and inputs out of range, NotConverged as ``operating_point`` does.
    """
    for name, values, high in (("levels", levels, array.level_high), ("inputs", inputs, 1)):
        bad = (values < 0) | (values > high)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(f"{name}{list(at)} = {values[at]} is outside 0 … {high}")
    chips, rows, columns = levels.shape
    n = inputs.shape[1]
    current = array.currents(torch.from_numpy(levels).double(), torch.from_numpy(inputs).double()).numpy()
    leak = array.per_siemens * array.g_min * inputs.sum(2)[:, :, None]
    code = np.floor((current - leak) / (array.count * step) + 0.5).astype(np.int64)
    ideal = np.einsum("tnr,trc->tnc", inputs.astype(np.int64), levels.astype(np.int64))
    shape, source = (chips, n, columns), f"crossbar, {type(array).__name__}"

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
        provenance={"source": source, "step": step, "array": array.model_dump(mode="json")},
    )
