"""The summary and the mapping as tables for the terminal, and the rows as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bitline.compensate import Overhead
from bitline.cost import Cost
from bitline.cost.estimate import TERMS
from bitline.evaluate.budget import Priorities
from bitline.evaluate.gains import LayerGain
from bitline.evaluate.result import Result, Verification, write_atomic
from bitline.macro import Macro, describe
from bitline.nn import InputRange, Mapped
from bitline.units import si

_SCALARS = ("method", "macro", "condition", "mean", "p5", "worst", "target", "yield", "chips", "images", "steps")


def _cell(value: float | str | None, form: str = "") -> Text:
    """Text, not markup: a layer may be called ``blocks[0]``."""
    if value is None:
        return Text("–", style="dim")
    return Text(value if isinstance(value, str) else format(value, form))


def _named(result: Result) -> bool:
    """Whether methods carry the name of their macro already, as those of several macros side by side do."""
    return any(row.method.endswith(f", {row.macro}") for row in result.rows)


def summary_table(result: Result) -> Table:
    """Accuracy of every row: mean over the chips, its 95 % interval, 5th percentile, worst chip, yield."""
    target = next((row.target for row in result.rows if row.target is not None), None)
    caption = "accuracy in % · interval: 95 %, of the mean · p5: 5th percentile over chips"
    caption += f" · yield: % of chips at {target:g} % or above" if target is not None else ""
    caption += f" · {max((row.images for row in result.rows), default=0)} images"
    table = Table(title=Text(result.title), caption=Text(caption), title_justify="left", caption_justify="left")
    several = {
        "macro": len({row.macro for row in result.rows} - {"none"}) > 1 and not _named(result),
        "condition": any(row.condition != "nominal" for row in result.rows),
    }
    table.add_column("method", overflow="fold")
    for name in (name for name, wanted in several.items() if wanted):
        table.add_column(name, overflow="fold")
    for name in ("mean", "interval", "p5", "worst", "yield", "chips"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result.rows:
        table.add_row(
            Text(row.method, style="bold"),
            *(_cell(getattr(row, name)) for name, wanted in several.items() if wanted),
            _cell(row.mean, ".2f"),
            Text(f"{row.ci95[0]:.2f}–{row.ci95[1]:.2f}"),
            _cell(row.p5, ".2f"),
            _cell(row.worst, ".2f"),
            _cell(row.yield_, ".0f"),
            Text(str(row.chips)),
        )
    return table


def verification_tables(found: Verification) -> tuple[Table, Table]:
    """Accuracy on fresh dies, and error rates of the network's conversions by sum, side by side."""
    rows = Table(title=Text(f"{found.method}, verified on {found.circuit}"), title_justify="left")
    rows.add_column("on")
    for name in ("mean", "interval", "worst", "dies"):
        rows.add_column(name, justify="right", no_wrap=True)
    for row in found.rows:
        low, high = row.ci95
        rows.add_row(
            Text(row.method),
            _cell(row.mean, ".2f"),
            Text(f"{low:.2f}–{high:.2f}"),
            _cell(row.worst, ".2f"),
            str(row.chips),
        )
    caption = "above: % of codes that are not those of their sums · below: mean of code less ideal code, LSB"
    caption += " · network: as it ran on the behavioural model; the others: n conversions drawn from it"
    caption += " · residual: ngspice less the model of the same die, LSB rms"
    bands = Table(title=Text("Its conversions"), title_justify="left", caption=Text(caption), caption_justify="left")
    for name in ("sum", "share", "n", "network", "ngspice", "model", "table", "residual"):
        bands.add_column(name, justify="right")
    for band in found.bands:
        seen = [band.network, band.circuit, band.model, band.table]
        bands.add_row(
            f"{band.low} … {band.high}",
            f"{100 * band.share:.1f} %",
            str(band.n),
            *(_cell(None if each is None else f"{100 * each.rate:.1f}\n{each.error:+.2f}") for each in seen),
            _cell(band.residual, ".2f"),
        )
    return rows, bands


