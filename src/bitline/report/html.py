"""One self-contained HTML file from a result: no script, no network, readable without explanation."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bitline.evaluate.result import LayerReport, Result, Row
from bitline.files import write_atomic
from bitline.report import charts, contents
from bitline.report.contents import group, number, percent, where

_MOST_VALUES = 12


class Strip(NamedTuple):
    """A row and the picture of its chips."""

    row: Row
    picture: str


class Strips(NamedTuple):
    """Strips on one axis, and the axis' numbers."""

    title: str
    strips: list[Strip]
    scale: str


def _strips(rows: Sequence[Row]) -> list[Strips]:
    """All rows on one axis; then, where most of that axis is empty, the best rows once more on a finer one."""

    def values(some: Iterable[Row]) -> list[float]:
        return [v for row in some for v in (*row.per_chip, row.mean, *row.ci95) if math.isfinite(v)]

    def draw(title: str, some: Sequence[Row]) -> Strips:
        axis = charts.Axis.around(values(some))
        return Strips(title, [Strip(row, charts.strip(row, axis)) for row in some], charts.scale(axis, "% accuracy"))

    rows = [row for row in rows if values([row])]
    if not rows:
        return []
    low, high = min(values(rows)), max(values(rows))
    near = [row for row in rows if min(values([row])) > high - (high - low) / 4]
    pictures = [draw("All methods", rows)]
    if 1 < len(near) < len(rows):
        pictures.append(draw("The best methods, enlarged", near))
    return pictures


class Histogram(NamedTuple):
    """How often a layer's converter gave each code."""

    layer: str
    picture: str
    last: int
    clipped: str


def _histograms(reports: Sequence[LayerReport]) -> dict[str, list[Histogram]]:
    def draw(r: LayerReport) -> Histogram:
        label = f"Codes of {r.layer}: 0 to {len(r.codes) - 1}, most often {r.codes.index(max(r.codes))}"
        return Histogram(r.layer, charts.histogram(r.codes, label), len(r.codes) - 1, percent(r.clipped))

    with_codes = [r for r in reports if any(r.codes)]
    return {name: [draw(r) for r in some] for name, some in group(with_codes, where).items()}


class Bar(NamedTuple):
    """Points lost or won, and the accuracy that this leaves."""

    name: str
    points: str
    accuracy: str
    picture: str


def _ranking(entries: Sequence[tuple[str, str, float, float]], sign: str = "") -> dict[str, list[Bar]]:
    """Bars by method from ``(method, name, points, accuracy)``, largest first, all on one scale."""
    axis = charts.Axis.from_zero((points for _, _, points, _ in entries), least=0.1)

    def draw(entry: tuple[str, str, float, float]) -> Bar:
        _, name, points, accuracy = entry
        return Bar(name, number(points, sign=sign), number(accuracy), charts.bar(points, axis))

    methods = group(entries, lambda entry: entry[0])
    return {method: [draw(e) for e in sorted(some, key=lambda e: -e[2])] for method, some in methods.items()}


def tree(value: Any) -> Any:
    """A nested configuration as mappings and strings only; long lists are cut and say how long they were."""
    if isinstance(value, Mapping):
        return {str(k): tree(v) for k, v in value.items()} or "{}"
    if isinstance(value, (list, tuple)):
        shown = [tree(v) for v in value[:_MOST_VALUES]]
        cut = len(value) > _MOST_VALUES
        if any(isinstance(v, Mapping) for v in shown):
            return {f"[{i}]": v for i, v in enumerate(shown)} | ({"…": f"{len(value)} in all"} if cut else {})
        return f"[{', '.join(shown)}, … {len(value)} values]" if cut else f"[{', '.join(shown)}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


def _breakable(text: str) -> Markup:
    """Plain text that a narrow column may break after a dot, underscore or slash; markup stays as it is."""
    return text if isinstance(text, Markup) else Markup(re.sub(r"(?<=[._/])(?=[^\W\d])", "<wbr>", escape(text)))


def _command(run: Mapping[str, Any]) -> str | None:
    command = run.get("command")
    return shlex.join(map(str, command)) if isinstance(command, (list, tuple)) else command


def render(
    template: str,
    run: Mapping[str, Any] | None,
    title: str,
    sentence: str,
    facts: Mapping[str, str] = MappingProxyType({}),
    macros: Mapping[str, Any] = MappingProxyType({}),
    **contents: Any,
) -> str:
    """A page of the report from its template and what it shows; the same contents and ``run`` give the same bytes."""
    run = run or {}
    pages = Environment(
        loader=PackageLoader("bitline.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    pages.filters["breakable"] = _breakable
    return pages.get_template(template).render(
        style=Markup(files("bitline.report").joinpath("style.css").read_text(encoding="utf-8")),
        command=_command(run),
        run={str(k): tree(v) for k, v in run.items() if k != "command"},
        title=title,
        sentence=sentence,
        facts=facts,
        macros={name: tree(config) for name, config in macros.items()},
        **contents,
    )


def render_html(result: Result, run: Mapping[str, Any] | None = None) -> str:
    """The page as a string."""
    mapping = [t for t in (contents.mapped(result.mapping), contents.digital(result.mapping)) if t.rows]
    return render(
        "result.html",
        run,
        result.title,
        result.sentence,
        result.facts,
        result.macros,
        accuracy=contents.accuracy(result.rows) if result.rows else None,
        differences=contents.differences(result.differences) if result.differences else None,
        strips=_strips(result.rows),
        target=next((row.target for row in result.rows if row.target is not None), None),
        layers=contents.layers(result.layers),
        weakest={name: contents.weakest(some) for name, some in group(result.layers, where).items()},
        histograms=_histograms(result.layers),
        sensitivity=_ranking([(s.method, s.layer, s.loss, s.mean) for s in result.sensitivity]),
        causes=_ranking([(c.method, c.cause, c.gain, c.mean) for c in result.explanation], sign="+"),
        gains=[contents.gains(name, rows) for name, rows in result.gains.items()],
        overheads=[contents.overheads(name, rows) for name, rows in result.overheads.items()],
        unpriced=dict.fromkeys(rows[-1].why for rows in result.overheads.values() if rows[-1].why),
        technology=next((rows[-1].technology for rows in result.overheads.values()), None),
        mapping_sentence=contents.mapping_sentence(result.mapping),
        mapping=mapping,
    )


def write_html(result: Result, path: Path | str, run: Mapping[str, Any] | None = None) -> None:
    """Write the report of ``result`` as one HTML file, atomically.

    ``run`` is what ``run.json`` holds: ``command`` (a string or the list of its words), shown under the summary, and
    anything else (versions, date, host, durations; nested mappings are fine), shown at the end. What the result does
    not hold is left out of the page.
    """
    write_atomic(Path(path), render_html(result, run))
