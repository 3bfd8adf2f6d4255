"""A board's digital side as hardware: its SystemVerilog, and the tables that make it the board of one macro."""

from __future__ import annotations

import json
import shutil
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from bitline.encode import UnsignedInput
from bitline.files import write_atomic
from bitline.lab.board import Board
from bitline.lab.commands import IDENTIFY, Request
from bitline.lab.instrument import Identity, Instrument
from bitline.macro import Chip, Macro, causes
from bitline.macro.kinds import CurveColumn

WIDEST = 1 << 16  # rows, columns and codes that 16 bits count


def write_rtl(
    macro: Macro, folder: Path, chip: Chip | None = None, *, low: float = 0.0, step: float = 1.0, most: int = 4096
) -> dict[str, int]:
    """Write the sources and the tables they read to ``folder``; returns the parameters of ``board`` and ``bench``.

    ``identity.hex`` is the answer to `identify`, in words; the hardware reads no cells back and says so. ``table.hex``,
    for the model of the columns, holds the die's code for each sum, lane after lane, with the converters' range at
    ``low`` and ``step`` (counts). ``most``: bytes of the largest payload. ``parameters.json`` holds what is returned.

    Raises ValueError for a macro that the hardware cannot be, naming what it would take.
    """
    board = Board(macro, chip, verifies=False)
    instrument = Instrument(board)
    identity = instrument.identity
    _fits(macro, identity)
    needs = (28 + 2 * macro.rows, 20 + macro.columns, 64 + 4 * identity.passes * identity.lanes, 1024)
    least = -(-max(needs) // 4) * 4  # a vector, a row of cells, the codes of a vector; what any host takes
    if most < least or most % 4:
        raise ValueError(f"most = {most}: payloads of {macro.name} take {least} bytes or more, a multiple of 4")
    instrument.configure(0, low, step)
    instrument.program(0, np.ones((macro.rows, macro.columns), dtype=np.uint8))
    codes = instrument.read(0, 0, np.tri(macro.rows + 1, macro.rows, -1).astype(int), "digits")[:, 0]  # sums × lanes
    reply = next(iter(board.calls([Request(IDENTIFY, {})])))
    answer = IDENTIFY.answers.pack(reply.values, reply.data)
    words = np.frombuffer(answer + bytes(-len(answer) % 4), dtype="<u4")
    parameters = {"ROWS": macro.rows, "COLUMNS": macro.columns, "LANES": identity.lanes, "PASSES": identity.passes}
    parameters |= {"MOST": most, "IDENTITY_BYTES": len(answer)}
    folder.mkdir(parents=True, exist_ok=True)
    with as_file(files("bitline.lab") / "rtl") as sources:
        for source in sources.glob("*.sv*"):
            shutil.copyfile(source, folder / source.name)
    write_atomic(folder / "table.hex", "".join(f"{code:04x}\n" for code in codes.T.flatten()))
    write_atomic(folder / "identity.hex", "".join(f"{word:08x}\n" for word in words))
    write_atomic(folder / "parameters.json", json.dumps(parameters, indent=1) + "\n")
    return parameters


def _fits(macro: Macro, identity: Identity) -> None:
    """Raise ValueError naming the first thing that the hardware, or the model of its columns, cannot be."""
    inputs, column = macro.inputs, macro.column
    extents = (macro.rows, macro.columns, identity.codes - 1)
    serial = isinstance(inputs, UnsignedInput) and inputs.digit_bits == 1
    more = sorted({"noise", "wires", "table"}.intersection(causes(macro)))
    more += [name for name in ("cell", "driver") if getattr(macro, name) is not None]
    more += ["pattern"] if isinstance(column, CurveColumn) and column.pattern is not None else []
    for good, has, taken in (
        (serial, f"{inputs!r}", "unsigned inputs with digit_bits = 1"),
        (identity.level_high == 1, f"cells of levels 0 … {identity.level_high}", "0 and 1"),
        (identity.legs == 1, f"{identity.legs} columns a conversion", "1, as of twos_complement weights"),
        (macro.on == macro.rows, f"active_rows = {macro.on} of {macro.rows}", "all rows at once"),
        (max(extents) < WIDEST, f"rows, columns, largest code {extents}", f"up to {WIDEST - 1} of each"),
        (not more, ", ".join(more), "columns whose code follows from the sum alone"),
    ):
        if not good:
            raise ValueError(f"macro {macro.name} has {has}; the hardware takes {taken}")
