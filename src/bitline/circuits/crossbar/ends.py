"""The last blocks of an array: drivers, senses and open ends put on them, and then they are merged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitline.circuits.crossbar.blocks import Block, Joint, Ports, join, spans
from bitline.circuits.crossbar.wires import Wires


@dataclass(frozen=True)
class Tree:
    """A block (one a tile), and what it was made of: two blocks, one with a port more, or a part of the grid."""

    block: Block
    joint: Joint | None = None
    parts: tuple[Tree, ...] = ()  # giver, taker
    place: int | None = None  # which of a tile's blocks

    def grid(self, inputs: Tensor) -> Tensor:
        """Inputs of the whole (tiles, n, k) to those of the blocks of the grid, (tiles · blocks, n, k)."""
        found: dict[int, Tensor] = {}
        self._descend(inputs, found)
        return torch.stack([found[place] for place in sorted(found)], dim=1).flatten(0, 1)

    def _descend(self, inputs: Tensor, found: dict[int, Tensor]) -> None:
        if self.place is not None:
            found[self.place] = inputs
        elif self.joint is not None:
            for part, inside in zip(self.parts, self.joint.inside(inputs), strict=True):
                part._descend(inside, found)
        elif self.parts:
            part = self.parts[0]
            full = inputs.new_zeros(len(inputs), part.block.matrix.shape[2], inputs.shape[2])
            mine = spans(self.block.ins)
            for name, at in spans(part.block.ins).items():
                if name in mine:
                    full[:, at] = inputs[:, mine[name]]
            part._descend(full, found)


def finished(block: Block, merges: str, first: Tensor, columns: int, tiles: int, wires: Wires, grounds: bool) -> Tree:
    """The whole arrays from the blocks left of each, of which ``merges`` are still to be done (one an axis at most).

    ``first``: first column of each block.
    """
    count = 1 << len(merges)
    matrix = block.matrix.view(tiles, count, *block.matrix.shape[1:])
    across, down = 1 << merges.count("c"), 1 << merges.count("r")
    rows: list[Tree] = []
    for r in range(down):
        row: Tree | None = None
        for c in range(across):
            bits = {"r": r, "c": c}
            place = sum(bits[axis] << i for i, axis in enumerate(merges))
            tree = Tree(Block(matrix[:, place], block.outs, block.ins), place=place)
            tree = _edges(tree, (r == 0, r == down - 1), (c == 0, c == across - 1), wires, grounds)
            ohms = wires.word_line if int(first[place]) < columns else 0.0
            row = tree if row is None else _joined(row, "R", tree, "L", ohms, -1)
        assert row is not None
        rows.append(row)
    whole = rows[0]
    for upper in rows[1:]:
        whole = _joined(whole, "T", upper, "B", wires.bit_line, 1)
    return whole


def _edges(tree: Tree, vertical: tuple[bool, bool], horizontal: tuple[bool, bool], wires: Wires, grounds: bool) -> Tree:
    """What stands at the lower and upper, left and right edge of a block, where that is an edge of the array."""
    if vertical[1]:
        tree = _opened(tree, "T")
    if horizontal[1]:
        tree = _opened(tree, "R") if wires.drive == "one_side" else _driven_right(tree, wires)
    if horizontal[0]:
        tree = _joined(_source(tree), "S", tree, "L", wires.word_line + wires.driver, -1)
    if vertical[0]:
        tree = _joined(_sense(tree, grounds), "S", tree, "B", wires.bit_line + wires.sense, 1)
    return tree


def _joined(giver: Tree, gives: str, taker: Tree, takes: str, ohms: float, downstream: int) -> Tree:
    block, joint = join(giver.block, gives, taker.block, takes, ohms, downstream)
    return Tree(block, joint, (giver, taker))


def _opened(tree: Tree, port: str) -> Tree:
    return Tree(tree.block.without(port), None, (tree,))


def _lines(tree: Tree, port: str) -> tuple[Tensor, int]:
    """(identity, one a tile; lines) of a port."""
    size = dict(tree.block.ins)[port]
    m = tree.block.matrix
    return torch.eye(size, dtype=m.dtype, device=m.device).expand(len(m), size, size), size


def _source(tree: Tree) -> Tree:
    """A voltage source for each word line."""
    eye, size = _lines(tree, "L")
    return Tree(Block(torch.cat([eye, 0 * eye], dim=-1), (("S", size),), (("V", size), ("S", size))))


def _sense(tree: Tree, grounds: bool) -> Tree:
    """A virtual ground for each bit line, whose current is what is sensed."""
    eye, size = _lines(tree, "B")
    matrix = torch.cat([eye, 0 * eye], dim=-2)
    ins: Ports = (("S", size),)
    if grounds:
        matrix, ins = torch.cat([torch.cat([0 * eye, eye], dim=-2), matrix], dim=-1), (("U", size), *ins)
    return Tree(Block(matrix, (("I", size), ("S", size)), ins))


def _driven_right(tree: Tree, wires: Wires) -> Tree:
    """The drivers of the other side; with no resistance at all, both would be one (see ``solve.reduced``)."""
    eye, size = _lines(tree, "R")
    each = eye / (wires.word_line + wires.driver)
    end = Tree(Block(torch.cat([-each, each], dim=-1), (("S", size),), (("W", size), ("S", size))))
    return _joined(tree, "R", end, "S", 0.0, -1)
