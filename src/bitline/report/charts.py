"""The report's pictures, as inline SVG.

Positions along x are per cents of the width that is there and heights are pixels, so a picture fits a phone and a
desk screen without a script and its text keeps its size. Colours come from the page's style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bitline.evaluate.result import Row

_GOLDEN = (math.sqrt(5) - 1) / 2
_MOST_BINS = 256


@dataclass(frozen=True)
class Axis:
    """A linear axis from ``low`` to ``high``; called with a value it gives the place in per cent of the width."""

    low: float
    high: float

    @staticmethod
    def around(values: Iterable[float], margin: float = 0.06) -> Axis:
        """The axis that shows all finite ``values`` with a margin on both sides."""
        finite = [v for v in values if math.isfinite(v)] or [0.0]
        low, high = min(finite), max(finite)
        pad = (high - low) * margin or max(abs(high) * 0.01, 0.5)
        return Axis(low - pad, high + pad)

    @staticmethod
    def from_zero(values: Iterable[float], least: float) -> Axis:
        """The axis for bars: it holds zero, all finite ``values`` and at least ``least``."""
        finite = [v for v in values if math.isfinite(v)]
        return Axis(min([0.0, *finite]), max([least, *finite]))

    def __call__(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 3)

    def ticks(self, about: int = 5) -> list[tuple[float, str]]:
        """Round numbers on the axis, each with its text."""
        rough = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * min((1, 2, 5, 10), key=lambda m: abs(math.log(m * power / rough)))
        decimals = max(0, -math.floor(math.log10(step)))
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [(i * step, f"{i * step:.{decimals}f}".replace("-", "−")) for i in range(first, last + 1)]


def _svg(height: int, label: str, parts: Iterable[str], kind: str) -> Markup:
    return Markup('<svg class="{}" height="{}" role="img" aria-label="{}">{}</svg>').format(
        kind, height, label, Markup("").join(parts)
    )


def _line(x: float, kind: str, low: str = "0", high: str = "100%") -> Markup:
    return Markup('<line class="{}" x1="{x}%" x2="{x}%" y1="{}" y2="{}"/>').format(kind, low, high, x=x)


def _rect(x: float, width: float, y: str, height: str, kind: str) -> Markup:
    return Markup('<rect class="{}" x="{}%" width="{}%" y="{}" height="{}"/>').format(
        kind, x, round(width, 3), y, height
    )


def _dot(chip: int, accuracy: float, x: float, y: float) -> Markup:
    return Markup('<circle cx="{}%" cy="{:.1f}%" r="3.2"><title>chip {}: {:.2f} %</title></circle>').format(
        x, y, chip, accuracy
    )


def strip(row: Row, axis: Axis) -> Markup:
    """One dot a chip along the accuracy axis, the interval of the mean as a band, the mean as a line.

    A chip keeps its height in every strip, so that one chip can be followed from method to method.
    """
    parts = [_line(axis(tick), "grid") for tick, _ in axis.ticks()]
    if row.target is not None and axis.low <= row.target <= axis.high:
        parts.append(_line(axis(row.target), "target"))
    low, high = row.ci95
    if all(map(math.isfinite, (row.mean, low, high))):
        parts.append(_rect(axis(low), axis(high) - axis(low), "6%", "88%", "band"))
        parts.append(_line(axis(row.mean), "mean", "6%", "94%"))
    alone = len(row.per_chip) == 1
    for chip, accuracy in enumerate(row.per_chip):
        if math.isfinite(accuracy):
            parts.append(_dot(chip, accuracy, axis(accuracy), 50 if alone else 18 + 64 * ((chip + 1) * _GOLDEN % 1)))
    label = (
        f"{row.method}: {row.chips} chips, mean {row.mean:.2f} %, interval {low:.2f} to {high:.2f} %, "
        f"worst chip {row.worst:.2f} %"
    )
    return _svg(44, label, parts, "strip")


def scale(axis: Axis, unit: str) -> Markup:
    """The numbers under a stack of strips that share ``axis``."""
    text = Markup('<text x="{}%" y="14">{}</text>')
    marks = [text.format(axis(tick), label) for tick, label in axis.ticks()]
    return _svg(18, f"axis in {unit}", marks, "scale")


def span(mean: float, interval: tuple[float, float], axis: Axis) -> Markup:
    """A mean with its interval, beside a line at zero."""
    parts = [_line(axis(0), "zero")]
    if all(map(math.isfinite, (mean, *interval))):
        low, high = map(axis, interval)
        parts.append(_rect(low, high - low, "8.5", "3", "whisker"))
        parts.append(Markup('<circle cx="{}%" cy="10" r="4"/>').format(axis(mean)))
    return _svg(20, f"mean {mean:.2f}, interval {interval[0]:.2f} to {interval[1]:.2f}", parts, "span")


def bar(value: float, axis: Axis, kind: str = "") -> Markup:
    """A horizontal bar from zero to ``value``; decoration beside the number, so hidden from screen readers."""
    zero, end = axis(0), axis(0 if math.isnan(value) else min(max(value, axis.low), axis.high))
    parts = [Markup('<rect class="track" width="100%" y="1" height="8"/>')]
    parts.append(_rect(min(zero, end), abs(end - zero), "1", "8", "fill"))
    if axis.low < 0:
        parts.append(_line(zero, "zero"))
    return Markup('<svg class="bar {}" height="10" aria-hidden="true">{}</svg>').format(kind, Markup("").join(parts))


def histogram(codes: Sequence[int], label: str) -> Markup:
    """Bars whose heights are square roots of the shares, so that rare codes stay visible; the end codes stand out.

    Above 256 codes neighbours are added up and the ends are no longer marked.
    """
    size = math.ceil(len(codes) / _MOST_BINS)
    counts = [sum(codes[i : i + size]) for i in range(0, len(codes), size)]
    peak = max(counts) or 1
    gap = 0.08 if len(counts) <= 32 else 0

    def path(bins: Iterable[int]) -> str:
        tops = ((i, round(100 - 100 * math.sqrt(counts[i] / peak), 1)) for i in bins if counts[i])
        return "".join(f"M{i + gap:g} 100V{top:g}H{i + 1 - gap:g}V100Z" for i, top in tops)

    last = len(counts) - 1
    ends = {0, last} if size == 1 else set()
    inner = [i for i in range(len(counts)) if i not in ends]
    return Markup(
        '<svg class="codes" viewBox="0 0 {} 100" preserveAspectRatio="none" height="64" role="img" aria-label="{}">'
        '<path class="inner" d="{}"/><path class="ends" d="{}"/></svg>'
    ).format(len(counts), label, path(inner), path(sorted(ends)))
