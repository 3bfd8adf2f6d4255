"""A programmed column later in its life."""

from __future__ import annotations

from dataclasses import replace

from bitline.macro.chip import Effect
from bitline.macro.column import Column
from bitline.macro.program import combined, fixed_point, program
from bitline.macro.wired import wired


def age(column: Column, seconds: float, kelvin: float = 300.0) -> Column:
    """The column ``seconds`` after it was programmed, kept at ``kelvin``; the one given is not changed.

    Measured cells hold what was measured at that age, each at its own rank. Raises ValueError where the macro's cells
    have neither a drift law nor measured ages, before the law starts, or outside what was measured.
    """
    macro = column.macro
    if column.seconds is not None:
        raise ValueError(f"this column is {column.seconds:g} s old already: age the column as it was programmed")
    if macro.cell is not None and macro.cell.measured:
        later = macro.model_copy(update={"cell": macro.cell.aged(seconds, kelvin)})
        written = program(column.wanted, later, column.chip, column.site, column.n, column.layout.groups)
        return replace(written, seconds=seconds)
    if macro.cell is None or macro.cell.drift is None or column.cells is None:
        raise ValueError(
            f"macro {macro.name}: its cells have no drift law; describe cell.drift, or measured cells, to age them"
        )
    address = column.layout.cells_of(column.site).to(column.cells.device)
    exponents = Effect(column.chip.stream("cell drift", column.site.where), address)
    levels = column.cells.double() * column.unit if column.held is None else column.held
    held = macro.cell.drift.apply(levels, exponents, seconds, kelvin)
    cells, unit = fixed_point(held if column.held is None else wired(held, macro, column.layout), macro)
    read = combined(cells, unit, macro, column.layout, column.spread).to(column.weight.dtype)
    weight = column.weight + (read - column.weight).detach()
    return replace(column, cells=cells, unit=unit, weight=weight, seconds=seconds)
