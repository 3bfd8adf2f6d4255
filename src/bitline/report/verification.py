"""A verification as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from bitline.evaluate.result import Band, Row, Seen, Verification
from bitline.files import write_atomic
from bitline.report.contents import Column, Table, accuracy, number, percent
from bitline.report.html import render

SOURCES: tuple[tuple[str, str, Callable[[Band], Seen | None]], ...] = (
    ("Network", "all of them, as the network ran on the behavioural model", lambda band: band.network),
    ("ngspice", "those drawn, in the circuit, each on a die of its own", lambda band: band.circuit),
    ("Model", "those drawn, expected over dies from the behavioural model", lambda band: band.model),
    (
        "Table",
        "those drawn, expected over dies and patterns from the error model, which knows only the sum of each column",
        lambda band: band.table,
    ),
)


def sentence(found: Verification) -> str:
    """What was found, in one sentence."""
    designed, modelled = found.rows[1:]
    told = (
        f"The network has {designed.mean:.1f} % on the macro it was trained for and {modelled.mean:.1f} % on the "
        f"behavioural model of {found.circuit} (means of {modelled.chips} dies it had never met)"
    )
    real = [band for band in found.bands if band.circuit is not None and band.residual is not None]
    n = sum(band.simulated for band in real)
    if not n:
        return f"{told}; none of its conversions was simulated."
    wrong = sum(band.simulated * band.circuit.rate for band in real if band.circuit) / n
    expected = sum(band.simulated * band.model.rate for band in real) / n
    residual = math.sqrt(sum(band.simulated * band.residual**2 for band in real if band.residual is not None) / n)
    left = "" if found.left_over is None else f", where its own fit leaves {found.left_over:.2f}"
    return (
        f"{told}; of {n} of its conversions in ngspice, spread over the sums, {100 * wrong:.1f} % have another code "
        f"than their sum's and the model expects {100 * expected:.1f} %; on the same dies model and circuit differ by "
        f"{residual:.2f} LSB rms{left}."
    )


def rows(found: Sequence[Row]) -> Table:
    """Accuracy of the one network on each of what it ran on."""
    on = Column[Row]("On", "What the network, always the same, ran on.", lambda row: row.method, words=True)
    figures = [column for column in accuracy(found).columns if not column.words]
    return Table.of("Accuracy on fresh dies", found, (on, *figures))


def conversions(bands: Sequence[Band]) -> Table:
    """Wrong codes and mean errors by sum, side by side."""
    columns = [
        Column[Band](
            "Sum",
            "Ideal sum of the conversion, counts; where columns are subtracted, of their difference.",
            lambda band: (
                number(band.low, 0) if band.low == band.high else f"{number(band.low, 0)} … {number(band.high, 0)}"
            ),
            words=True,
        ),
        Column("Share", "Of all conversions of the network.", lambda band: percent(band.share), "%"),
        Column("Drawn", "Conversions drawn at random, which the rest of the row is of.", lambda band: str(band.n)),
    ]
    for name, what, of in SOURCES:
        columns += _pair(name, what, of)
    columns.append(
        Column(
            "Residual",
            "ngspice’s value less that of the behavioural model of the very same die, root mean square.",
            lambda band: None if band.residual is None else number(band.residual),
            "LSB",
        )
    )
    return Table.of("The network’s conversions by their sum", bands, columns)


def _pair(name: str, what: str, of: Callable[[Band], Seen | None]) -> list[Column[Band]]:
    """Share of wrong codes, and mean error, by one source."""

    def wrong(band: Band) -> str | None:
        seen = of(band)
        return None if seen is None else percent(seen.rate)

    def error(band: Band) -> str | None:
        seen = of(band)
        return None if seen is None else number(seen.error, sign="+")

    return [
        Column(f"{name}: wrong", f"Share of codes that are not those of their sums: {what}.", wrong, "%"),
        Column(f"{name}: error", f"Mean of code less ideal code: {what}.", error, "LSB"),
    ]


def render_verification(found: Verification, command: str | None = None) -> str:
    """The page as a string; the same verification and ``command`` give the same bytes."""
    title = f"{found.method or 'Network'}, verified on {found.circuit}"
    return render(
        "verification.html",
        {"command": command},
        title,
        sentence(found),
        found=found,
        rows=rows(found.rows),
        bands=conversions(found.bands),
    )


def write_verification(found: Verification, path: Path | str, command: str | None = None) -> None:
    """Write the page of a verification as one HTML file, atomically; ``command`` is shown under the summary."""
    write_atomic(Path(path), render_verification(found, command))
