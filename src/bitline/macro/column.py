"""A programmed column: the canonical form that devices, circuits and measurements lower to and that plans run.

    x̂   = drive(digit)
    u    = Σ_r x̂_r · g_r                              per leg ℓ
    a_ℓ  = mean(gain · (u + inner) + offset) + pattern + sqrt(spread(u)² + Σ_r v_r · x̂_r²) · ε
    value = Σ_ℓ sign_ℓ · a_ℓ
    code = converter(value)    or    code ~ P(· | ideal sum, physical column)
    y    = factor · Σ_{t, p, c} radix_p · radix_c · (low + step · code) + digital corrections

Axes: G groups, T row groups, R rows on at once, C conversions, L legs, N outputs; P passes of input digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitline.devices import Writes
from bitline.macro.chip import Chip
from bitline.macro.curves import Lookup
from bitline.macro.macro import Macro
from bitline.macro.placement import Layout, Site


@dataclass(frozen=True)
class Spread:
    """Frozen gain and offset (counts) of each physical column, (G, T, C, L, N) float32."""

    gain: Tensor
    offset: Tensor


@dataclass(frozen=True)
class Code:
    """The converter of each conversion, errors frozen: (G, T, C, N) where per converter."""

    most: int  # last code
    gain: Tensor | None
    offset: Tensor | None  # LSB
    noise: float | None  # LSB rms
    thresholds: Tensor | None  # (converters, codes - 1) LSB; absent: uniform, half up
    which: Tensor | None  # row of `thresholds` for each conversion, (G, T, C, N); absent: row 0
    values: Tensor | None  # LSB for each code; absent: the code
    about_zero: bool = False  # whether a gain leaves the value 0 alone, not the first code


@dataclass(frozen=True)
class Law:
    """A measured table P(code | ideal code) as alias tables (Walker, 1977): rows (tables · ideal codes) of 2^k bins.

    32 random bits draw a code: the first k choose a bin; the others, below its cut, its own code, else its alias. A
    word holds the cut above the alias, of k bits; a bin that is its own entirely has cut 0 and is its own alias.
    """

    low: float
    step: float
    ideal_codes: int
    codes: int
    words: Tensor  # (tables * ideal codes, 2^k) int32, shared by all columns with these tables
    slope: Tensor  # (tables * ideal codes,) derivative of the mean code by the ideal code
    which: Tensor | None  # table of each conversion, (G, T, C, N); absent: table 0
    mean: Tensor  # (tables * ideal codes,) mean code
    stretch: Tensor  # alike: relative derivative of the deviation of the code by the ideal code

    @property
    def bits(self) -> int:
        """k, the bits that choose a bin."""
        return self.words.shape[1].bit_length() - 1


@dataclass(frozen=True, eq=False)
class Column:
    """All columns of one layer, programmed on one die. Make it with ``program``; it is never changed."""

    macro: Macro
    layout: Layout
    site: Site
    chip: Chip
    wanted: Tensor  # (G·N, K) weights asked for: integers, or real numbers in the continuous limit; keeps its graph
    weight: Tensor  # (G·N, K) effective weights of this die, column gains included, differentiable in `wanted`
    cells: Tensor | None  # (G, T, R, C, L, N), whole multiples of `unit`; absent where no plan needs them
    unit: float
    spread: Spread | None
    mean: Lookup | None
    noise: Lookup | None
    cell_variance: float | None  # fresh variance (counts²) of a cell driven by 1, the same for all cells
    drive: Tensor | None  # driven value of digits low … high
    drive_error: Tensor | None  # (G, T, R, digits) error of each driver
    code: Code | None
    law: Law | None
    pattern: Tensor | None = None  # (R, levels, digits) counts a row adds, multiples of 2^-24, float64
    inner: Tensor | None = None  # alike: what it adds to the sum that the curve takes; only beside `pattern`
    seconds: float | None = None  # age, where `age` made this column
    n: int = 0  # how often the arrays had been written before
    held: Tensor | None = None  # levels held, shaped as `cells`, where wires stand between them and what is read
    variance: Tensor | None = None  # fresh variance (counts²) of each cell driven by 1, shaped as `cells`, or none
    factor: Tensor | None = None  # what outputs are multiplied by, digital corrections apart: (), or (G·N,) float32
    writes: Writes | None = None  # what writing the cells took, shaped as `cells`
    verified: Tensor | None = None  # (G·N, K) weights whose cells were verified; absent: all

    @property
    def noisy(self) -> bool:
        """Whether two reads of the same inputs may differ."""
        of_cells = self.cell_variance is not None or self.variance is not None
        fresh = self.noise is not None or of_cells or self.law is not None
        return fresh or (self.code is not None and self.code.noise is not None)

    @property
    def pass_radix(self) -> tuple[int, ...]:
        """Weight of each pass of input digits."""
        return self.macro.inputs.radix if self.macro.inputs else (1,)

    @property
    def radix(self) -> tuple[int, ...]:
        """Weight of each conversion."""
        return self.macro.weights.radix if self.macro.weights and self.macro.sliced else (1,)

    @property
    def input_constant(self) -> int:
        """Factor of the digital Σx."""
        return self.macro.weights.input_constant if self.macro.weights and self.macro.sliced else 0

    @property
    def weight_constant(self) -> int:
        """Factor of the digital Σw."""
        return self.macro.inputs.constant if self.macro.inputs else 0

    def planes(self, x: Tensor) -> Tensor:
        """What the word lines drive in each pass for codes ``x``: (P, *shape)."""
        inputs = self.macro.inputs
        if inputs is None:
            return x[None]
        digits = inputs.digits(x)
        if self.drive is None:
            return digits
        driven = self.drive.to(x.dtype)[(digits - inputs.digit_low).long()]
        return torch.where(digits == 0, driven.new_zeros(()), driven) if inputs.stride == 2 else driven

    def driven(self, x: Tensor) -> Tensor:
        """What the word lines drive for codes ``x``, all passes together; the gradient is that of ``x``."""
        inputs = self.macro.inputs
        if self.drive is None or inputs is None:
            return x
        radix = torch.tensor(inputs.radix, dtype=x.dtype, device=x.device).view(-1, *[1] * x.dim())
        return x + ((self.planes(x.detach()) * radix).sum(0) + inputs.constant - x).detach()
