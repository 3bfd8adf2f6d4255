"""The picture of input ranges: what each layer's costs by rounding and by clipping, as SVG."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from bitline.nn import InputRange
from bitline.report.charts import Axis
from bitline.report.svg import line, picture, text

ACROSS, WIDTH, HEIGHT, LEFT, TOP, FOOT, GAP = 3, 290, 210, 46, 56, 40, 26
QUIETEST = -60.0  # dB
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.grid{stroke:#ddd}polyline{fill:none;stroke-width:1.6}"
    ".two{stroke:#0a5fb4}.one{stroke:#222;stroke-dasharray:5 3}.rounding,.clipping{stroke-width:1}"
    ".rounding{stroke:#7fb2e5}.clipping{stroke:#b40}.own{fill:#b40}"
)


def range_picture(found: Sequence[InputRange], title: str = "Input ranges") -> str:
    """A panel a layer: noise over signal (dB) of a range by its width, rounding and clipping apart; a dot where the
    layer's own range is. Raises ValueError without layers."""
    if not found:
        raise ValueError("no input ranges to draw: no layer has quantised inputs")
    rows = -(-len(found) // ACROSS)
    width, height = ACROSS * (WIDTH + GAP) + GAP, TOP + rows * (HEIGHT + GAP)
    parts: list[str] = [text(GAP, 22, "start", title)]
    told = "blue: two bounds, of it light: rounding, orange: clipping; dashed: one bound; dot: the layer's range"
    parts.append(text(GAP, 40, "start", f"noise over signal, dB, by the range's width · {told}"))
    for i, one in enumerate(found):
        parts += _panel(one, GAP + i % ACROSS * (WIDTH + GAP), TOP + i // ACROSS * (HEIGHT + GAP))
    return picture(width, height, title, STYLE, parts)


def _panel(found: InputRange, left: float, top: float) -> list[str]:
    two, one, own = found.two, found.one, found.own
    widths = [t.high - t.low for t in (two, one, *([own] if own is not None else []))]
    across, up = Axis(0.0, 1.04 * max(float(w.max()) for w in widths)), Axis(QUIETEST, 3.0)

    def x(value: float) -> float:
        return round(left + LEFT + (WIDTH - LEFT) * across(value) / 100, 1)

    def y(value: float) -> float:
        return round(top + HEIGHT - FOOT - (HEIGHT - FOOT - 18) * up(min(max(value, QUIETEST), 3.0)) / 100, 1)

    def curve(kind: str, width: Float[Tensor, " R"], error: Float[Tensor, " R"]) -> str:
        noise = 10 * (error / two.power).clamp(min=1e-30).log10()
        points = " ".join(f"{x(float(w))},{y(float(n))}" for w, n in zip(width, noise, strict=True))
        return Markup('<polyline class="{}" points="{}"/>').format(kind, points)

    parts: list[str] = [text(left + LEFT, top + 8, "start", f"{found.layer}, {found.bits} bits")]
    for value, label in up.ticks(4):
        parts += [line("grid", left + LEFT, left + WIDTH, y(value), y(value))]
        parts.append(text(left + LEFT - 6, y(value) + 4, "end", label))
    parts += [text(x(value), top + HEIGHT - FOOT + 18, "middle", label) for value, label in across.ticks(4)]
    parts += [curve("rounding", widths[0], two.rounding), curve("clipping", widths[0], two.clipping)]
    parts += [curve("two", widths[0], two.total), curve("one", widths[1], one.total)]
    if own is not None:
        noise = -float(own.decibels[0])
        told = f"{float(own.low[0]):.3g} … {float(own.high[0]):.3g}: {noise:.1f} dB"
        dot = Markup('<circle class="own" cx="{}" cy="{}" r="3.6"><title>{}</title></circle>')
        parts.append(dot.format(x(float(widths[2][0])), y(noise), told))
    return parts
