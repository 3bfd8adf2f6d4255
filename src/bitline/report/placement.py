"""A search for a placement, and directions shared out, as tables for the terminal."""

from __future__ import annotations

from rich.text import Text

from bitline.place import Directions, Placed
from bitline.report.tables import cell
from bitline.report.terminal import Table


def placement_table(found: Placed, most: int | None = None) -> Table:
    """What was tried, the best first and what is beyond the budget last; ``most``: so many of them."""
    space = found.space
    caption = f"of {space.size} placements {len(found.tried)} tried, by {found.searcher['kind']}"
    caption += f" · {100 * space.original:.1f} % without errors"
    caption += f" · budget: {100 * space.budget.share:g} % more {space.budget.of}"
    caption += " · reward: (mean − std) / original − penalty"
    caption += " · side paths: numbers stored, MACs and energy, in % of the network's"
    table = Table("Placements", caption)
    table.words("side paths")
    names = (
        "mean",
        "std",
        "reward",
        "numbers",
        "MACs",
        *(("energy",) if found.best.overhead.energy is not None else ()),
    )
    table.figures(*names, "budget")
    ranked = sorted(found.tried, key=lambda one: (not one.within, -one.reward))
    for one in ranked[:most]:
        share = one.overhead
        shares = (share.parameters, share.macs, share.energy)[: len(names) - 3]
        table.add_row(
            cell(" ".join(f"{layer}={size:g}" for layer, size in one.at.items()) or None),
            cell(one.mean, ".2f"),
            cell(one.std, ".2f"),
            cell(one.reward, ".4f"),
            *(cell(None if value is None else 100 * value, ".2f") for value in shares),
            Text("kept" if one.within else "beyond", style="" if one.within else "dim"),
            style="bold" if one == found.best else "",
        )
    return table


def directions_table(found: Directions) -> Table:
    """A row a layer: what its errors do to the answers, the directions it has in digital, and what is left."""
    caption = f"taken: {100 * found.used:.2f} % more {found.budget.of}, of {100 * found.budget.share:g} %"
    caption += " · felt: power of what a layer's errors alone, inputs centred, do to the answers, over theirs"
    caption += " · left: of the power beside the mean, what its array is still driven by"
    table = Table("Centred inputs", caption)
    table.words("layer")
    table.figures("channels", "felt, %", "directions", "power left, %", "felt with them, %", "taken, %")
    for row in found.layers:
        table.add_row(
            Text(row.layer, style="bold"),
            cell(row.channels, ","),
            cell(100 * row.felt, ".3f"),
            cell(row.directions, ","),
            cell(100 * row.left, ".1f"),
            cell(100 * row.felt * row.left, ".3f"),
            cell(100 * row.used, ".2f"),
        )
    return table
