"""A programmed column later in its life."""

from __future__ import annotations

from dataclasses import replace

from bitline.macro.column import Column
from bitline.macro.program import program


def age(column: Column, seconds: float, kelvin: float = 300.0) -> Column:
    """The column ``seconds`` after it was programmed, kept at ``kelvin``; the one given is not changed.

    The same cells on the same die, written by the same draws: drifted by their law, or what was measured at that age,
    each at its own rank; noisier where their noise ages, and compensated where the macro is. Raises ValueError where
    nothing in the macro's cells ages, before the drift law starts, or outside what was measured.
    """
    if column.seconds is not None:
        raise ValueError(f"this column is {column.seconds:g} s old already: age the column as it was programmed")
    later, layout = column.macro.aged(seconds, kelvin), column.layout
    written = program(column.wanted, later, column.chip, column.site, column.n, layout.groups, verified=column.verified)
    return replace(written, seconds=seconds)