def priorities_table(found: Priorities) -> Table:
    """Curvature and errors of each layer, the share of its weights to verify, and its bits."""
    caption = "Tr H: of the mean loss, ± standard error · error: rms of a weight's error over the weights' rms"
    caption += f" · rise: of the loss by these errors · verify: % of its weights, {100 * found.share:g} % of all"
    caption += f" · bits: where {found.mean_bits:g} a weight are spent · {found.samples} samples"
    table = Table(title=Text(found.macro), title_justify="left", caption=Text(caption), caption_justify="left")
    table.add_column("layer", overflow="fold")
    for name in ("weights", "Tr H", "±", "Gauss-Newton", "error", "rise", "verify, %", "bits"):
        table.add_column(name, justify="right")
    for row in found.layers:
        table.add_row(
            Text(row.layer, style="bold"),
            _cell(row.weights, ","),
            _cell(row.trace, ".4g"),
            _cell(row.trace_error, ".2g"),
            _cell(row.gauss_newton, ".4g"),
            _cell(row.error, ".3f"),
            _cell(row.rise, ".3g"),
            _cell(100 * row.verify, ".1f"),
            _cell(row.bits),
        )
    return table


def gains_table(found: Iterable[LayerGain]) -> Table:
    """Spectral norms of layers, clean and on chips, beside what a suppression wants."""
    caption = "norm: largest singular value of the weights · + BN: with the batch norm behind it · λ: wanted"
    caption += " · chips: with the errors of a die"
    table = Table(caption=Text(caption), caption_justify="left")
    table.add_column("layer", overflow="fold")
    for name in ("out × in", "norm", "+ BN", "λ", "chips"):
        table.add_column(name, justify="right")
    for row in found:
        values = (row.norm, row.after_norm, row.wanted, row.on_chips)
        shape = "×".join(map(str, row.shape))
        table.add_row(Text(row.layer, style="bold"), shape, *(_cell(value, ".3f") for value in values))
    return table


def overheads_table(found: Iterable[Overhead]) -> Table:
    """What side paths store and multiply, and how much that is beside their layers."""
    table = Table()
    table.add_column("layer", overflow="fold")
    for name in ("parameters", "of the layer's, %", "MACs", "of the layer's, %"):
        table.add_column(name, justify="right")
    for row in found:
        shares = 100 * row.parameter_share, 100 * row.mac_share
        table.add_row(
            Text(row.layer, style="bold"),
            _cell(row.side_parameters, ","),
            _cell(shares[0], ".1f"),
            _cell(row.side_macs, ","),
            _cell(shares[1], ".1f"),
        )
    return table


