"""Blocks of an array seen from their ports, and how two of them become one.

A block of h rows and w columns has four ports. Its inputs are the voltages at the left ends of its word lines (L, h)
and at the lower ends of its bit lines (B, w), and the currents that leave its word lines at the right (R, h) and enter
its bit lines at the top (T, w). Its outputs are what belongs to each: currents in at L, voltages at R, currents out at
B, voltages at T. So chosen, no entry grows without bound as a wire loses its resistance, and a resistance of 0 is
exact: a single cell has the entries 0, 1 and ±g, and two blocks meet by one well-conditioned system, the identity
where their wires have no resistance. (A nodal admittance holds 1/r beside g and loses log10(1/rg) digits to it.)

The input "1" is a constant: what currents injected inside a block add to its outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

Ports = tuple[tuple[str, int], ...]  # name and number of lines, in the order in which they lie
ORDER = "LRBTVWUI1"  # V, W: what left and right drivers apply; U: the voltage at a virtual ground; I: what is sensed
Piece = tuple[slice, slice]  # where a port's lines lie in a part, and in the whole


@dataclass(frozen=True)
class Block:
    """Outputs = matrix · inputs, (blocks, outputs, inputs): rows as in ``outs``, columns as in ``ins``."""

    matrix: Tensor
    outs: Ports
    ins: Ports

    def without(self, port: str) -> Block:
        """The block with a port left open: no current there, and nobody asks for its voltage."""
        kept = [
            torch.cat([torch.arange(s.start, s.stop) for name, s in spans(ports).items() if name != port])
            for ports in (self.outs, self.ins)
        ]
        rows, columns = (index.to(self.matrix.device) for index in kept)
        outs, ins = (tuple(p for p in ports if p[0] != port) for ports in (self.outs, self.ins))
        return Block(self.matrix[:, rows[:, None], columns], outs, ins)

    def columns(self, port: str) -> Tensor:
        """What one input does, (blocks, outputs, lines)."""
        return self.matrix[:, :, spans(self.ins)[port]]


@dataclass(frozen=True)
class Joint:
    """What is inside a block made of two: current and voltage where they meet, (blocks, lines, inputs)."""

    plan: Plan
    current: Tensor
    voltage: Tensor  # at the taker

    def inside(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (blocks, n, k) of the whole to those of (giver, taker)."""
        lines = (self.current @ inputs, self.voltage @ inputs)
        parts = []
        for size, at, columns, line in zip(self.plan.sizes, self.plan.at, self.plan.columns, lines, strict=True):
            part = inputs.new_empty(len(inputs), size, inputs.shape[2])
            part[:, at] = line
            for here, there in columns:
                part[:, here] = inputs[:, there]
            parts.append(part)
        return parts[0], parts[1]


@dataclass(frozen=True)
class Plan:
    """Where the lines of two blocks lie in the block made of both; pairs are of (giver, taker)."""

    lines: tuple[slice, slice]  # rows of the ports that meet
    at: tuple[slice, slice]  # columns of the ports that meet
    rows: tuple[tuple[Piece, ...], tuple[Piece, ...]]
    columns: tuple[tuple[Piece, ...], tuple[Piece, ...]]
    sizes: tuple[int, int]  # inputs of each
    outs: Ports
    ins: Ports


def spans(ports: Ports) -> dict[str, slice]:
    """Where each port's lines lie."""
    found, start = {}, 0
    for name, size in ports:
        found[name] = slice(start, start + size)
        start += size
    return found


@lru_cache(maxsize=1024)
def _plan(p_outs: Ports, p_ins: Ports, gives: str, q_outs: Ports, q_ins: Ports, takes: str) -> Plan:
    def merged(p: Ports, q: Ports) -> tuple[tuple[tuple[Piece, ...], tuple[Piece, ...]], Ports]:
        parts = [(spans(p), gives), (spans(q), takes)]
        pieces: tuple[list[Piece], list[Piece]] = ([], [])
        ports, start = [], 0
        for name in ORDER:
            first = start
            for mine, (where, used) in zip(pieces, parts, strict=True):
                if name in where and name != used:
                    size = where[name].stop - where[name].start
                    begin = first if name == "1" else start  # constants add up
                    mine.append((where[name], slice(begin, begin + size)))
                    start = begin + size
            if start > first:
                ports.append((name, start - first))
        return (tuple(pieces[0]), tuple(pieces[1])), tuple(ports)

    rows, outs = merged(p_outs, q_outs)
    columns, ins = merged(p_ins, q_ins)
    sizes = (sum(size for _, size in p_ins), sum(size for _, size in q_ins))
    lines = (spans(p_outs)[gives], spans(q_outs)[takes])
    return Plan(lines, (spans(p_ins)[gives], spans(q_ins)[takes]), rows, columns, sizes, outs, ins)


def join(
    giver: Block, gives: str, taker: Block, takes: str, ohms: float | Tensor, downstream: int
) -> tuple[Block, Joint]:
    """Two blocks as one, line by line of ``giver``'s port ``gives`` (voltage for a current) and ``taker``'s ``takes``.

    ``ohms`` lies between them, a number or one a block, (blocks, 1, 1): the taker's voltage is the giver's +
    downstream · ohms · current, +1 where the current flows towards the giver and -1 where it leaves it.
    """
    plan = _plan(giver.outs, giver.ins, gives, taker.outs, taker.ins, takes)
    p, q = giver.matrix, taker.matrix
    (p_lines, q_lines), (p_at, q_at) = plan.lines, plan.at
    own, reach = p[:, p_lines], q[:, q_lines, q_at]
    through = reach @ own
    total, count = sum(size for _, size in plan.ins), p_lines.stop - p_lines.start
    right = p.new_zeros(len(p), count, total)
    for part, pieces in zip((through, q[:, q_lines]), plan.columns, strict=True):
        for here, there in pieces:
            right[:, :, there] += part[:, :, here]
    eye = torch.eye(count, dtype=p.dtype, device=p.device)
    drop = own[:, :, p_at] + downstream * ohms * eye
    system = eye - through[:, :, p_at] - downstream * ohms * reach
    current = right / system if count == 1 else torch.linalg.inv(system) @ right
    voltage = drop @ current
    for here, there in plan.columns[0]:
        voltage[:, :, there] += own[:, :, here]
    matrix = p.new_empty(len(p), sum(size for _, size in plan.outs), total)
    for k, (part, at, inner) in enumerate(((p, p_at, current), (q, q_at, voltage))):
        for here, there in plan.rows[k]:
            matrix[:, there] = part[:, here, at] @ inner
            for column, place in plan.columns[k]:
                matrix[:, there, place] += part[:, here, column]
    return Block(matrix, plan.outs, plan.ins), Joint(plan, current, voltage)
