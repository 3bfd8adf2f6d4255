"""What a search found: tables for the terminal, every setting as CSV, and accuracy against energy as a picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path

from markupsafe import Markup
from rich.text import Text

from bitline.cost import brief
from bitline.evaluate.result import By
from bitline.files import write_atomic
from bitline.report.charts import Axis
from bitline.report.svg import line, picture, text
from bitline.report.terminal import Table
from bitline.search import Candidate, Searched, Verified
from bitline.search.found import Stage
from bitline.search.setting import SHORT, value_of
from bitline.units import si

WIDTH, HEIGHT, LEFT, TOP, FOOT, GAP = 400, 300, 50, 60, 40, 30
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.grid{stroke:#ddd}"
    "polyline{fill:none;stroke:#0a5fb4;stroke-width:1.6}"
    ".mixed{fill:#0a5fb4}.same{fill:none;stroke:#b40;stroke-width:1.6}.own{fill:#222}.screened{opacity:.25}"
)


def search_table(found: Searched, law: str | None = None, by: By = "mean") -> Table:
    """Every setting tested, cheapest first under a law: accuracy, and energy saved under each law."""
    front = {one.name for one in found.front(law, by=by)}
    what = "conversions" if found.space.price == "adc" else "a sample"
    caption = f"{found.how} · accuracy in % · interval: 95 %, of the mean · p5: 5th percentile over chips"
    caption += f" · under each ADC law, %: saved of the energy of {what}, against the macro as it is · bold: the front"
    table = Table(caption=caption)
    table.words("setting")
    table.figures("mean", "interval", "p5", *map(brief, found.laws))
    for one in sorted(found.tested, key=lambda each: found.joules(each, law)):
        row = one.tested
        assert row is not None
        figures = [f"{row.mean:.2f}", f"{row.ci95[0]:.1f}–{row.ci95[1]:.1f}", f"{one.accuracy('tested', 'p5'):.2f}"]
        figures += [f"{100 * found.saved(one, each):.1f}" for each in found.laws]
        table.add_row(Text(one.name, style="bold" if one.name in front else ""), *map(Text, figures))
    return table


def setting_table(found: Searched, one: Candidate) -> Table:
    """A setting layer by layer, beside the baseline's."""
    table = Table(one.name, "in brackets: the macro as it is")
    table.words("layer")
    knobs = found.space.knobs
    for knob in knobs:
        if knob in SHORT:
            table.figures(f"{SHORT[knob]} bits")
        else:
            table.words("ADC range")
    for layer, setting in one.settings.items():
        cells = []
        for knob in knobs:
            mine, own = (value_of(knob, getattr(each, knob)) for each in (setting, found.baseline.settings[layer]))
            mine, own = (each.removeprefix(f"{SHORT.get(knob, '')} ") for each in (mine, own))
            cells.append(Text(mine if mine == own else f"{mine} ({own})", style="" if mine == own else "bold"))
        table.add_row(Text(layer), *cells)
    return table