def facts_table(macro: Macro) -> Table:
    """A macro in words and numbers with units."""
    table = Table(title=Text(macro.name), title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in describe(macro):
        if name != "macro":
            table.add_row(Text(name), Text(text))
    return table


def mapping_table(mapped: Iterable[Mapped]) -> Table:
    """Which layer went to which macro, how it fills its arrays, and why the others stayed digital."""
    table = Table()
    for name in ("layer", "kind", "macro", "plan"):
        table.add_column(name, overflow="fold")
    for name in ("tiles", "arrays", "cells used", "conversions"):
        table.add_column(name, justify="right")
    table.add_column("why", overflow="fold")
    for m in mapped:
        on = m.macro is not None
        table.add_row(
            Text(m.layer, style="bold"),
            _cell(m.kind),
            _cell(m.macro) if on else Text("digital", style="dim"),
            _cell(m.plan),
            _cell(m.tiles if on else None),
            _cell(m.arrays if on else None),
            _cell(m.utilisation if on else None, ".0%"),
            _cell(m.conversions or None, ","),
            _cell(m.why),
        )
    return table


def ranges_table(found: Iterable[InputRange]) -> Table:
    """Each layer's best range with two bounds and with one, beside its own: signal to quantisation noise, dB."""
    caption = "a range, and signal to quantisation noise in it, dB · clip: the share of the noise that is clipping, %"
    table = Table(caption=Text(caption), caption_justify="left")
    table.add_column("layer", overflow="fold", min_width=8)
    for name in ("bits", "best, two bounds", "best, one bound", "as it is", "clip"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        cells = [Text(one.layer), Text(str(one.bits))]
        for held in (one.two, one.one, one.own):
            if held is None:
                cells.append(_cell(None))
            else:
                low, high, noise = (float(v[held.best]) for v in (held.low, held.high, held.decibels))
                cells.append(Text(f"{low:.3g} … {high:.3g} {noise:5.1f}"))
        share = None if one.own is None else 100 * float(one.own.clipping[0] / one.own.total[0].clamp(min=1e-300))
        table.add_row(*cells, _cell(share, ".0f"))
    return table


def cost_tables(found: Cost, macro: str) -> tuple[Table, Table]:
    """The energy of an inference by term, a column for each ADC law; and each layer's work and energy."""
    technology = found.technology
    caption = f"of one sample · {technology.name}, a conversion in {si(technology.cycle, 's')}"
    caption += f" · not in it, not counted: {', '.join(found.absent)}" if found.absent else ""
    caption += " · 2 operations a MAC as encoded; 1-bit: input × weight bits; layers on the macro alone"
    terms = Table(title=Text(macro), title_justify="left", caption=Text(caption), caption_justify="left")
    terms.add_column("")
    for estimate in found.estimates:
        terms.add_column(Text(estimate.adc), justify="right", overflow="fold")
    shown = [estimate.energy for estimate in found.estimates]
    for term in TERMS:
        given = [getattr(energy, term) for energy in shown]
        terms.add_row(Text(term), *(_cell(None if joules is None else si(joules, "J", 3)) for joules in given))
    terms.add_row(Text("energy", style="bold"), *(_cell(si(energy.total, "J", 3)) for energy in shown))
    terms.add_row(Text("ADC's share"), *(_cell(f"{100 * energy.adc / energy.total:.1f} %") for energy in shown))
    terms.add_row(Text("TOPS/W"), *(_cell(each.tops_per_watt, ".4g") for each in found.estimates))
    terms.add_row(Text("1-bit TOPS/W"), *(_cell(each.one_bit_tops_per_watt, ".4g") for each in found.estimates))
    speed = f"{si(found.latency, 's', 3)}, {found.tops:.3g} TOPS, {found.one_bit_tops:.3g} 1-bit TOPS"
    if found.area is not None and found.tops_per_mm2 is not None:
        speed += f" · arrays {found.area * 1e6:.3g} mm², {found.tops_per_mm2:.3g} TOPS/mm²"
    optional: dict[str, list[float | None]] = {
        "skipped": [1 - one.activity.reads if one.activity else None for one in found.layers],
        "cells written": [one.cells_written or None for one in found.layers],
    }
    optional = {name: values for name, values in optional.items() if any(value is not None for value in values)}
    caption = (
        f"a sample: {speed} · conv.: conversions · sum: bits of the accumulator · energy: {found.estimates[0].adc}"
    )
    work = Table(caption=Text(caption), caption_justify="left")
    work.add_column("layer", overflow="fold")
    for name in ("MACs", "ADC", "conv.", "sum", *optional, "latency", "energy"):
        work.add_column(name, justify="right", no_wrap=True)
    for i, (one, energy, seconds) in enumerate(
        zip(found.layers, found.estimates[0].layers, found.seconds, strict=True)
    ):
        on = one.macro is not None
        work.add_row(
            Text(one.layer, style="bold"),
            _cell(si(one.macs, "", 3).strip()),
            _cell(f"{one.adc_bits} b") if on else Text("digital", style="dim"),
            _cell(si(one.conversions, "", 3).strip() if on else None),
            _cell(one.accumulator_bits if on else None),
            *(_cell(values[i], ".1%" if name == "skipped" else ",") for name, values in optional.items()),
            _cell(si(seconds, "s", 3) if on else None),
            _cell(si(energy.total, "J", 3)),
        )
    return terms, work


def write_csv(result: Result, path: Path | str) -> None:
    """Write the rows as CSV, one line a row, atomically: units as in ``result.json``, empty where there is no value.

    The accuracy of each single chip is only in ``result.json``.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_SCALARS[:4], "ci95_low", "ci95_high", *_SCALARS[4:]])
    for row in result.rows:
        values = row.model_dump(by_alias=True)
        writer.writerow([*(values[n] for n in _SCALARS[:4]), *row.ci95, *(values[n] for n in _SCALARS[4:])])
    write_atomic(Path(path), out.getvalue())
