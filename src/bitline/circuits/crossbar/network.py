"""An array put together from its cells by merging neighbours, and taken apart again for the voltages inside.

Neighbouring blocks are merged pairwise, all pairs of all arrays at once, until four quarters are left (nested
dissection; George, SIAM J. Numer. Anal. 10, 1973); drivers, senses and open ends are then put on the quarters, so that
the last and dearest merges carry no port that nobody asks for. A solve of n × n cells costs O(n³), where elimination
row by row costs O(n⁴). Inside, rows count from the sense end: row 0 is the last row of the array.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from bitline.circuits.crossbar.blocks import Block, Joint, join
from bitline.circuits.crossbar.ends import Tree, finished
from bitline.circuits.crossbar.wires import Wires

LEAF = 2  # a block that is built cell by cell has this many rows and columns, or one more
CHUNK = 1 << 15  # cells that are merged at a time, so that what is worked on stays in the cache


@dataclass(frozen=True)
class Cells:
    """Linear cells: the current from word line to bit line is a · v_word - b · v_bit + s; (tiles, R, C) each, siemens
    and amperes."""

    a: Tensor
    b: Tensor
    s: Tensor | None = None


@dataclass(frozen=True)
class Cut:
    """How an array is cut: 2^p × 2^q leaves of h × w cells, and the order in which they are merged."""

    rows: int
    columns: int

    @cached_property
    def leaf(self) -> tuple[int, int]:
        """(h, w)."""
        return (-(-self.rows // (1 << self.halvings[0])), -(-self.columns // (1 << self.halvings[1])))

    @cached_property
    def halvings(self) -> tuple[int, int]:
        """(p, q)."""
        p, q = (((extent - 1) // (2 * LEAF - 1)).bit_length() for extent in (self.rows, self.columns))
        return p, q

    @cached_property
    def merges(self) -> str:
        """Axis of each merge, 'r' or 'c', from the leaves on; blocks stay nearly square."""
        (h, w), (p, q) = self.leaf, self.halvings
        steps = ""
        while p or q:
            axis = "c" if q and (w <= h or not p) else "r"
            steps += axis
            h, p, w, q = (h, p, 2 * w, q - 1) if axis == "c" else (2 * h, p - 1, w, q)
        return steps

    @cached_property
    def paired(self) -> int:
        """How many of the merges are done for all blocks alike: until two are left a side, or one."""
        (p, q), done = self.halvings, 0
        while max(p, q) > 1:
            p, q = (p - 1, q) if self.merges[done] == "r" else (p, q - 1)
            done += 1
        return done

    @cached_property
    def axes(self) -> list[int]:
        """Axes of (tiles, row bits, h, column bits, w), bits high to low, that put partners of a merge together."""
        (p, q), seen = self.halvings, {"r": 0, "c": 0}
        order = []
        for axis in self.merges:
            order.append(p - seen[axis] if axis == "r" else 1 + p + q - seen[axis])
            seen[axis] += 1
        return [0, *reversed(order), 1 + p, 2 + p + q]

    def leaves(self, values: Tensor) -> Tensor:
        """(tiles, R, C) to (leaves, h, w), partners of a merge together; cells that are added hold 0."""
        (h, w), (p, q) = self.leaf, self.halvings
        full = values.new_zeros(len(values), h << p, w << q)
        full[:, : self.rows, : self.columns] = values.flip(1)
        return full.view(len(values), *[2] * p, h, *[2] * q, w).permute(self.axes).reshape(-1, h, w)

    def whole(self, leaves: Tensor) -> Tensor:
        """Inverse of ``leaves``, with further axes at the end: (leaves, h, w, …) to (tiles, R, C, …)."""
        (h, w), (p, q) = self.leaf, self.halvings
        back = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        rest = leaves.shape[3:]
        bits = leaves.view(-1, *[2] * (p + q), h, w, *rest)
        full = bits.permute(*back, *range(len(back), bits.dim())).reshape(-1, h << p, w << q, *rest)
        return full[:, : self.rows, : self.columns].flip(1)

    def first(self, tiles: int, device: torch.device) -> Tensor:
        """First column of each leaf, (leaves,)."""
        (h, w), (p, q) = self.leaf, self.halvings
        column = torch.arange(w << q, device=device).expand(tiles, h << p, w << q)
        return column.reshape(tiles, *[2] * p, h, *[2] * q, w).permute(self.axes).reshape(-1, h, w)[:, 0, 0]


@dataclass(frozen=True)
class Levels:
    """Merges in the order in which they were done: of cells into strips, of strips into leaves, of blocks."""

    cells: list[Joint]
    strips: list[Joint]
    blocks: list[Joint]
    count: int = 0  # blocks that are left


@dataclass(frozen=True)
class Network:
    """A solved batch of arrays."""

    cut: Cut
    tiles: int
    top: Tree
    above: list[Joint]  # of all blocks at once
    chunks: list[Levels]  # below

    @property
    def matrix(self) -> Tensor:
        """Sensed currents (A) per volt of row source, (tiles, R, C)."""
        block = self.top.block
        parts = [block.columns(port) for port, _ in block.ins if port in "VW"]
        whole = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return whole[:, : self.cut.columns, : self.cut.rows].flip(-1).transpose(-1, -2)

    @property
    def current(self) -> Tensor:
        """What currents injected in the cells add to the sensed ones, (tiles, C) A."""
        return self.top.block.columns("1")[:, : self.cut.columns, 0]

    def voltages(self, sources: Tensor | None = None, grounds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(word-line, bit-line) voltage at each cell, (tiles, R, C, k), for k sets of row sources (tiles, R, k).

        ``grounds``: voltages at the senses, (tiles, C, k), of a network made with ``grounds=True``. What is not given
        is at 0 V; currents injected in the cells are in every set.
        """
        given = sources if sources is not None else grounds
        assert given is not None
        pieces = []
        for port, size in self.top.block.ins:
            value = given.new_zeros(self.tiles, size, given.shape[-1])
            if port in "VW" and sources is not None:
                value[:, : self.cut.rows] = sources.flip(1)
            elif port == "U" and grounds is not None:
                value[:, : self.cut.columns] = grounds
            elif port == "1":
                value.fill_(1.0)
            pieces.append(value)
        inputs = self.top.grid(torch.cat(pieces, dim=1))
        for joint in reversed(self.above):
            inputs = _parted(joint, inputs)
        parts = inputs.split([levels.count for levels in self.chunks])
        cells = torch.cat([_cells(levels, part) for levels, part in zip(self.chunks, parts, strict=True)])
        word, bit = (self.cut.whole(cells[..., port, :]) for port in (0, 2))
        return word, bit


