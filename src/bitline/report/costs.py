"""What an inference costs, and what side paths add to it, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from bitline.compensate import Overhead
from bitline.cost import Cost, SideCost
from bitline.cost.estimate import TERMS
from bitline.report.contents import spread
from bitline.report.tables import cell
from bitline.report.terminal import Table
from bitline.units import si


def overheads_table(found: Iterable[Overhead]) -> Table:
    """What side paths store, multiply and, of ``SideCost``, spend, and how much that is beside their layers."""
    rows = list(found)
    last = rows[-1] if rows else None
    priced = last if isinstance(last, SideCost) else None
    laws = list(priced.against) if priced is not None and priced.joules is not None else []
    caption = (
        "side paths: numbers stored, and of one sample · shares: beside the layer's own, last beside the network's"
    )
    caption += f" · of energy: least … most of {'; '.join(laws)}" if laws else ""
    caption += f" · no share of energy: {priced.why}" if priced is not None and priced.why else ""
    table = Table(caption=caption)
    table.words("layer")
    table.figures("numbers", "share, %", "MACs", "share, %")
    table.figures(*(("energy",) if priced else ()), *(("share, %",) if laws else ()))
    for row in rows:
        shares = 100 * row.parameter_share, 100 * row.mac_share
        energy = [cell(None if row.joules is None else si(row.joules, "J", 3))] if isinstance(row, SideCost) else []
        table.add_row(
            Text(row.layer, style="bold"),
            cell(row.side_parameters, ","),
            cell(shares[0], ".1f"),
            cell(si(row.side_macs, "", 3).strip()),
            cell(shares[1], ".1f"),
            *energy,
            *([cell(spread(row.energy_shares.values()))] if laws and isinstance(row, SideCost) else ()),
        )
    return table


def cost_tables(found: Cost, macro: str) -> tuple[Table, Table]:
    """The energy of an inference by term, a column for each ADC law; and each layer's work and energy."""
    technology = found.technology
    caption = f"of one sample · {technology.name}, a conversion in {si(technology.cycle, 's')}"
    caption += f" · not in it, not counted: {', '.join(found.absent)}" if found.absent else ""
    caption += " · 2 operations a MAC as encoded; 1-bit: input × weight bits; TOPS/W: of layers on the macro alone; "
    caption += "network: operations of all its layers, over all its energy"
    terms = Table(macro, caption)
    terms.words("")
    terms.figures(*(estimate.adc for estimate in found.estimates))
    shown = [estimate.energy for estimate in found.estimates]
    for term in TERMS:
        given = [getattr(energy, term) for energy in shown]
        terms.add_row(Text(term), *(cell(None if joules is None else si(joules, "J", 3)) for joules in given))
    terms.add_row(Text("energy", style="bold"), *(cell(si(energy.total, "J", 3)) for energy in shown))
    beside = [one.beside is not None for one in found.layers]
    if any(beside):
        paths = [
            sum(energy.total for energy, side in zip(each.layers, beside, strict=True) if side)
            for each in found.estimates
        ]
        terms.add_row(Text("of it side paths"), *(cell(si(joules, "J", 3)) for joules in paths))
    terms.add_row(Text("ADC's share"), *(cell(f"{100 * energy.adc / energy.total:.1f} %") for energy in shown))
    terms.add_row(Text("TOPS/W"), *(cell(each.tops_per_watt, ".4g") for each in found.estimates))
    terms.add_row(Text("1-bit TOPS/W"), *(cell(each.one_bit_tops_per_watt, ".4g") for each in found.estimates))
    terms.add_row(Text("TOPS/W, network"), *(cell(each.network_tops_per_watt, ".4g") for each in found.estimates))
    speed = f"{si(found.latency, 's', 3)}, {found.tops:.3g} TOPS, {found.one_bit_tops:.3g} 1-bit TOPS"
    if found.area is not None and found.tops_per_mm2 is not None:
        speed += f" · arrays {found.area * 1e6:.3g} mm², {found.tops_per_mm2:.3g} TOPS/mm²"
    speed += f" · not counted: {', '.join(found.uncounted)}" if found.uncounted else ""
    optional: dict[str, list[float | None]] = {
        "skipped": [1 - one.activity.reads if one.activity else None for one in found.layers],
        "cells written": [one.cells_written or None for one in found.layers],
    }
    optional = {name: values for name, values in optional.items() if any(value is not None for value in values)}
    caption = (
        f"a sample: {speed} · conv.: conversions · sum: bits of the accumulator · energy: {found.estimates[0].adc}"
    )
    work = Table(caption=caption)
    work.words("layer")
    work.figures("MACs", "ADC", "conv.", "sum", *optional, "latency", "energy")
    for i, (one, energy, seconds) in enumerate(
        zip(found.layers, found.estimates[0].layers, found.seconds, strict=True)
    ):
        on = one.macro is not None
        work.add_row(
            Text(one.layer, style="bold") if one.beside is None else Text("  side path"),
            cell(si(one.macs, "", 3).strip()),
            cell(f"{one.adc_bits} b") if on else Text("digital", style="dim"),
            cell(si(one.conversions, "", 3).strip() if on else None),
            cell(one.accumulator_bits if on else None),
            *(cell(values[i], ".1%" if name == "skipped" else ",") for name, values in optional.items()),
            cell(si(seconds, "s", 3) if on else None),
            cell(si(energy.total, "J", 3)),
        )
    return terms, work
