"""Arrays with cells that are not ohmic, or whose rows are gates: Newton's method, one linear array a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bitline.circuits.crossbar.laws import Law
from bitline.circuits.crossbar.network import Cells, connect
from bitline.circuits.crossbar.solve import reduced
from bitline.circuits.crossbar.wires import Wires

HALVINGS = 20  # of a step that does not help


class NotConverged(ArithmeticError):
    """Newton's method stopped short of its tolerance."""


@dataclass(frozen=True)
class Point:
    """The operating point of a batch of arrays."""

    current: Tensor  # (tiles, C) A, sensed
    word: Tensor  # (tiles, R, C) V, of the word line at each cell
    bit: Tensor  # alike, of the bit line
    iterations: int
    residual: float  # largest mismatch of a cell's current, relative to the largest current of a cell


def operating_point(
    law: Law,
    wires: Wires,
    sources: Float[Tensor, "tiles R"],
    columns: int,
    tolerance: float = 1e-11,
    most: int = 60,
) -> Point:
    """Currents and voltages for given row sources (V): the truth that a linear or fitted column is held against.

    Each step solves the array of the cells' tangents; a step that does not bring the cells nearer to their law is
    halved. Raises ``NotConverged``, naming the tile and the mismatch, after ``most`` steps.
    """
    wires = reduced(wires)
    word = sources.to(torch.float64)[:, :, None].expand(-1, -1, columns).contiguous()
    bit = torch.zeros_like(word)
    carried = torch.zeros_like(word)  # cell currents that agree with what the wires carry
    current, by_word, by_bit = law.at(word, bit)
    off, scale = _mismatch(current, carried)
    for step in range(1, most + 1):
        constant = current - by_word * word + by_bit * bit
        tangent = Cells(by_word, by_bit, constant)
        new_word, new_bit = (v[..., 0] for v in connect(tangent, wires).voltages(sources[..., None].to(torch.float64)))
        new_carried = by_word * new_word - by_bit * new_bit + constant
        share = torch.ones_like(off)
        for _ in range(HALVINGS):
            t = share[:, None, None]
            trial = [old + t * (new - old) for old, new in ((word, new_word), (bit, new_bit), (carried, new_carried))]
            found = law.at(trial[0], trial[1])
            new_off, new_scale = _mismatch(found[0], trial[2])
            worse = new_off > torch.maximum((1 - share / 4) * off, tolerance * new_scale)
            if not bool(worse.any()):
                break
            share = torch.where(worse, share / 2, share)
        word, bit, carried = trial
        current, by_word, by_bit = found
        off, scale = new_off, new_scale
        if bool((off <= tolerance * scale).all()):
            return Point(carried.sum(1), word, bit, step, float((off / scale).max()))
    mismatch = off / scale
    tile = int(torch.nan_to_num(mismatch, nan=torch.inf).argmax())
    raise NotConverged(
        f"array {tile}: after {most} steps a cell's current is off by {float(mismatch[tile]):.3g} of the largest, "
        f"above tolerance = {tolerance:g}; lower voltages, or a law that is less steep, may be solved"
    )


def _mismatch(current: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
    """(largest difference of a cell, infinite where not a number; largest current of a cell), A, of each array."""
    scale = torch.maximum(current.abs().amax((1, 2)), carried.abs().amax((1, 2)))
    off = (current - carried).abs().amax((1, 2))
    tiny = torch.finfo(torch.float64).tiny
    return torch.where(off.isfinite(), off, torch.full_like(off, torch.inf)), scale.clamp(min=tiny)
