"""What there is: the macros that come with Bitline, and the schemas of its files."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from bitline.cli.options import AsJson, Written
from bitline.cli.telling import console, write


def presets(
    name: Annotated[str | None, typer.Argument(help="a preset; absent: list them all")] = None,
    as_json: AsJson = False,
) -> None:
    """List the macros that come with Bitline, or describe one."""
    from bitline import presets as shipped
    from bitline.report.tables import facts_table
    from bitline.report.terminal import Table

    if name is not None:
        macro = shipped.load(name)
        if as_json:
            typer.echo(json.dumps(macro.dump(), indent=2))
            return
        console.print(facts_table(macro))
        return
    if as_json:
        typer.echo(json.dumps(shipped.names()))
        return
    table = Table(caption="in bits · bitline presets NAME: every figure of one, with its source")
    table.words("preset")
    table.figures("rows × columns")
    table.words("inputs", "weights")
    table.figures("ADC")
    for each in shipped.names():
        macro = shipped.load(each)
        digits = [f"{s.bits} {s.kind}" if s else "continuous" for s in (macro.inputs, macro.weights)]
        readout = str(macro.converter.bits) if macro.converter else "none"
        table.add_row(each, f"{macro.rows} × {macro.columns}", *digits, readout)
    console.print(table)


def schema(
    what: Annotated[str, typer.Argument(help="`experiment`, `macro`, `technology` or `bundle`")] = "experiment",
    out: Written = None,
) -> None:
    """Print the JSON schema of an experiment, a macro, a technology or a deploy bundle, for editors that complete and
    check it.

    Example: `bitline schema technology --out technology.json`
    """
    from bitline.cost import Technology
    from bitline.experiment import Experiment
    from bitline.lab.bundle import Record
    from bitline.macro import Macro

    kinds: dict[str, type[Experiment | Macro | Technology | Record]] = {
        "experiment": Experiment,
        "macro": Macro,
        "technology": Technology,
        "bundle": Record,
    }
    if what not in kinds:
        raise ValueError(f"no schema {what!r}; there are: {', '.join(kinds)}")
    write(json.dumps(kinds[what].model_json_schema(), indent=2) + "\n", out)
