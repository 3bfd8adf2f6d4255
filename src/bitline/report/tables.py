"""The summary and the mapping as tables for the terminal, and the rows as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from rich.text import Text

from bitline.evaluate.budget import Priorities
from bitline.evaluate.result import Result, Verification
from bitline.files import write_atomic
from bitline.macro import Macro, describe
from bitline.nn import InputRange, Mapped
from bitline.report.terminal import Table
from bitline.units import si

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
    table = Table(result.title, caption)
    several = {
        "macro": len({row.macro for row in result.rows} - {"none"}) > 1 and not _named(result),
        "condition": any(row.condition != "nominal" for row in result.rows),
    }
    table.words("method")
    table.figures("mean", "interval", "p5", "worst", "yield", "chips")
    for row in result.rows:
        beside = "".join(f" · {getattr(row, name)}" for name, wanted in several.items() if wanted)
        table.add_row(
            Text.assemble((row.method, "bold"), beside),
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
    rows = Table(f"{found.method}, verified on {found.circuit}")
    rows.words("on")
    rows.figures("mean", "interval", "worst", "dies")
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
    bands = Table("Its conversions", caption)
    bands.figures("sum", "share", "n", "network", "ngspice", "model", "table", "residual")
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
    caption += " · GN: trace of the Gauss-Newton part · rise: of the loss by these errors"
    caption += f" · verify: % of its weights, {100 * found.share:g} % of all"
    caption += f" · bits: where {found.mean_bits:g} a weight are spent · {found.samples} samples"
    table = Table(found.macro, caption)
    table.words("layer")
    table.figures("weights", "Tr H", "±", "GN", "error", "rise", "verify", "bits")
    for row in found.layers:
        table.add_row(
            Text(row.layer, style="bold"),
            cell(si(row.weights, "", 3).strip()),
            cell(_brief(row.trace, ".3g")),
            cell(_brief(row.trace_error, ".1g")),
            cell(_brief(row.gauss_newton, ".3g")),
            cell(row.error, ".3f"),
            cell(None if row.rise is None else _brief(row.rise, ".2g")),
            cell(100 * row.verify, ".1f"),
            cell(row.bits),
        )
    return table


def _brief(value: float, form: str) -> str:
    """A number whose power of ten, if it has one, is as short as it can be."""
    return format(value, form).replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def facts_table(macro: Macro) -> Table:
    """A macro in words and numbers with units."""
    table = Table(macro.name, show_header=False)
    table.words("fact", "value")
    for name, text in describe(macro):
        if name != "macro":
            table.add_row(Text(name, style="bold"), Text(text))
    return table


def mapping_table(mapped: Iterable[Mapped]) -> Table:
    """Which layer went to which macro, how it fills its arrays, and below, by reason, why the others stayed digital."""
    found = list(mapped)
    macros = list(dict.fromkeys(m.macro for m in found if m.macro is not None))
    table = Table(
        macros[0] if len(macros) == 1 else "", " · ".join(["conv.: conversions of one sample", *_reasons(found)])
    )
    table.words("layer", "kind", *(["macro"] if len(macros) > 1 else ()), "plan")
    table.figures("tiles", "arrays", "cells used", "conv.")
    for m in found:
        on = m.macro is not None
        table.add_row(
            Text(m.layer, style="bold"),
            cell(m.kind),
            *([cell(m.macro)] if len(macros) > 1 else ()),
            cell(m.plan) if on else Text("digital", style="dim"),
            cell(m.tiles if on else None),
            cell(m.arrays if on else None),
            cell(m.utilisation if on else None, ".0%"),
            cell(m.conversions or None, ","),
        )
    return table


def _reasons(mapped: Iterable[Mapped], most: int = 3) -> list[str]:
    """Layers by why they are digital, or computed by their plan."""
    layers: dict[str, list[str]] = {}
    for m in mapped:
        if m.why:
            layers.setdefault(f"{'digital' if m.macro is None else m.plan}, {m.why}", []).append(m.layer)
    told = []
    for why, names in layers.items():
        more = f" and {len(names) - most} more" if len(names) > most else ""
        told.append(f"{why}: {', '.join(names[:most])}{more}")
    return told


def ranges_table(found: Iterable[InputRange]) -> Table:
    """Each layer's best range with two bounds and with one, beside its own: signal to quantisation noise, dB."""
    caption = "above: a range · below: signal to quantisation noise in it, dB"
    table = Table(caption=f"{caption} · clip: the share of the noise that is clipping, %")
    table.words("layer")
    table.figures("bits", "best, two bounds", "best, one bound", "as it is", "clip")
    for one in found:
        cells = [Text(one.layer, style="bold"), Text(str(one.bits))]
        for held in (one.two, one.one, one.own):
            if held is None:
                cells.append(cell(None))
            else:
                low, high, noise = (float(v[held.best]) for v in (held.low, held.high, held.decibels))
                cells.append(Text(f"{low:.3g} … {high:.3g}\n{noise:.1f}"))
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
