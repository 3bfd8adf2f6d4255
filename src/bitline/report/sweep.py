"""The page and the table of a sweep: curves of every method on the same chips, layer by layer, and all numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from bitline.evaluate.result import Row
from bitline.evaluate.swept import IDEAL, Over, Point, Sweep, told
from bitline.files import write_atomic
from bitline.report import curves
from bitline.report.charts import Axis
from bitline.report.contents import Column, Table, number
from bitline.report.curves import Curve, Places
from bitline.report.html import render

MOST_LAYERS = 12


class Panel(NamedTuple):
    """A chart of the points that differ in the first key alone, and what the other keys are there."""

    caption: str
    chart: Markup


class Figure(NamedTuple):
    """Panels on the same axes."""

    panels: list[Panel]
    ticks: Markup
    places: Markup
    scale: str


class Cell(NamedTuple):
    """Points lost where one layer alone meets chips, and how dark that is, 0 … 10."""

    text: str
    shade: int


class Layers(NamedTuple):
    """What each layer of a method loses at each value."""

    method: str
    caption: str
    values: tuple[str, ...]
    rows: list[tuple[str, list[Cell]]]


def _main(sweep: Sweep) -> Over:
    """The key along x: the one with the most values."""
    return max(sweep.over, key=lambda each: len(each.values))


def _panels(sweep: Sweep) -> dict[str, list[Point]]:
    """Points by the settings of all keys but the main one, in the order of its values."""
    found: dict[str, list[Point]] = {}
    for point in sweep.points:
        rest = {key: value for key, value in point.settings.items() if key != _main(sweep).key}
        found.setdefault(told(rest), []).append(point)
    return found


def _row(point: Point, method: str) -> Row | None:
    return next((row for row in point.rows if row.method == method), None)


def _lines(sweep: Sweep, points: Sequence[Point], read: Callable[[Row], float | None], bands: bool) -> list[Curve]:
    """A curve a method; the float network's and the ideal macro's are there to compare with."""
    flat = [Curve(row.method, "float", [row.mean] * len(points)) for row in sweep.float_rows]
    flat.append(Curve(IDEAL, "ideal", [row.mean if (row := _row(p, IDEAL)) else None for p in points]))
    made = []
    for i, method in enumerate(sweep.methods):
        rows = [_row(point, method) for point in points]
        means = [None if row is None else read(row) for row in rows]
        made.append(Curve(method, curves.kind(i), means, [row.ci95 if row else None for row in rows] if bands else ()))
    return [*flat, *made]


def figure(sweep: Sweep, read: Callable[[Row], float | None], bands: bool, what: str) -> Figure:
    """A panel for every setting of the other keys, all on the same axes."""
    places = Places.of(_main(sweep).values)
    drawn = {caption: _lines(sweep, points, read, bands) for caption, points in _panels(sweep).items()}
    values = [mean for lines in drawn.values() for line in lines for mean in line.means if mean is not None]
    values += [end for lines in drawn.values() for line in lines for band in line.bands if band for end in band]
    axis = Axis.around(values)
    panels = [
        Panel(caption, curves.chart(lines, places, axis, f"{what} by {_main(sweep).key}; {caption or 'all points'}"))
        for caption, lines in drawn.items()
    ]
    return Figure(panels, curves.ticks(axis), places.picture(), places.scale)


def lowest(row: Row) -> float:
    """The 5th percentile over chips, or the worst chip where there are too few for one."""
    return row.reached("p5")


def _losses(sweep: Sweep) -> list[Layers]:
    """The layers that lose most first; one table a method and panel."""
    most = max((each.loss for point in sweep.points for each in point.sensitivity), default=0.0)
    made = []
    for caption, points in _panels(sweep).items():
        for method in dict.fromkeys(each.method for point in points for each in point.sensitivity):
            table: dict[str, list[float | None]] = {}
            for i, point in enumerate(points):
                for each in point.sensitivity:
                    if each.method == method:
                        table.setdefault(each.layer, [None] * len(points))[i] = each.loss
            order = sorted(table, key=lambda name: -max(v for v in table[name] if v is not None))
            rows = [(name, [_cell(loss, most) for loss in table[name]]) for name in order]
            made.append(Layers(method, caption, tuple(map(curves.label, _main(sweep).values)), rows))
    return made


def _cell(loss: float | None, most: float) -> Cell:
    if loss is None:
        return Cell("–", 0)
    return Cell(number(loss, 1), round(10 * max(0.0, loss) / max(most, 1.0)))


def _numbers(sweep: Sweep) -> dict[str, Table]:
    """All rows, a table a method."""

    def behind(item: tuple[Point, Row]) -> str | None:
        for each in item[0].differences:
            if each.against == item[1].method:
                return f"{number(each.mean)} ({number(each.ci95[0])} … {number(each.ci95[1])})"
        return "best" if item[1].method == item[0].best.method else None

    columns: list[Column[tuple[Point, Row]]] = [
        Column("Point", "Values of the keys at test.", lambda item: told(item[0].settings, True), words=True),
        Column("Mean", "Accuracy, averaged over all chips and images.", lambda item: number(item[1].mean), "%"),
        Column(
            "95 % interval",
            "Other chips and images would give a mean in this range (two-way bootstrap).",
            lambda item: f"{number(item[1].ci95[0])} – {number(item[1].ci95[1])}",
            "%",
        ),
        Column(
            "p5",
            "5th percentile over chips. Given from 20 chips on.",
            lambda item: None if item[1].p5 is None else number(item[1].p5),
            "%",
        ),
        Column("Worst", "Accuracy of the worst chip.", lambda item: number(item[1].worst), "%"),
        Column(
            "Yield",
            "Share of the chips that reach the target.",
            lambda item: None if item[1].yield_ is None else f"{item[1].yield_:.0f}",
            "%",
        ),
        Column(
            "Behind the best",
            "The best row at this point less this one, with its 95 % interval, on the same chips, images and reads.",
            behind,
            "points",
        ),
    ]
    tables = {}
    for method in (IDEAL, *sweep.methods):
        items = [(point, row) for point in sweep.points if (row := _row(point, method)) is not None]
        tables[method] = Table.of(f"Accuracy: {method}", items, columns)
    return tables


def render_sweep(sweep: Sweep, run: Mapping[str, Any] | None = None) -> str:
    """The page as a string; the same sweep and ``run`` give the same bytes."""
    some = sweep.points[0].on_chips[0]
    points = _panels(sweep)
    return render(
        "sweep.html",
        run,
        sweep.title,
        sweep.sentence,
        sweep.facts,
        sweep.macros,
        trained=sweep.trained,
        main=_main(sweep).key,
        legend=[(curves.key(each), each.name) for each in _lines(sweep, next(iter(points.values())), lowest, False)],
        accuracy=figure(sweep, lambda row: row.mean, True, "Mean accuracy"),
        percentile=figure(sweep, lowest, False, "Accuracy of the worst chips"),
        recalibrated=any("BN recalibrated" in method for method in sweep.methods),
        few=some.p5 is None,
        chips=some.chips,
        images=some.images,
        losses=_losses(sweep),
        most=MOST_LAYERS,
        numbers=_numbers(sweep),
    )


def write_sweep(sweep: Sweep, path: Path | str, run: Mapping[str, Any] | None = None) -> None:
    """Write the report of a sweep as one HTML file, atomically; ``run`` as of ``write_html``."""
    write_atomic(Path(path), render_sweep(sweep, run))


def write_sweep_csv(sweep: Sweep, path: Path | str) -> None:
    """Write every row of every point as CSV, atomically; empty where there is no value, accuracies in per cent."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = [each.key for each in sweep.over]
    plain = ("mean", "p5", "worst", "target", "yield", "chips", "images")
    writer.writerow(["method", *keys, "mean", "ci95_low", "ci95_high", *plain[1:]])
    for point in sweep.points:
        for row in point.rows:
            values = row.model_dump(by_alias=True)
            settings = [point.settings[key] for key in keys]
            writer.writerow([row.method, *settings, row.mean, *row.ci95, *(values[name] for name in plain[1:])])
    write_atomic(Path(path), out.getvalue())
