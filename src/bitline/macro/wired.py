"""Cells as the wires of their array let them be read: the exact solve of each physical array, at programming.

An array is solved whole: positive, negative, sliced and reference columns side by side, unused cells at g_min, unused
columns sensed and unused rows driven at 0 V like all others. Row groups are rows of one matrix, since a row that is off
is driven at 0 V. Layers that share silicon (``reload``) are written one after the other, each into arrays of its own
here. Fresh noise of cells (``read_sigma``) is not attenuated by the wires.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitline.circuits.crossbar import Linearised, solve
from bitline.macro.macro import Macro
from bitline.macro.placement import Layout, Site

OWN = Site("")  # arrays numbered from 0


@dataclass(frozen=True)
class Arrays:
    """The physical arrays of a layer."""

    macro: Macro
    layout: Layout

    @property
    def siemens(self) -> float:
        """Conductance of one level of a cell; raises ValueError where the cells have none."""
        cell = self.macro.cell
        if cell is None or cell.g_min is None or cell.g_max is None:
            raise ValueError(
                f"macro {self.macro.name}: wires need cells with conductances; give cell.g_min and cell.g_max"
            )
        return (cell.g_max - cell.g_min) / self.macro.level_high

    def conductances(self, held: Tensor) -> Tensor:
        """Siemens of every cell of every array, (arrays, rows, columns), from levels held, (G, T, R, C, L, N).

        Levels count from 0 S. Differentiable in them.
        """
        cell, layout = self.macro.cell, self.layout
        unit = self.siemens
        assert cell is not None
        assert cell.g_min is not None
        count = layout.arrays * layout.rows * layout.columns
        full = torch.full((count,), cell.g_min, dtype=torch.float64, device=held.device)
        used, address = self._address(held.device)
        full = full.index_put((address,), held.to(torch.float64)[used] * unit)
        return full.view(layout.arrays, layout.rows, layout.columns)

    def levels(self, matrix: Tensor) -> Tensor:
        """Inverse of ``conductances``; rows that are not there hold 0."""
        used, address = self._address(matrix.device)
        read = matrix.new_zeros(used.shape)
        return read.index_put((used,), matrix.flatten()[address] / self.siemens)

    def _address(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(which of (G, T, R, C, L, N) are cells of the arrays, their addresses)."""
        layout = self.layout
        address = layout.cells_of(OWN).to(device)
        counts = torch.tensor([span[1] for span in layout.spans], device=device)
        there = torch.arange(layout.active_rows, device=device) < counts[:, None]
        used = there[None, :, :, None, None, None].expand_as(address)
        return used, address[used]


def wired(held: Tensor, macro: Macro, layout: Layout, around: Linearised | None = None) -> Tensor:
    """Levels as read, (G, T, R, C, L, N) float64, from levels held, those of level 0 included; differentiable.

    ``around``: arrays solved before, from which these follow to first order.
    """
    assert macro.wires is not None
    arrays = Arrays(macro, layout)
    conductances = arrays.conductances(held)
    return arrays.levels(solve(conductances, macro.wires) if around is None else around.at(conductances))


def linearised(weights: Tensor, macro: Macro, layout: Layout) -> Linearised:
    """The arrays of a layer that hold these integers without error, (G·N, K), solved to be moved from; float32 inside.

    Raises ValueError where they need more than 8 GiB.
    """
    assert macro.wires is not None
    assert macro.weights is not None
    assert macro.cell is not None
    held = layout.scatter(macro.weights.levels(weights.detach())).double() + macro.cell.pedestal(macro.level_high)
    return Linearised.of(Arrays(macro, layout).conductances(held), macro.wires, torch.float32)
