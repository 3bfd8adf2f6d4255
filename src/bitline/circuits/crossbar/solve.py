"""What an ohmic array computes: one matrix from row voltages to sensed currents, and how it moves with the cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from bitline.circuits.crossbar.network import Cells, Network, connect
from bitline.circuits.crossbar.wires import Wires

AT_ONCE = 1 << 15  # cells solved at a time: more fall out of the cache
SETS = 1 << 22  # voltages of cells held at a time
MOST = 1 << 33  # bytes that a linearisation may hold


def solve(conductances: Float[Tensor, "*tiles R C"], wires: Wires) -> Float[Tensor, "*tiles R C"]:
    """M with I = V · M: sensed currents (A) of row source voltages (V), siemens, float64.

    ``conductances``: of the cells, siemens, any number of tiles; row and column 0 stand next to the driver and
    farthest from the sense (``wires``). Exact for ohmic cells and rows that are all driven, off ones with 0 V; with
    wires of 0 ohms, M is the conductances themselves. Differentiable in them. Conductances below 0, as an additive
    error may make of a cell that is off, are solved as they are. Agrees with a sparse LU solve of all nodes to 1e-12 of
    an entry at 256 × 256. Raises ValueError naming the first conductance that is not finite.
    """
    check(conductances)
    tiles = conductances.to(torch.float64).reshape(-1, *conductances.shape[-2:])
    matrix: Tensor = _Solve.apply(tiles, reduced(wires))
    return matrix.reshape(conductances.shape)


def check(conductances: Tensor) -> None:
    """Raise ValueError for what is no batch of arrays, or naming the first conductance that is not finite."""
    if conductances.dim() < 2 or 0 in conductances.shape[-2:]:
        raise ValueError(f"conductances of shape {tuple(conductances.shape)}: (…, rows, columns) are expected")
    bad = ~conductances.detach().isfinite()
    if bool(bad.any()):
        first = bad.nonzero()[0].tolist()
        raise ValueError(f"conductance{first} = {conductances[tuple(first)].item():g} S is not a finite number")


def reduced(wires: Wires) -> Wires:
    """The same wires, a word line without resistance that is driven from both sides being one node with one driver."""
    if wires.drive == "both_sides" and wires.word_line == 0:
        return wires.model_copy(update={"drive": "one_side", "driver": wires.driver / 2})
    return wires


def parts(tiles: Tensor) -> Iterator[slice]:
    """Tiles a few at a time."""
    few = max(1, AT_ONCE // tiles[0].numel()) if len(tiles) else 1
    return (slice(start, start + few) for start in range(0, len(tiles), few))


class _Solve(torch.autograd.Function):
    """The gradient is that of Tellegen's theorem: a cell's voltage under the sources times its voltage under what the
    gradient drives the senses with (Director and Rohrer, IEEE Trans. Circuit Theory 16, 1969)."""

    @staticmethod
    def forward(ctx: Any, tiles: Tensor, wires: Wires) -> Tensor:
        ctx.save_for_backward(tiles)
        ctx.wires = wires
        matrix = torch.empty_like(tiles)
        for part in parts(tiles):
            matrix[part] = connect(Cells(tiles[part], tiles[part]), wires).matrix
        return matrix

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (tiles,) = ctx.saved_tensors
        found = torch.zeros_like(tiles)
        rows = tiles.shape[1]
        few = max(1, SETS // tiles[0].numel()) if len(tiles) else 1
        for tile in range(len(tiles)):
            one = slice(tile, tile + 1)
            network = connect(Cells(tiles[one], tiles[one]), ctx.wires, grounds=True)
            for start in range(0, rows, few):
                driven = _across(network, sources=_units(rows, tiles, start, few))
                sensed = _across(network, grounds=grad[one, start : start + few].transpose(1, 2).contiguous())
                found[one] -= (driven * sensed).sum(-1)
        return found, None


def _across(network: Network, sources: Tensor | None = None, grounds: Tensor | None = None) -> Tensor:
    """Voltage of each cell, (tiles, R, C, k)."""
    word, bit = network.voltages(sources, grounds)
    return word - bit


def _units(lines: int, like: Tensor, start: int = 0, few: int | None = None) -> Tensor:
    eye = torch.eye(lines, dtype=like.dtype, device=like.device)
    return eye[None, :, start : None if few is None else start + few].contiguous()


@dataclass(frozen=True)
class Linearised:
    """Arrays solved once, from which arrays nearby follow to first order without a solve.

    M(G) ≈ M(G₀) + Σ_cells driven · (G - G₀) · sensed, with the voltages of each cell when one row is driven and when
    one sense is, each with 1 V. The error is of second order in G - G₀, and what matters is G - G₀ as a change of the
    voltages along the wires: 1 % of full scale here and there changes an array's IR drop by far less than that.
    """

    conductances: Tensor  # (tiles, R, C) siemens, float64
    matrix: Tensor  # alike
    driven: Tensor  # (tiles, R·C, R)
    sensed: Tensor  # (tiles, R·C, C)

    @staticmethod
    def of(conductances: Float[Tensor, "tiles R C"], wires: Wires, dtype: torch.dtype = torch.float64) -> Linearised:
        """Solve, keeping the voltages in ``dtype``: R · C · (R + C) numbers a tile.

        Raises ValueError where they need more than 8 GiB.
        """
        check(conductances)
        base = conductances.detach().to(torch.float64, copy=True)
        tiles, rows, columns = base.shape
        needed = base.numel() * (rows + columns) * dtype.itemsize
        if needed > MOST:
            raise ValueError(
                f"{tiles} tiles of {rows} × {columns} cells need {needed / 2**30:.1f} GiB to be linearised, more than "
                f"{MOST >> 30}: smaller tiles, fewer at once, or wires.refresh = 1, which solves at every step"
            )
        wires = reduced(wires)
        matrix = torch.empty_like(base)
        driven = base.new_empty(tiles, rows * columns, rows, dtype=dtype)
        sensed = base.new_empty(tiles, rows * columns, columns, dtype=dtype)
        for tile in range(tiles):
            one = slice(tile, tile + 1)
            network = connect(Cells(base[one], base[one]), wires, grounds=True)
            matrix[one] = network.matrix
            driven[one] = _across(network, sources=_units(rows, base)).flatten(1, 2)
            sensed[one] = -_across(network, grounds=_units(columns, base)).flatten(1, 2)
        return Linearised(base, matrix, driven, sensed)

    def at(self, conductances: Float[Tensor, "tiles R C"]) -> Float[Tensor, "tiles R C"]:
        """M at other conductances, differentiable in them; raises ValueError for another shape."""
        if conductances.shape != self.conductances.shape:
            raise ValueError(
                f"conductances of shape {tuple(conductances.shape)}, but {tuple(self.conductances.shape)} were solved"
            )
        matrix: Tensor = _Near.apply(conductances.to(torch.float64), self)
        return matrix


class _Near(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tiles: Tensor, around: Linearised) -> Tensor:
        ctx.around = around
        change = (tiles - around.conductances).to(around.driven.dtype).flatten(1)
        found = around.matrix.clone()
        for tile, (driven, sensed) in enumerate(zip(around.driven, around.sensed, strict=True)):
            found[tile] += (driven * change[tile, :, None]).t() @ sensed
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        around = ctx.around
        found = torch.empty_like(grad)
        for tile, (driven, sensed) in enumerate(zip(around.driven, around.sensed, strict=True)):
            back = sensed @ grad[tile].to(sensed.dtype).t()
            found[tile] = (driven * back).sum(1).view_as(found[tile])
        return found, None
