"""A programmed array as a SPICE netlist, wires and all."""

from __future__ import annotations

import torch

from bitline.circuits.crossbar import netlist
from bitline.macro.chip import Chip
from bitline.macro.column import Column
from bitline.macro.macro import Macro
from bitline.macro.placement import Site
from bitline.macro.program import program
from bitline.macro.wired import Arrays


def array_netlist(column: Column, array: int = 0, volts: float = 1.0) -> str:
    """The ``array``-th array of a layer, every row driven with ``volts``, for ngspice.

    Arrays are numbered by group, then by tile of inputs, then by block of outputs. Raises ValueError where the layer
    has no such array, or its macro no wires.
    """
    macro, layout = column.macro, column.layout
    if macro.wires is None or column.held is None:
        raise ValueError(f"macro {macro.name} has no wires: describe `wires`, the resistances of its lines")
    if not 0 <= array < layout.arrays:
        raise ValueError(f"{column.site.name} has no array {array}; it has 0 … {layout.arrays - 1}")
    conductances = Arrays(macro, layout).conductances(column.held)[array].cpu()
    sources = torch.full((layout.rows,), volts, dtype=torch.float64)
    return netlist(conductances, macro.wires, sources, f"{macro.name}, {column.site.name}, array {array}")


def filled(macro: Macro, seed: int = 0) -> Column:
    """One array of a macro, every output in use, with random weights; raises ValueError for continuous weights."""
    scheme = macro.weights
    if scheme is None:
        raise ValueError(f"macro {macro.name} has continuous weights, which are in no cells")
    outputs = macro.layout(macro.rows, 1).per_array
    steps = torch.randint(
        0,
        (scheme.high - scheme.low) // scheme.stride + 1,
        (outputs, macro.rows),
        generator=torch.Generator().manual_seed(seed),
    )
    return program(steps.float() * scheme.stride + scheme.low, macro, Chip(seed, 0), Site("random weights"))
