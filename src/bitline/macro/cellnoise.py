"""Fresh noise of cells that are not all alike: Σ_r x̂_r² · v_r over the driven rows, in whole numbers, so that the sums
do not depend on the order in which they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bitline.macro.column import Column

BITS, SQUARE_BITS = 16, 20  # of a variance and of a square: over 2^16 rows they add up exactly in float64


@dataclass(frozen=True)
class CellVariances:
    """Variances of cells as multiples of a unit, legs added: (G, T, R, C, N) float64."""

    whole: Tensor
    unit: float
    square: float  # unit of squares of what rows are driven with

    @staticmethod
    def of(column: Column) -> CellVariances | None:
        """Those of a column whose cells have a variance each."""
        if column.variance is None:
            return None
        total = column.variance.double().sum(4)
        unit = max(float(total.max()), 1e-300) / (1 << BITS)
        largest = column.macro.digit_high if column.drive is None else float(column.drive.abs().max())
        bits = 2 * math.ceil(math.log2(max(largest, 1.0))) - SQUARE_BITS
        whole = column.drive is None and column.macro.inputs is not None
        return CellVariances((total / unit + 0.5).floor_(), unit, 2.0 ** (max(bits, 0) if whole else bits))

    def at(self, driven: Tensor, t: int) -> Tensor:
        """Variance of each conversion of row group ``t``, counts², for rows driven by ``driven`` (G, M, R):
        (G, M, C, N) float32."""
        squares = (driven.double().square() / self.square + 0.5).floor_()
        rows = self.whole[:, t, : driven.shape[2]]
        found = torch.bmm(squares, rows.flatten(2)) * (self.unit * self.square)
        return found.view(*found.shape[:2], *rows.shape[2:]).float()
