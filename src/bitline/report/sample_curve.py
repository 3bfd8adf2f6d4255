"""The picture of accuracy error against the number of measurements, as SVG."""

from __future__ import annotations

import math
import textwrap

from markupsafe import Markup

from bitline.evaluate.enough import AccuracyCurve
from bitline.report.charts import Axis
from bitline.report.svg import line, picture, text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 400, 70, 20, 84, 52
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.grid{stroke:#ddd}.zero{stroke:#888;stroke-dasharray:4 4}"
    ".band{fill:#0a5fb4;fill-opacity:.08}.whisker{stroke:#0a5fb4;stroke-width:2}.part{fill:#b40;fill-opacity:.75}"
    ".bound{fill:none;stroke:#888;stroke-width:1.2}"
)


def accuracy_picture(curve: AccuracyCurve, title: str = "Accuracy error against measurements") -> str:
    """Differences to the whole log's accuracy by the size of the part they are from, doubling to the right.

    A dot a part, a line its 95 % interval, grey the bound, shaded what the tolerance allows.
    """
    highest = max(max(size.bound for size in curve.sizes), curve.tolerance) * 1.1
    across = Axis(math.log2(curve.sizes[0].reads) - 0.5, math.log2(curve.sizes[-1].reads) + 0.5)
    up = Axis(-highest, highest)

    def x(reads: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * across(math.log2(reads)) / 100, 1)

    def y(points: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * up(points) / 100, 1)

    right = WIDTH - RIGHT
    parts: list[str] = [text(LEFT, 22, "start", title)]
    told = textwrap.wrap(curve.sentence, 115)
    parts += [text(LEFT, 44 + 18 * i, "start", words) for i, words in enumerate(told)]
    band = Markup('<rect class="band" x="{}" y="{}" width="{}" height="{}"/>')
    bottom, top = y(-curve.tolerance), y(curve.tolerance)
    parts.append(band.format(LEFT, top, right - LEFT, round(bottom - top, 1)))
    for value, label in up.ticks():
        parts += [line("grid", LEFT, right, y(value), y(value)), text(LEFT - 8, y(value) + 4, "end", label)]
    parts.append(line("zero", LEFT, right, y(0), y(0)))
    for sign in (1, -1):
        points = " ".join(f"{x(size.reads)},{y(sign * size.bound)}" for size in curve.sizes)
        parts.append(Markup('<polyline class="bound" points="{}"/>').format(points))
    dot = Markup('<circle class="part" cx="{}" cy="{}" r="3.2"><title>{} reads: {:+.2f} points</title></circle>').format
    for size in curve.sizes:
        place = x(size.reads)
        parts.append(line("whisker", place, place, y(size.ci95[0]), y(size.ci95[1])))
        parts += [dot(place, y(away), size.reads, away) for away in size.differences]
        parts.append(text(place, HEIGHT - BOTTOM + 20, "middle", size.reads))
    parts.append(text(round((LEFT + right) / 2, 1), HEIGHT - 8, "middle", "reads"))
    parts.append(text(right, 22, "end", "points; orange: parts, blue: 95 %, grey: bound"))
    return picture(WIDTH, HEIGHT, title, STYLE, parts)
