"""Quantizers: from floats to the integer codes a macro is given.

A quantizer maps a float ``x`` to an integer code ``q`` on the grid ``low, low + step, …, high`` with a scale ``s > 0``
and an integer zero point ``z``, so that ``x ≈ s·(q − z)``. Zero is always exactly on the grid (``beta = −s·z`` is
snapped), except on a bipolar grid (``step = 2``), which has no zero. Weights have ``z = 0`` and one scale per tensor
or per output (axis 0). Rounding is half up everywhere: ``floor(v + 0.5)``.

Each kind is a frozen config; ``config.build(low, high, role=…)`` gives the module. A module is calibrated once,
``observe(x)`` over a few batches and then ``freeze()``; from then on ``forward(x)`` returns ``(q, scale, zero)``.
``q`` and ``zero`` hold integers as floats and carry straight-through gradients, so that a caller who computes
``scale·(q − zero)``, or any product of it, trains scale and bounds by autograd.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bitline.nn.grid import Grid, Role, Statistics, fill_dead
from bitline.nn.quantizer import (
    FixedQuantizer,
    LsqQuantizer,
    PactQuantizer,
    Quantizer,
    QuantizerConfig,
    XnorQuantizer,
)


class _Fixed(QuantizerConfig):
    """Observers: the scale is calibrated and fixed afterwards."""

    def build(self, low: int, high: int, *, role: Role, step: int = 1, channels: int | None = None) -> Quantizer:
        """The module for codes low..high; ``channels`` is the number of outputs N (per-channel weights)."""
        grid = Grid(low, high, step)
        return FixedQuantizer(self, grid, role, self.check(grid, role, channels), self.asymmetric)

    def fit(self, seen: Statistics, grid: Grid, asymmetric: bool) -> tuple[Tensor, Tensor]:
        """Scale and zero point, shape (C,), from what was observed."""
        raise NotImplementedError


class MinMax(_Fixed):
    """The range is the smallest and largest value observed: nothing is clipped."""

    kind: Literal["minmax"] = "minmax"

    def fit(self, seen: Statistics, grid: Grid, asymmetric: bool) -> tuple[Tensor, Tensor]:
        return grid.fit(seen.low, seen.high, asymmetric)


class Percentile(_Fixed):
    """The range is the p-th and the (100 − p)-th percentile; what lies outside is clipped."""

    kind: Literal["percentile"] = "percentile"
    p: float = Field(99.9, gt=50, le=100, description="per cent")

    def fit(self, seen: Statistics, grid: Grid, asymmetric: bool) -> tuple[Tensor, Tensor]:
        if self.p == 100:
            return grid.fit(seen.low, seen.high, asymmetric)
        low, high = torch.quantile(seen.sample, torch.tensor([1 - self.p / 100, self.p / 100]).to(seen.sample), dim=1)
        return grid.fit(low, high, asymmetric)


class Mse(_Fixed):
    """The range with the smallest mean squared error among clipped ones (per channel).

    A geometric search from the whole range down to 1/256 of it, then a finer one around the best; a two-sided range
    then moves each end on its own.
    """

    kind: Literal["mse"] = "mse"

    def fit(self, seen: Statistics, grid: Grid, asymmetric: bool) -> tuple[Tensor, Tensor]:
        coarse = torch.logspace(0, -8, 65, base=2).tolist()
        fine = torch.linspace(0.92, 1.08, 17).tolist()
        low, high = seen.low.clamp(max=0.0), seen.high.clamp(min=0.0)
        moves = [(True, True, coarse), (True, True, fine)]
        if asymmetric:
            moves += [(False, True, coarse), (True, False, coarse), (False, True, fine), (True, False, fine)]
        for moves_low, moves_high, factors in moves:
            best = torch.full_like(low, math.inf)
            low_best, high_best = low, high
            for factor in factors:
                a, b = low * (factor if moves_low else 1.0), high * (factor if moves_high else 1.0)
                error = _squared_error(seen.sample, grid, *grid.fit(a, b, asymmetric))
                better = error < best
                best = torch.where(better, error, best)
                low_best, high_best = torch.where(better, a, low_best), torch.where(better, b, high_best)
            low, high = low_best, high_best
        return grid.fit(low, high, asymmetric)


def _squared_error(x: Tensor, grid: Grid, scale: Tensor, zero: Tensor) -> Tensor:
    """Mean squared error of (C, n) values on the grid; shape (C,)."""
    scale, zero = scale[:, None], zero[:, None]
    return ((grid.nearest(x / scale + zero) - zero) * scale - x).square().mean(1)


Observer = Annotated[MinMax | Percentile | Mse, Field(discriminator="kind")]


class Lsq(QuantizerConfig):
    """Learned step size (Esser et al., ICLR 2020); with ``asymmetric`` also a learned offset (Bhalgat et al. 2020).

    The gradient of the scale is multiplied by 1/sqrt(N·Qp), N the number of weights of a scale or of input features,
    Qp the largest code. Start: what the observer ``init`` finds; null: as published, 2·mean|x| / sqrt(Qp) (halved on a
    bipolar grid, whose codes are two apart), which clips most of the power of sparse inputs.
    """

    kind: Literal["lsq"] = "lsq"
    init: Observer | None = Mse()

    def build(self, low: int, high: int, *, role: Role, step: int = 1, channels: int | None = None) -> Quantizer:
        """The module for codes low..high; ``channels`` is the number of outputs N (per-channel weights)."""
        grid = Grid(low, high, step)
        return LsqQuantizer(self, grid, role, self.check(grid, role, channels), self.asymmetric)

    def fit(self, seen: Statistics, grid: Grid, asymmetric: bool) -> tuple[Tensor, Tensor]:
        """Starting scale and zero point, shape (C,)."""
        if self.init is not None or asymmetric:
            return (self.init or MinMax()).fit(seen, grid, asymmetric)
        mean = (seen.magnitude / seen.count).float()
        scale = fill_dead(2 * mean / (grid.step * math.sqrt(grid.high)))
        return scale, torch.zeros_like(scale)


class Pact(QuantizerConfig):
    """Inputs clipped at a learned bound alpha (PACT, Choi et al. 2018); ``asymmetric`` learns the lower bound as well
    (E-PACT, Lin et al., JETCAS 2022). The bounds train by what they clip alone; ``residual`` adds the rounding
    residual of what lies inside (PACT+). ``decay`` is the factor of the L2 term on the bounds, see ``penalty``.

    What a lower bound needs beside it, the layer does: z·Σw is taken off digitally, padding is the code z of zero. The
    converters' range learns along where the macro says ``learn: true`` of it.
    """

    kind: Literal["pact"] = "pact"
    init: Observer = Percentile()
    decay: float = Field(1e-4, ge=0)
    residual: bool = False

    def build(self, low: int, high: int, *, role: Role, step: int = 1, channels: int | None = None) -> Quantizer:
        """The module for codes low..high. Raises ValueError for weights, for a bipolar grid, and for signed codes
        without ``asymmetric``."""
        grid = Grid(low, high, step)
        if role == "weights":
            raise ValueError("Pact is for inputs; for weights choose Lsq, MinMax, Percentile or Mse")
        if step != 1 or (low != 0 and not self.asymmetric):
            raise ValueError(
                f"Pact on codes {low}..{high} step {step}: it needs unsigned codes 0..n, "
                "or asymmetric=True (both bounds learned) on codes one apart; or choose Lsq"
            )
        return PactQuantizer(
            self, grid, role, self.check(grid, role, channels), self.asymmetric, self.decay, self.residual
        )

    def fit(self, seen: Statistics, grid: Grid, asymmetric: bool) -> tuple[Tensor, Tensor]:
        """Starting scale and zero point, shape (1,)."""
        return self.init.fit(seen, grid, asymmetric)


class Xnor(QuantizerConfig):
    """Binary ±1 weights with scale mean|w|, followed as the weights train (XNOR-Net, Rastegari et al., ECCV 2016).

    Needs no calibration. Gradient: dy/dw = 1/n + mean|w|·1[|w| ≤ 1].
    """

    kind: Literal["xnor"] = "xnor"
    per_channel: bool = True

    def build(self, low: int, high: int, *, role: Role, step: int = 1, channels: int | None = None) -> Quantizer:
        """The module for codes ±1. Raises ValueError for any other grid and for inputs."""
        if (low, high, step) != (-1, 1, 2) or role != "weights":
            raise ValueError(f"Xnor on {role} with codes {low}..{high} step {step}: only weights of -1..1 step 2")
        grid = Grid(low, high, step)
        return XnorQuantizer(self, grid, role, self.check(grid, role, channels), False)

    def fit(self, seen: Statistics, grid: Grid, asymmetric: bool) -> tuple[Tensor, Tensor]:
        """The scale these weights have now; for display, the module follows the weights."""
        scale = fill_dead((seen.magnitude / seen.count).float())
        return scale, torch.zeros_like(scale)


AnyQuantizer = Annotated[Lsq | Pact | MinMax | Percentile | Mse | Xnor, Field(discriminator="kind")]
