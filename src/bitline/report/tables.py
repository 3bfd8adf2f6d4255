"""The summary and the mapping as tables for the terminal, and the rows as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bitline.evaluate.budget import Priorities
from bitline.evaluate.result import Result, Verification
from bitline.files import write_atomic
from bitline.macro import Macro, describe
from bitline.nn import InputRange, Mapped

_SCALARS = ("method", "macro", "condition", "mean", "p5", "worst", "target", "yield", "chips", "images", "steps")


def cell(value: float | str | None, form: str = "") -> Text:
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
            *(cell(getattr(row, name)) for name, wanted in several.items() if wanted),
            cell(row.mean, ".2f"),
            Text(f"{row.ci95[0]:.2f}–{row.ci95[1]:.2f}"),
            cell(row.p5, ".2f"),
            cell(row.worst, ".2f"),
            cell(row.yield_, ".0f"),
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
            cell(row.mean, ".2f"),
            Text(f"{low:.2f}–{high:.2f}"),
            cell(row.worst, ".2f"),
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
            *(cell(None if each is None else f"{100 * each.rate:.1f}\n{each.error:+.2f}") for each in seen),
            cell(band.residual, ".2f"),
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
            cell(row.weights, ","),
            cell(row.trace, ".4g"),
            cell(row.trace_error, ".2g"),
            cell(row.gauss_newton, ".4g"),
            cell(row.error, ".3f"),
            cell(row.rise, ".3g"),
            cell(100 * row.verify, ".1f"),
            cell(row.bits),
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
            cell(m.kind),
            cell(m.macro) if on else Text("digital", style="dim"),
            cell(m.plan),
            cell(m.tiles if on else None),
            cell(m.arrays if on else None),
            cell(m.utilisation if on else None, ".0%"),
            cell(m.conversions or None, ","),
            cell(m.why),
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
                cells.append(cell(None))
            else:
                low, high, noise = (float(v[held.best]) for v in (held.low, held.high, held.decibels))
                cells.append(Text(f"{low:.3g} … {high:.3g} {noise:5.1f}"))
        share = None if one.own is None else 100 * float(one.own.clipping[0] / one.own.total[0].clamp(min=1e-300))
        table.add_row(*cells, cell(share, ".0f"))
    return table


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
