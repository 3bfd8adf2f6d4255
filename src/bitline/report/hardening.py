"""What hardening found: its story as a page and as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.text import Text

from bitline.cost import brief
from bitline.evaluate.hardened import Attempt, Hardened, Step
from bitline.files import write_atomic
from bitline.report import contents
from bitline.report.charts import Axis, span
from bitline.report.contents import Column, Table, count, number, percent, spread
from bitline.report.html import render
from bitline.report.tables import cell
from bitline.report.terminal import Table as Printed

WHAT = {"mean": "mean over chips", "p5": "5th percentile over chips"}


def sentence(found: Hardened) -> str:
    """What happened, in one sentence."""
    before, final = found.verified[1], found.final
    verdict = "holds" if found.holds else "does not hold"
    told = (
        f"On {found.macro} the network has {before.reached(found.by):.1f} % as converted and "
        f"{final.reached(found.by):.1f} % hardened ({WHAT[found.by]}, {final.chips} test dies), "
        f"{100 * found.share:.1f} % of its accuracy without errors: the target of {100 * found.target:g} % {verdict}"
    )
    saved = "; ".join(f"{100 * share:.0f} % by {brief(law)}" for law, share in found.saved().items())
    told += f". Energy of conversions saved: {saved}" if saved else ""
    if net := found.net(found.kept):
        shares = "; ".join(f"{number(100 * share, 1, '+')} % by {brief(law)}" for law, share in net.items())
        told += f". Energy saved in all, less what side paths take, against the untouched network: {shares}"
    return f"{told}. Energy is not told: {found.unpriced}." if found.unpriced else f"{told}."


def conclusion(found: Hardened, step: Step) -> str | None:
    """What a step came to; None for one that was left out."""
    if not step.attempts or step.kept is None:
        return None
    figure = f"{step.kept.row.reached(found.by):.2f} %"
    goal = f"{found.at_least:.2f} %"
    told = f"Kept: {step.kept.name} with {figure}, " + (f"{goal} hold" if step.holds else f"short of {goal}")
    if step.kept.bits:
        told += ". " + "; ".join(f"{layer}: {bits}" for layer, bits in step.kept.bits.items())
    if step.kept not in step.attempts:
        told = f"Nothing better. {told}"
    return told


def attempts(found: Hardened, step: Step) -> Table:
    """The tries of a step, each beside a picture of its interval on one axis for all steps."""
    goal = found.at_least
    shown = [one.row for each in found.steps for one in each.attempts]
    axis = Axis.around([0.0, *(end - goal for row in shown for end in row.ci95)], margin=0.05)

    def beyond(one: Attempt) -> str:
        row = one.row
        low, high = (end - goal for end in row.ci95)
        picture = span(row.mean - goal, (low, high), axis)
        return Markup('<span class="pair">{} {}</span>').format(number(row.mean - goal, sign="+"), picture)

    def energy(one: Attempt) -> str | None:
        shares = {} if one.overhead is None else one.overhead.energy_shares
        return next(map(percent, shares.values()), None)

    columns = [
        Column[Attempt]("Network", "How it was made.", lambda one: one.name, words=True),
        Column("Kept", "What the walk goes on with.", lambda one: "kept" if one == step.kept else "", words=True),
        Column("Mean", "Over the dies that decide.", lambda one: number(one.row.mean), "%"),
        Column("Above the target", "The mean and its 95 % interval, less what is to hold.", beyond, "points"),
        Column(
            "p5",
            "5th percentile over dies; of fewer than 20 the worst.",
            lambda one: number(one.row.reached("p5")),
            "%",
        ),
        Column("Steps", "Of the optimiser, after the float network.", lambda one: count(one.steps)),
        Column(
            "Parameters",
            "What side paths store, of the network.",
            lambda one: None if one.overhead is None else percent(one.overhead.parameter_share),
            "%",
        ),
        Column(
            "MACs",
            "What side paths multiply in digital, of the network.",
            lambda one: None if one.overhead is None else percent(one.overhead.mac_share),
            "%",
        ),
        Column("Energy", "Of side paths, of the network’s, under the first ADC law.", energy, "%"),
        Column(
            "Saved",
            "Energy of a sample’s conversions, against the macro as it is; least and most of the ADC laws.",
            lambda one: spread(step.saved(one).values(), _signed),
            "%",
        ),
        Column(
            "Saved in all",
            "Energy of a sample, less what side paths take, against the network as converted; least and most of the "
            "ADC laws.",
            lambda one: spread(found.net(one).values(), _signed),
            "%",
        ),
    ]
    return Table.of(f"{step.name}: what was tried", step.attempts, columns)


def _signed(share: float) -> str:
    return number(round(100 * share, 1) + 0.0, 1)  # no minus before a zero


def hardened_tables(found: Hardened) -> list[Printed]:
    """The story for the terminal: the steps, then what was verified."""
    caption = f"accuracy in %, {WHAT[found.by]}, on dies and images that decide · to hold: {found.at_least:.2f} · " + (
        f"energy is not told: {found.unpriced}"
        if found.unpriced
        else "saved: of a sample’s energy, side paths included, least … most of the ADC laws"
    )
    story = Printed(found.title, caption)
    story.words("step", "tried")
    story.figures("accuracy", "steps", "MACs, %", "saved, %")
    for step in found.steps:
        if not step.attempts:
            story.add_row(Text(step.name, style="bold"), Text(step.told, style="dim"), "", "", "", "")
        for i, one in enumerate(step.attempts):
            story.add_row(
                Text("" if i else step.name, style="bold"),
                Text(one.name),
                cell(one.row.reached(found.by), ".2f"),
                str(one.steps),
                cell(None if one.overhead is None else 100 * one.overhead.mac_share, ".1f"),
                cell(spread(found.net(one).values(), _signed)),
                style="bold" if one == step.kept else "",
            )
    told = f"on {found.final.images} test images and dies that decided nothing · accuracy in %"
    verified = Printed("Verified", told)
    verified.words("network")
    verified.figures("mean", "interval", "p5", "worst", "chips")
    for row in found.verified:
        low, high = row.ci95
        figures = cell(row.mean, ".2f"), Text(f"{low:.2f}–{high:.2f}"), cell(row.p5, ".2f"), cell(row.worst, ".2f")
        verified.add_row(Text(row.method), *figures, str(row.chips))
    return [story, verified]


def render_hardened(found: Hardened, run: Mapping[str, Any] | None = None) -> str:
    """The page as a string; the same walk and ``run`` give the same bytes."""
    tables = [attempts(found, step) for step in found.steps]
    return render(
        "hardening.html",
        run,
        f"{found.title}, hardened",
        sentence(found),
        found.facts,
        found=found,
        steps=[(step, conclusion(found, step), table) for step, table in zip(found.steps, tables, strict=True)],
        columns={column.name: column for table in tables for column in table.columns}.values(),
        verified=contents.accuracy(found.verified),
        goal=number(found.at_least),
        what=WHAT[found.by],
    )


def write_hardened(found: Hardened, path: Path | str, run: Mapping[str, Any] | None = None) -> None:
    """Write the page as one HTML file, atomically; ``run`` as of ``write_html``."""
    write_atomic(Path(path), render_hardened(found, run))