def connect(cells: Cells, wires: Wires, grounds: bool = False) -> Network:
    """The arrays of these cells and wires. ``grounds``: the voltages at the senses are inputs as well."""
    tiles, rows, columns = cells.a.shape
    cut = Cut(rows, columns)
    a, b = cut.leaves(cells.a), cut.leaves(cells.b)
    s = None if cells.s is None else cut.leaves(cells.s)
    first = cut.first(tiles, a.device)
    depth = min(cut.paired, max(1, CHUNK // (cut.leaf[0] * cut.leaf[1])).bit_length() - 1)
    size = max(1, CHUNK // (cut.leaf[0] * cut.leaf[1] << depth)) << depth
    chunks: list[Levels] = []
    blocks: list[Block] = []
    for start in range(0, len(a), size):
        part = slice(start, start + size)
        block, levels = _leaf(a[part], b[part], None if s is None else s[part], first[part], columns, wires)
        at = first[part]
        for axis in cut.merges[:depth]:
            block, at = _merged(block, axis, at, columns, wires, levels.blocks)
        blocks.append(block)
        chunks.append(replace(levels, count=len(block.matrix)))
    block = Block(torch.cat([one.matrix for one in blocks]), blocks[0].outs, blocks[0].ins)
    at = first[:: 1 << depth]
    above: list[Joint] = []
    for axis in cut.merges[depth : cut.paired]:
        block, at = _merged(block, axis, at, columns, wires, above)
    top = finished(block, cut.merges[cut.paired :], at, columns, tiles, wires, grounds)
    return Network(cut, tiles, top, above, chunks)


def _merged(
    block: Block, axis: str, first: Tensor, columns: int, wires: Wires, joints: list[Joint]
) -> tuple[Block, Tensor]:
    """Neighbours in pairs; ``first``: first column of each block."""
    near, far = (Block(block.matrix[i::2], block.outs, block.ins) for i in (0, 1))
    if axis == "c":  # no resistance beyond the last column
        ohms = wires.word_line * (first[1::2] < columns).to(block.matrix.dtype)
        whole, joint = join(near, "R", far, "L", ohms.view(-1, 1, 1), -1)
    else:
        whole, joint = join(near, "T", far, "B", wires.bit_line, 1)
    joints.append(joint)
    return whole, first[::2]


def _leaf(a: Tensor, b: Tensor, s: Tensor | None, first: Tensor, columns: int, wires: Wires) -> tuple[Block, Levels]:
    """Blocks of a few cells a side, (leaves, h, w), built cell by cell."""
    leaves, h, w = a.shape
    ports = tuple((name, 1) for name in "LRBT")
    ins = ports if s is None else (*ports, ("1", 1))
    matrix = a.new_zeros(w, leaves, h, 4, len(ins))
    a, b = a.movedim(2, 0), b.movedim(2, 0)
    matrix[..., 0, 0] = matrix[..., 2, 0] = a
    matrix[..., 0, 2] = matrix[..., 2, 2] = -b
    matrix[..., 0, 1] = matrix[..., 1, 0] = matrix[..., 2, 3] = matrix[..., 3, 2] = 1.0
    if s is not None:
        matrix[..., 0, 4] = matrix[..., 2, 4] = s.movedim(2, 0)
    each = [Block(column.flatten(0, 1), ports, ins) for column in matrix]
    levels = Levels([], [], [])
    strip = each[0]
    for column in range(1, w):
        ohms = wires.word_line * (first + column < columns).to(a.dtype)
        strip, joint = join(strip, "R", each[column], "L", ohms.repeat_interleave(h).view(-1, 1, 1), -1)
        levels.cells.append(joint)
    rows = strip.matrix.view(leaves, h, *strip.matrix.shape[1:])
    block = Block(rows[:, 0], strip.outs, strip.ins)
    for row in range(1, h):
        block, joint = join(block, "T", Block(rows[:, row], strip.outs, strip.ins), "B", wires.bit_line, 1)
        levels.strips.append(joint)
    return block, levels


def _parted(joint: Joint, inputs: Tensor) -> Tensor:
    """Inputs of merged pairs to those of the blocks, partners together."""
    return torch.stack(joint.inside(inputs), dim=1).flatten(0, 1)


def _cells(levels: Levels, inputs: Tensor) -> Tensor:
    """Inputs of blocks (n, ports, k) to those of their cells, (leaves, h, w, ports of a cell, k)."""
    for joint in reversed(levels.blocks):
        inputs = _parted(joint, inputs)
    strips: list[Tensor] = []
    for joint in reversed(levels.strips):
        inputs, upper = joint.inside(inputs)
        strips.append(upper)
    inputs = torch.stack([inputs, *reversed(strips)], dim=1)
    leaves, h = inputs.shape[:2]
    inputs, cells = inputs.flatten(0, 1), []
    for joint in reversed(levels.cells):
        inputs, right = joint.inside(inputs)
        cells.append(right)
    return torch.stack([inputs, *reversed(cells)], dim=1).unflatten(0, (leaves, h))
