"""Curves over the values of a swept key, as inline SVG that fits a phone and a desk screen without a script."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from bitline.report.charts import Axis

HEIGHT, COLOURS = 280, 8
EDGE = 5.0  # per cent of the width beside the first and the last value


@dataclass(frozen=True)
class Curve:
    """A line through ``means`` at places of the x axis, the band between ``lows`` and ``highs``; None is a gap.

    ``kind``: the class that colours it.
    """

    name: str
    kind: str
    means: Sequence[float | None]
    bands: Sequence[tuple[float, float] | None] = ()


def kind(number: int) -> str:
    """The class of the ``number``-th method: eight colours, then the same ones dashed."""
    return f"c{number % COLOURS}" + (" dashed" if number >= COLOURS else "")


@dataclass(frozen=True)
class Places:
    """Where the values of a key lie along x, in per cent: by their size, by its logarithm, or one after another."""

    labels: tuple[str, ...]
    at: tuple[float, ...]
    scale: str

    @staticmethod
    def of(values: Sequence[Any]) -> Places:
        """Numbers by size, positive ones over a range of 50 and more by their logarithm, anything else in order."""
        labels = tuple(label(value) for value in values)
        plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        if not plain or len(values) == 1:
            return Places(labels, _spread(range(len(values))), "in the order given")
        if min(values) > 0 and max(values) / min(values) >= 50:
            return Places(labels, _spread([math.log(value) for value in values]), "logarithmic")
        return Places(labels, _spread(values), "linear")

    def picture(self) -> Markup:
        """The values under a chart; where two would touch, the later is left out."""
        text = Markup('<text x="{}%" y="14">{}</text>')
        marks, free = [], -math.inf
        for place, name in sorted(zip(self.at, self.labels, strict=True)):
            width = 2.2 + 1.6 * len(name)  # per cent, at the width of a phone
            if place - width / 2 >= free:
                marks.append(text.format(round(place, 3), name))
                free = place + width / 2
        return Markup('<svg class="scale" height="18" aria-hidden="true">{}</svg>').format(Markup("").join(marks))


def _spread(values: Iterable[float]) -> tuple[float, ...]:
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    if high == low:
        return (50.0,) * len(numbers)
    return tuple(EDGE + (100 - 2 * EDGE) * (value - low) / (high - low) for value in numbers)


def label(value: Any) -> str:
    """A value as it stands on an axis."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "none" if value is None else str(value)
    return f"{value:g}".replace("-", "−")


def ticks(axis: Axis) -> Markup:
    """The numbers beside a chart."""
    text = Markup('<text x="100%" y="{}%" dy=".35em">{}</text>')
    marks = [text.format(round(100 - axis(value), 3), name) for value, name in axis.ticks()]
    return Markup('<svg class="ticks" height="{}" aria-hidden="true">{}</svg>').format(HEIGHT, Markup("").join(marks))


def chart(curves: Sequence[Curve], places: Places, axis: Axis, told: str) -> Markup:
    """Curves in one picture, each point with its numbers when it is pointed at; ``told`` says what it shows."""
    parts = [
        Markup('<line class="grid" x1="0" x2="100%" y1="{0}%" y2="{0}%"/>').format(round(100 - axis(value), 3))
        for value, _ in axis.ticks()
    ]
    inner = [shape for curve in curves for shape in (*_bands(curve, places, axis), *_lines(curve, places, axis))]
    parts.append(
        Markup('<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">{}</svg>').format(
            Markup("").join(inner)
        )
    )
    dot = Markup('<circle class="{}" cx="{}%" cy="{}%" r="3.4"><title>{}, {}: {:.2f} %</title></circle>')
    for curve in curves:
        for x, name, mean in zip(places.at, places.labels, curve.means, strict=True):
            if mean is not None:
                parts.append(dot.format(curve.kind, round(x, 3), round(100 - axis(mean), 3), curve.name, name, mean))
    return Markup('<svg class="curves" height="{}" role="img" aria-label="{}">{}</svg>').format(
        HEIGHT, told, Markup("").join(parts)
    )


def _pieces(present: Sequence[bool]) -> list[range]:
    """Runs of neighbours that are all there."""
    found: list[range] = []
    for i, there in enumerate(present):
        if there and found and found[-1].stop == i:
            found[-1] = range(found[-1].start, i + 1)
        elif there:
            found.append(range(i, i + 1))
    return found


def _order(places: Places) -> list[int]:
    return sorted(range(len(places.at)), key=places.at.__getitem__)


def _lines(curve: Curve, places: Places, axis: Axis) -> list[Markup]:
    order = _order(places)
    made = []
    for piece in _pieces([curve.means[i] is not None for i in order]):
        points = " ".join(f"{places.at[order[k]]:.3f},{100 - axis(curve.means[order[k]] or 0.0):.3f}" for k in piece)
        made.append(Markup('<polyline class="{}" points="{}"/>').format(curve.kind, points))
    return made


def _bands(curve: Curve, places: Places, axis: Axis) -> list[Markup]:
    order = _order(places)
    bands = [curve.bands[i] if curve.bands else None for i in order]
    made = []
    for piece in _pieces([band is not None for band in bands]):
        ends = [(places.at[order[k]], bands[k] or (0.0, 0.0)) for k in piece]
        points = [(x, low) for x, (low, _) in ends] + [(x, high) for x, (_, high) in reversed(ends)]
        text = " ".join(f"{x:.3f},{100 - axis(value):.3f}" for x, value in points)
        made.append(Markup('<polygon class="{}" points="{}"/>').format(curve.kind, text))
    return made


def key(curve: Curve) -> Markup:
    """The sample of a curve in a legend."""
    return Markup(
        '<svg class="curves key" width="26" height="12" aria-hidden="true">'
        '<line class="{0}" x1="0" x2="26" y1="6" y2="6"/><circle class="{0}" cx="13" cy="6" r="3.4"/></svg>'
    ).format(curve.kind)
