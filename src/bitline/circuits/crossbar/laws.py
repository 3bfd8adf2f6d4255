"""Laws of a cell: its current from word line to bit line, and how it changes with the voltage of either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Law(Protocol):
    """The law of every cell of a batch of arrays."""

    def at(self, word: Tensor, bit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(current in A, its derivative by the word line's voltage, minus that by the bit line's), from volts.

        All (tiles, R, C), float64.
        """
        ...


@dataclass(frozen=True)
class Ohmic:
    """i = g · v."""

    g: Tensor  # (tiles, R, C) siemens

    def at(self, word: Tensor, bit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Linear."""
        return self.g * (word - bit), self.g, self.g


@dataclass(frozen=True)
class Sinh:
    """i = g · v₀ · sinh(v / v₀): hopping and trap-assisted conduction of filamentary cells, g at low voltage
    (Guan, Yu, Wong, IEEE Electron Device Lett. 33, 2012, eq. 3, at a fixed gap). For |v| up to some 20 v₀."""

    g: Tensor  # (tiles, R, C) siemens
    scale: float  # v₀, volts

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale = {self.scale:g} V of a sinh law must be above 0")

    def at(self, word: Tensor, bit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Odd in the voltage."""
        u = (word - bit) / self.scale
        slope = self.g * torch.cosh(u)
        return self.g * self.scale * torch.sinh(u), slope, slope


@dataclass(frozen=True)
class Gated:
    """1T1R: g in series with a transistor whose gate is the row's word line and whose source is the bit line.

    The row's other line carries the read voltage to all its cells and has the resistances that ``Wires`` calls a word
    line's; inputs are the gate voltages. The transistor is Shichman and Hodges' (IEEE J. Solid-State Circuits 3, 1968),
    without body effect and channel-length modulation: β(o·x - x²/2) below x = o = V_gate - V_T - V_bit, β·o²/2 above,
    nothing at o ≤ 0. The node between is solved for in closed form. For rows at or above their bit lines.
    """

    g: Tensor  # (tiles, R, C) siemens
    gate: Tensor  # (tiles, R) volts
    threshold: float  # V_T, volts
    beta: float  # A/V²

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta = {self.beta:g} A/V² of a transistor must be above 0")

    def at(self, word: Tensor, bit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Zero, with zero slopes, where the transistor is off; below v = 0, the line through its slope there."""
        over = (self.gate[:, :, None] - self.threshold - bit).clamp(min=0)
        v, g, beta = word - bit, self.g, self.beta
        total = beta * over + g
        forward = v.clamp(min=0)
        root = (total.square() - 2 * beta * g * forward).clamp(min=0).sqrt()
        x = 2 * g * forward / (total + root).clamp(min=torch.finfo(torch.float64).tiny)
        linear = (x < over) & (root > 0)
        # with h(v, o) = g (v - x(v, o)): ∂h/∂v = g (1 - ∂x/∂v) and ∂h/∂o = -g ∂x/∂o, from β(o·x - x²/2) = g (v - x)
        slope = beta * (over - x) + g
        safe = torch.where(linear, slope, torch.ones_like(slope))
        by_v = torch.where(linear, g * beta * (over - x) / safe, torch.zeros_like(g))
        by_over = torch.where(linear, g * beta * x / safe, beta * over)
        current = torch.where(linear, g * (forward - x), beta * over.square() / 2) + by_v * v.clamp(max=0)
        on = over > 0
        current, by_v, by_over = (torch.where(on, t, torch.zeros_like(t)) for t in (current, by_v, by_over))
        return current, by_v, by_v + by_over
