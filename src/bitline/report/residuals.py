"""The picture of a behavioural model: what it misses points held out by, against their sum. An SVG file by itself."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from bitline.report.charts import Axis
from bitline.report.svg import line, picture, text

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 720, 360, 64, 44, 48
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.grid{stroke:#ddd}.zero{stroke:#888}.bound{stroke:#b40;"
    "stroke-dasharray:6 4}.alone{fill:#9aa5b1}.model{fill:#0a5fb4}"
)


def residual_picture(
    sums: Sequence[int], model: Sequence[float], alone: Sequence[float], bound: float, title: str
) -> str:
    """Residuals (LSB) of a model, blue, and of the best curve in the sum alone, grey; ``bound``: the largest allowed.

    Raises ValueError where the three differ in length.
    """
    if not len(sums) == len(model) == len(alone):
        raise ValueError(f"{len(sums)} sums, {len(model)} and {len(alone)} residuals: give one of each a point")
    across = Axis.around([0.0, *map(float, sums)])
    up = Axis.around([-bound, bound, *map(float, model), *map(float, alone)])

    def x(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - 16) * across(value) / 100, 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * up(value) / 100, 1)

    dot = Markup('<circle class="{}" cx="{}" cy="{}" r="2.6"><title>{} counts: {:.3g} LSB</title></circle>').format
    parts: list[str] = [text(LEFT, 22, "start", title)]
    for value, label in up.ticks():
        parts += [line("grid", LEFT, WIDTH - 16, y(value), y(value)), text(LEFT - 8, y(value) + 4, "end", label)]
    parts += [text(x(value), HEIGHT - BOTTOM + 20, "middle", label) for value, label in across.ticks(8)]
    parts.append(line("zero", LEFT, WIDTH - 16, y(0), y(0)))
    parts += [line("bound", LEFT, WIDTH - 16, y(sign * bound), y(sign * bound)) for sign in (-1, 1)]
    for kind, residuals in (("alone", alone), ("model", model)):
        parts += [dot(kind, x(k), y(r), k, r) for k, r in zip(sums, residuals, strict=True)]
    parts.append(text((WIDTH + LEFT) / 2, HEIGHT - 8, "middle", "sum, counts"))
    parts.append(text(WIDTH - 16, 22, "end", "LSB; blue: model, grey: a curve of the sum alone"))
    return picture(WIDTH, HEIGHT, title, STYLE, parts)