def write_search_csv(found: Searched, path: Path | str) -> None:
    """Write every setting as CSV, atomically: accuracies in per cent, energies in J, a column for each layer."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    layers = list(found.baseline.settings)
    rows = ("mean", "ci95_low", "ci95_high", "p5", "worst", "chips", "images")
    heads = [f"{stage}_{name}" for stage in ("screened", "tested") for name in rows]
    energies = [f"{term}, J, {law}" for term in ("ADC", "total") for law in found.laws]
    writer.writerow(["setting", *heads, *energies, *layers])
    for one in found.candidates:
        cells: list[object] = [one.name]
        for row in (one.screened, one.tested):
            if row is None:
                cells += [None] * len(rows)
            else:
                cells += [row.mean, *row.ci95, row.p5, row.worst, row.chips, row.images]
        cells += [each[law] for each in (one.adc, one.total) for law in found.laws]
        writer.writerow([*cells, *(one.settings[layer].title for layer in layers)])
    write_atomic(Path(path), out.getvalue())


def search_picture(found: Searched, by: By = "mean") -> str:
    """Accuracy against energy, a panel for each law: settings with the same bits everywhere, others, their front."""
    across = min(2, len(found.laws))
    rows = -(-len(found.laws) // across)
    width, height = across * (WIDTH + GAP) + GAP, TOP + rows * (HEIGHT + GAP)
    told = "blue: bits layer by layer; ring: the same bits everywhere; black: baseline; pale: screened only"
    what = "ADC energy" if found.space.price == "adc" else "energy"
    parts: list[str] = [text(GAP, 22, "start", f"{found.title}: accuracy, %, by {what} of a sample")]
    parts.append(text(GAP, 40, "start", f"{told}; line: the front of those tested"))
    for i, law in enumerate(found.laws):
        parts += _panel(found, law, by, GAP + i % across * (WIDTH + GAP), TOP + i // across * (HEIGHT + GAP))
    return picture(width, height, f"Search: {found.title}", STYLE, parts)


def _panel(found: Searched, law: str, by: By, left: float, top: float) -> list[str]:
    floor = min(one.accuracy("tested", by) for one in found.tested) - 1
    shown = [(one, "screened", one.accuracy("screened", by)) for one in found.candidates if one.tested is None]
    shown = [each for each in shown if each[2] >= floor]
    shown += [(one, "tested", one.accuracy("tested", by)) for one in found.tested]
    along = Axis.around([math.log10(found.joules(one, law)) for one, _, _ in shown])
    up = Axis.around([accuracy for _, _, accuracy in shown])

    def x(joules: float) -> float:
        return round(left + LEFT + (WIDTH - LEFT) * along(math.log10(joules)) / 100, 1)

    def y(accuracy: float) -> float:
        return round(top + HEIGHT - FOOT - (HEIGHT - FOOT - 18) * up(accuracy) / 100, 1)

    parts: list[str] = [text(left + LEFT, top + 8, "start", law)]
    for value, label in up.ticks(5):
        parts.append(line("grid", left + LEFT, left + WIDTH, y(value), y(value)))
        parts.append(text(left + LEFT - 6, y(value) + 4, "end", label))
    parts += [text(x(joules), top + HEIGHT - FOOT + 18, "middle", si(joules, "J", 3)) for joules in _decades(along)]
    front = [(found.joules(one, law), one.accuracy("tested", by)) for one in found.front(law, by=by)]
    points = " ".join(f"{x(joules)},{y(accuracy)}" for joules, accuracy in front)
    parts.append(Markup('<polyline points="{}"/>').format(points))
    dot = Markup('<circle class="{}" cx="{}" cy="{}" r="3.6"><title>{}</title></circle>')
    for one, stage, accuracy in shown:
        kind = "own" if one == found.baseline else "same" if one.same else "mixed"
        told = f"{one.name}: {accuracy:.2f} %, {100 * found.saved(one, law):.1f} % saved"
        parts.append(dot.format(f"{kind} {stage}", x(found.joules(one, law)), y(accuracy), told))
    return parts


def _decades(axis: Axis) -> Iterable[float]:
    """Round energies on a logarithmic axis: 1, 2 and 5 of a decade, or decades alone where there are many.

    Two near its ends where it holds fewer than two of them.
    """
    powers = range(math.floor(axis.low), math.ceil(axis.high) + 1)
    marks = (1,) if axis.high - axis.low > 2 else (1, 2, 5)
    values = [mark * 10.0**power for power in powers for mark in marks]
    found = [value for value in values if axis.low <= math.log10(value) <= axis.high]
    if len(found) < 2:
        found = [10 ** (axis.low + share * (axis.high - axis.low)) for share in (0.1, 0.9)]
    return found


def verdict(found: Verified) -> str:
    """What the setting that was chosen has on images and dies that decided nothing."""
    own, chosen, pair = found.baseline, found.chosen, found.difference
    low, high = pair.ci95
    return (
        f"verified on {chosen.images} test images and {chosen.chips} dies that decided nothing: {chosen.method} "
        f"{chosen.told}, {own.method} {own.told}; {pair.mean:+.2f} points [{low:+.2f}, {high:+.2f}], paired"
    )


def sentence(found: Searched, one: Candidate, at_least: float, law: str | None, by: By, stage: Stage = "tested") -> str:
    """What the cheapest setting that holds an accuracy saves."""
    shares = "; ".join(f"{100 * found.saved(one, each):.1f} % by {brief(each)}" for each in found.laws)
    what = "mean" if by == "mean" else "5th percentile"
    return (
        f"{one.name} holds {at_least:.2f} % ({what} {one.accuracy(stage, by):.2f} %; the macro as it "
        f"is {found.baseline.accuracy(stage, by):.2f} %) where it was chosen, and saves of the energy: {shares}"
    )
