"""The picture of a measured table beside its analytic rival: errors by ideal code, darker where likelier, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from bitline.macro.kinds import TableColumn
from bitline.report.charts import Axis
from bitline.report.svg import line, picture, text

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 860, 380, 60, 64, 48, 44
SHADES = 8
Place = Callable[[float], float]
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.grid{stroke:#ddd}.zero{stroke:#888;stroke-dasharray:4 4}"
    ".cell{fill:#0a5fb4}.mean{fill:none;stroke:#b40;stroke-width:1.6}"
)


def table_picture(
    tables: Sequence[tuple[str, TableColumn]], title: str = "P(code − ideal code | ideal code)", table: int = 0
) -> str:
    """One panel a table, side by side on the same axes: measured and fitted Gaussian, say.

    Shade: square root of the probability over the largest of all panels; orange: the mean error. ``table``: which of a
    column's tables, or its only one. Raises ValueError without tables, or where they differ in the number of codes.
    """
    shapes = {name: column.probability.shape[1:] for name, column in tables}
    if not tables or len(set(shapes.values())) > 1:
        raise ValueError(f"tables of one shape are needed to be put side by side, not {shapes or 'none'}")
    pictures = [_errors(c.probability[min(table, len(c.probability) - 1)]) for _, c in tables]
    means = [c.mean[min(table, len(c.mean) - 1)] - np.arange(c.mean.shape[1]) for _, c in tables]
    last = len(means[0]) - 1
    likely = np.flatnonzero(np.any([p.max(axis=0) > 2e-3 for p in pictures], axis=0)) - last
    low, high = int(min(likely.min(), -2)), int(max(likely.max(), 2))
    peak = max(float(p.max()) for p in pictures)
    across, up = Axis(-0.5, last + 0.5), Axis(low - 0.5, high + 0.5)
    width = (WIDTH - LEFT - 16 - GAP * (len(tables) - 1)) / len(tables)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * up(value) / 100, 1)

    parts: list[str] = [text(LEFT, 22, "start", title)]
    for i, (name, _) in enumerate(tables):
        left = LEFT + i * (width + GAP)

        def x(value: float, left: float = left) -> float:
            return round(left + width * across(value) / 100, 1)

        parts.append(text(left, TOP - 12, "start", name))
        for value, label in up.ticks():
            parts.append(line("grid", left, round(left + width, 1), y(value), y(value)))
            if i == 0:
                parts.append(text(left - 8, y(value) + 4, "end", label))
        parts += [text(x(value), HEIGHT - BOTTOM + 20, "middle", label) for value, label in across.ticks(6)]
        parts += _cells(pictures[i][:, low + last : high + last + 1] / peak, low, x, y)
        parts.append(line("zero", left, round(left + width, 1), y(0), y(0)))
        points = " ".join(f"{x(code)},{y(float(np.clip(m, low, high)))}" for code, m in enumerate(means[i]))
        parts.append(Markup('<polyline class="mean" points="{}"/>').format(points))
        parts.append(text(round(left + width / 2, 1), HEIGHT - 8, "middle", "ideal code"))
    parts.append(text(WIDTH - 16, 22, "end", "codes; blue: how likely, orange: mean"))
    return picture(WIDTH, HEIGHT, title, STYLE, parts)


def _errors(probability: Float[np.ndarray, "I J"]) -> Float[np.ndarray, "I E"]:
    """Probability of the error e = code - ideal code, e from -(I - 1) on."""
    ideals, codes = probability.shape
    found = np.zeros((ideals, ideals + codes - 1))
    for ideal in range(ideals):
        found[ideal, ideals - 1 - ideal : ideals - 1 - ideal + codes] = probability[ideal]
    return found


def _cells(share: Float[np.ndarray, "I E"], low: int, x: Place, y: Place) -> list[str]:
    """One path a shade; likelihoods relative to the largest. Neighbours of a shade in one column are one rectangle."""
    shade = np.ceil(np.sqrt(np.where(share > 1e-4, share, 0)) * SHADES).astype(int)
    paths: dict[int, list[str]] = {}
    for ideal, column in enumerate(shade):
        starts = np.concatenate([[0], np.flatnonzero(np.diff(column)) + 1, [len(column)]])
        for first, end in pairwise(starts):
            if column[first]:
                left, right = x(ideal - 0.5), x(ideal + 0.5)
                paths.setdefault(int(column[first]), []).append(
                    f"M{left} {y(low + first - 0.5)}H{right}V{y(low + end - 0.5)}H{left}Z"
                )
    path = Markup('<path class="cell" fill-opacity="{}" d="{}"/>').format
    return [path(round(level / SHADES, 3), "".join(some)) for level, some in sorted(paths.items())]
