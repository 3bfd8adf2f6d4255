"""A programmed array as a SPICE netlist, wires and all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bitline.circuits.crossbar import netlist
from bitline.circuits.spice.template import QUANTITIES
from bitline.macro.chip import Chip
from bitline.macro.column import Column
from bitline.macro.macro import Macro
from bitline.macro.placement import Site
from bitline.macro.program import program
from bitline.macro.wired import Arrays


def array_netlist(column: Column, array: int = 0, volts: float | Float[Tensor, " R"] = 1.0) -> str:
    """The ``array``-th array of a layer, every row driven with ``volts`` or each with its own, for ngspice.

    Arrays are numbered by group, then by tile of inputs, then by block of outputs. Raises ValueError where the layer
    has no such array, its macro no wires, or the array another number of rows.
    """
    macro, layout = column.macro, column.layout
    if macro.wires is None or column.held is None:
        raise ValueError(f"macro {macro.name} has no wires: describe `wires`, the resistances of its lines")
    if not 0 <= array < layout.arrays:
        raise ValueError(f"{column.site.name} has no array {array}; it has 0 … {layout.arrays - 1}")
    conductances = Arrays(macro, layout).conductances(column.held)[array].cpu()
    each = torch.as_tensor(volts, dtype=torch.float64)
    sources = each.expand(layout.rows) if each.dim() == 0 else each
    if len(sources) != layout.rows:
        raise ValueError(f"{column.site.name}: {len(sources)} row voltages for an array of {layout.rows} rows")
    return netlist(conductances, macro.wires, sources, f"{macro.name}, {column.site.name}, array {array}")


def row_volts(said: str) -> float | Float[Tensor, " R"]:
    """A voltage in words, such as ``200 mV``, or one a row (V) from a `.csv` or `.npy` file.

    Raises ValueError that names what is wrong in it, or FileNotFoundError.
    """
    path = Path(said)
    if path.suffix not in (".csv", ".npy"):
        try:
            return QUANTITIES["V"].parse(said)
        except ValueError as error:
            raise ValueError(f"{error}; or a .csv or .npy file of one a row") from None
    try:
        values = np.load(path) if path.suffix == ".npy" else np.loadtxt(path, delimiter=",", ndmin=1)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; expected volts, one a row") from None
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise ValueError(f"{path} holds {values.dtype} of shape {values.shape}; expected volts, one a row")
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"{path}, row {row}: {values[row]} is not finite; expected volts, one a row")
    return torch.from_numpy(values.astype(np.float64))


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
