"""The report's tables: every column says what it means, and one that no row has a value for is left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from markupsafe import Markup

from bitline.cost import SideCost
from bitline.evaluate.result import Difference, LayerGain, LayerReport, Row
from bitline.nn import Mapped
from bitline.report.charts import Axis, bar, span
from bitline.units import si

T = TypeVar("T")


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column that explains itself; ``words`` marks text, anything else is set as a number."""

    name: str
    meaning: str
    read: Callable[[T], str | None]
    unit: str = ""
    words: bool = False


@dataclass(frozen=True)
class Table:
    """Cells as text or safe markup; None where there is no value."""

    caption: str
    columns: Sequence[Column[Any]]
    rows: Sequence[Sequence[str | None]]

    @staticmethod
    def of(caption: str, items: Sequence[T], columns: Iterable[Column[T]]) -> Table:
        """One row an item, without the columns in which no item has a value."""
        kept = [c for c in columns if any(c.read(item) is not None for item in items)]
        return Table(caption, kept, [[c.read(item) for c in kept] for item in items])


def group(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Items by key, both in the order in which they come."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def number(value: float, decimals: int = 2, sign: str = "") -> str:
    """A number with a fixed count of decimals and a true minus sign."""
    return f"{value:{sign}.{decimals}f}".replace("-", "−")


def percent(share: float) -> str:
    """A share between 0 and 1 in per cent, three significant digits where they matter."""
    value = 100 * share
    if not math.isfinite(value) or value == 0:
        return f"{value:.0f}"
    if value < 0.001:
        return "< 0.001"
    return f"{value:.{min(3, max(1, 2 - math.floor(math.log10(value))))}f}"


def spread(shares: Iterable[float], told: Callable[[float], str] = percent) -> str | None:
    """Shares in per cent, least and most; None where there are none."""
    found = [told(share) for share in sorted(shares)]
    return " … ".join(dict.fromkeys((found[0], found[-1]))) if found else None


def count(value: int) -> str:
    """An integer with thin spaces between groups of three digits."""
    return f"{value:,}".replace(",", "\u202f")


def _strong(text: str) -> str:
    return Markup("<b>{}</b>").format(text)


def _beside(text: str, picture: str) -> str:
    return Markup('<span class="pair">{} {}</span>').format(text, picture)


def accuracy(rows: Sequence[Row]) -> Table:
    """Accuracy of every method over its chips."""

    def good(row: Row) -> str | None:
        if row.yield_ is None:
            return None
        return f"{row.yield_:.0f}" + ("" if row.target is None else f" (≥ {row.target:g} %)")

    return Table.of(
        "Accuracy of each method",
        rows,
        (
            Column("Method", "How the network was made or trained.", lambda r: r.method, words=True),
            Column(
                "Macro",
                "The compute-in-memory circuit it ran on; “none” is plain software without errors.",
                lambda r: r.macro,
                words=True,
            ),
            Column("Condition", "Temperature and supply the chips ran at.", lambda r: r.condition, words=True),
            Column(
                "Mean",
                "Share of the test images classified correctly, averaged over all chips.",
                lambda r: _strong(number(r.mean)),
                "%",
            ),
            Column(
                "95 % interval",
                "Uncertainty of the mean, because only so many chips and images were tried: other chips and images "
                "would give a mean in this range (95 % bootstrap interval over both).",
                lambda r: f"{number(r.ci95[0])} – {number(r.ci95[1])}",
                "%",
            ),
            Column(
                "p5",
                "5th percentile over chips: 95 of 100 chips do at least this well. Given from 20 chips on.",
                lambda r: None if r.p5 is None else number(r.p5),
                "%",
            ),
            Column("Worst", "Accuracy of the worst chip tried.", lambda r: number(r.worst), "%"),
            Column("Yield", "Share of the chips that reach the target accuracy written beside it.", good, "%"),
            Column(
                "Chips × images",
                "How many chips were simulated, and how many test images each of them classified.",
                lambda r: f"{count(r.chips)} × {count(r.images)}",
            ),
            Column(
                "Steps",
                "Optimiser steps spent on training after the float network.",
                lambda r: None if r.steps is None else count(r.steps),
            ),
        ),
    )


def differences(pairs: Sequence[Difference]) -> Table:
    """Paired differences, each beside a picture on one common axis."""
    axis = Axis.around([0.0, *(end for d in pairs for end in d.ci95)], margin=0.1)

    def verdict(d: Difference) -> str:
        if d.ci95[0] > 0:
            return "first is better"
        return "second is better" if d.ci95[1] < 0 else "not resolved"

    return Table.of(
        "Paired differences",
        pairs,
        (
            Column("First", "The network compared.", lambda d: d.of, words=True),
            Column("Second", "The network it is compared with.", lambda d: d.against, words=True),
            Column(
                "Difference",
                "Accuracy of the first minus the second, in percentage points, on the same chips and images.",
                lambda d: _strong(number(d.mean, sign="+")),
                "points",
            ),
            Column(
                "95 % interval",
                "Uncertainty of the difference: other chips and images would give a difference in this range.",
                lambda d: f"{number(d.ci95[0], sign='+')} … {number(d.ci95[1], sign='+')}",
                "points",
            ),
            Column(
                "Picture",
                "Dot: difference; line: interval; upright line: zero.",
                lambda d: span(d.mean, d.ci95, axis),
                words=True,
            ),
            Column(
                "Verdict",
                "“Not resolved”: the interval contains zero, so chance may explain the difference.",
                verdict,
                words=True,
            ),
        ),
    )


def where(report: LayerReport) -> str:
    """The method and macro a layer was seen on."""
    return f"{report.method} · {report.macro}"


def layers(reports: Sequence[LayerReport]) -> dict[str, Table]:
    """One table a method and macro; the bars of all tables share their scales."""
    snr = Axis.from_zero((r.snr_db for r in reports if r.snr_db is not None), least=1.0)
    errors = Axis.from_zero((r.error_rate for r in reports), least=0.01)
    clipping = Axis.from_zero((r.clipped for r in reports), least=0.01)

    def ratio(r: LayerReport) -> str:
        if r.snr_db is None:
            return _beside("no error", bar(snr.high, snr, "good"))
        return _beside(number(r.snr_db, 1), bar(r.snr_db, snr, "good"))

    columns: tuple[Column[LayerReport], ...] = (
        Column("Layer", "The layer’s name in the network.", lambda r: r.layer, words=True),
        Column(
            "Compute SNR",
            "Power of the layer’s ideal product over the power of its error. More is better; "
            "20 dB means an error of a tenth of the signal.",
            ratio,
            "dB",
        ),
        Column(
            "Wrong codes",
            "Share of the analog-to-digital conversions that gave another code than an ideal circuit would.",
            lambda r: _beside(percent(r.error_rate), bar(r.error_rate, errors)),
            "%",
        ),
        Column(
            "Clipped",
            "Share of the conversions whose value lay outside the converter’s range and was cut to its first or "
            "last code.",
            lambda r: _beside(percent(r.clipped), bar(r.clipped, clipping)),
            "%",
        ),
    )
    return {name: Table.of(f"Layers: {name}", some, columns) for name, some in group(reports, where).items()}


def weakest(reports: Sequence[LayerReport]) -> str:
    """The layer with the lowest compute SNR, in words."""
    noisy = [(r.snr_db, r.layer) for r in reports if r.snr_db is not None]
    if not noisy:
        return "no error in any layer"
    least, layer = min(noisy)
    return f"lowest SNR {number(least, 1)} dB, in {layer}"


def gains(name: str, rows: Sequence[LayerGain]) -> Table:
    """How much each layer of one network can make of an error, and the errors of its own weights."""

    def told(value: float | None) -> str | None:
        return None if value is None else number(value, 3)

    return Table.of(
        f"Layers: {name}",
        rows,
        (
            Column("Layer", "The layer’s name in the network.", lambda r: r.layer, words=True),
            Column("Outputs × inputs", "Shape of its matrix.", lambda r: " × ".join(map(str, r.shape)), words=True),
            Column("Error", "RMS error of a weight on a chip, relative to the weights’ RMS.", lambda r: told(r.error)),
            Column("Norm", "Spectral norm: the most by which it can enlarge what comes in.", lambda r: told(r.norm)),
            Column("with its norm", "With the batch norm behind it.", lambda r: told(r.after_norm)),
            Column("on chips", "With a chip’s errors, on average, and the batch norm.", lambda r: told(r.on_chips)),
            Column("λ", "What suppression wants it to be.", lambda r: told(r.wanted)),
        ),
    )


def overheads(name: str, rows: Sequence[SideCost]) -> Table:
    """What the side paths of one network cost, layer by layer and in all."""
    return Table.of(
        f"Side paths: {name}",
        rows,
        (
            Column(
                "Layer", "The layer they stand beside; last: all, beside the network.", lambda r: r.layer, words=True
            ),
            Column("Numbers", "Numbers that the side path stores.", lambda r: count(r.side_parameters)),
            Column("of the layer’s", "Relative to weights and biases.", lambda r: percent(r.parameter_share), "%"),
            Column("Multiplications", "With addition, for one sample.", lambda r: count(r.side_macs)),
            Column("of the layer’s", "Relative to its products.", lambda r: percent(r.mac_share), "%"),
            Column(
                "Energy",
                "Of its products and of what it reads, priced as those of a layer that stays digital.",
                lambda r: None if r.joules is None else si(r.joules, "J", 3),
            ),
            Column(
                "of the layer’s",
                "Relative to the layer’s energy on the macro; least and most of several models of the converter.",
                lambda r: spread(r.energy_shares.values()),
                "%",
            ),
        ),
    )


def mapped(mapping: Sequence[Mapped]) -> Table:
    """The layers on a macro, and how they fill it."""
    full = Axis(0.0, 1.0)
    return Table.of(
        "Layers on a macro",
        [m for m in mapping if m.macro is not None],
        (
            Column("Layer", "The layer’s name in the network.", lambda m: m.layer, words=True),
            Column("Kind", "Its class and shape.", lambda m: m.kind, words=True),
            Column("Macro", "The macro that holds its weights.", lambda m: m.macro, words=True),
            Column(
                "Plan",
                "How the simulator computes it. Plans differ in speed, never in what they compute.",
                lambda m: m.plan,
                words=True,
            ),
            Column(
                "Tiles",
                "Pieces the weight matrix is cut into, each no larger than an array.",
                lambda m: count(m.tiles),
            ),
            Column("Arrays", "Physical memory arrays that the tiles occupy.", lambda m: count(m.arrays)),
            Column(
                "Cells used",
                "Share of the cells of these arrays that hold a weight.",
                lambda m: _beside(percent(m.utilisation), bar(m.utilisation, full, "good")),
                "%",
            ),
            Column(
                "Conversions",
                "Analog-to-digital conversions that one input sample takes.",
                lambda m: count(m.conversions) if m.conversions else None,
                "per sample",
            ),
            Column("Note", "Why it got this plan.", lambda m: m.why or None, words=True),
        ),
    )


def digital(mapping: Sequence[Mapped]) -> Table:
    """The layers that stayed digital, and why."""
    return Table.of(
        "Layers that stayed digital",
        [m for m in mapping if m.macro is None],
        (
            Column("Layer", "The layer’s name in the network.", lambda m: m.layer, words=True),
            Column("Kind", "Its class and shape.", lambda m: m.kind, words=True),
            Column("Why", "Why it is computed exactly, beside the macro.", lambda m: m.why or None, words=True),
        ),
    )


def mapping_sentence(mapping: Sequence[Mapped]) -> str:
    """How much of the network runs on macros and what it takes there."""
    on = [m for m in mapping if m.macro is not None]
    arrays, tiles = sum(m.arrays for m in on), sum(m.tiles for m in on)
    words = f"{len(on)} of {len(mapping)} layers run on a macro"
    if arrays:
        used = percent(sum(m.arrays * m.utilisation for m in on) / arrays)
        words += f", in {count(tiles)} tiles on {count(arrays)} arrays with {used} % of their cells used"
    if conversions := sum(m.conversions for m in on):
        words += f"; one sample takes {count(conversions)} analog-to-digital conversions"
    return words + "."
