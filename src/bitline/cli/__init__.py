"""The command ``bitline``: thin commands over the library."""

from __future__ import annotations

from collections.abc import Callable

import typer

from bitline.cli.catalogue import presets, schema
from bitline.cli.circuits import characterize, export_spice
from bitline.cli.experiments import demo, evaluate, report, run, sweep, train
from bitline.cli.hardening import harden
from bitline.cli.measured import enough, fit
from bitline.cli.networks import convert, cost, curvature, export, ranges, verify
from bitline.cli.placing import centre, place
from bitline.cli.search import search
from bitline.cli.telling import Told
from bitline.lab.cli import lab

__all__ = ["app"]

COMMANDS: dict[str, Callable[..., None]] = {  # in the order of the help
    "run": run,
    "demo": demo,
    "sweep": sweep,
    "harden": harden,
    "search": search,
    "convert": convert,
    "cost": cost,
    "train": train,
    "evaluate": evaluate,
    "ranges": ranges,
    "place": place,
    "centre": centre,
    "verify": verify,
    "curvature": curvature,
    "report": report,
    "characterize": characterize,
    "fit": fit,
    "enough": enough,
    "presets": presets,
    "export-spice": export_spice,
    "export": export,
    "schema": schema,
}

app = typer.Typer(
    cls=Told,
    help="Make a neural network work on a compute-in-memory macro, and show the evidence.\n\n"
    "Start with `bitline demo`, then `bitline presets`, then write an experiment and `bitline run` it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(lab, name="lab")
