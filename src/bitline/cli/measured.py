"""A log of conversions: it becomes a macro to train for, and is long enough for a network or not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bitline.cli.options import AsJson, Changes, File, Out, folder_of, loaded, method_of, walk_of
from bitline.cli.telling import console, errors, say

Log = Annotated[Path, typer.Argument(help="log of conversions, .parquet or .csv: a board's, a circuit's, yours")]
Where = Annotated[list[str] | None, typer.Option("--where", help="column=value: the rows to take; several")]
Over = Annotated[list[str] | None, typer.Option("--over", help="condition whose values are pooled; several")]
Least = Annotated[int, typer.Option("--least", min=1, help="reads below which a row borrows a neighbour's")]
Reach = Annotated[int, typer.Option("--reach", min=0, help="codes away that a neighbour may be")]


def fit(
    samples: Log,
    macro: Annotated[str, typer.Argument(help="a macro (YAML or preset) with its rows, columns and number formats")],
    out: Annotated[Path, typer.Option("--out", help="macro to write, whose error model is the log's")],
    per: Annotated[
        Literal["pooled", "bank", "column"], typer.Option("--per", help="a table for the whole macro, or one for each")
    ] = "pooled",
    bank: Annotated[int | None, typer.Option("--bank", min=2, help="columns of a bank; with --per bank")] = None,
    physical: Annotated[
        bool, typer.Option("--physical", help="this very die, each column (bank) with its table; absent: dice like it")
    ] = False,
    arrays: Annotated[
        int | None, typer.Option("--arrays", min=1, help="the board's, rewritten as a network runs; absent: no limit")
    ] = None,
    where: Where = None,
    over: Over = None,
    low: Annotated[
        float | None, typer.Option("--low", help="value of the first code, counts; absent: as logged")
    ] = None,
    step: Annotated[float | None, typer.Option("--step", help="counts a code; absent: as logged")] = None,
    codes: Annotated[int | None, typer.Option("--codes", min=2, help="of the converter; absent: as logged")] = None,
    least: Least = 8,
    reach: Reach = 4,
    smoothing: Annotated[
        float, typer.Option("--smoothing", min=0, help="added to the counts of codes next to the ideal one")
    ] = 0.0,
    picture: Annotated[Path | None, typer.Option("--picture", help="SVG: the table beside a fitted Gaussian")] = None,
) -> None:
    """Turn a log of conversions into a macro to train for: P(code | ideal code), counted.

    Says what was read too seldom, how much of the error is frozen, and what a Gaussian would miss.

    Example: `bitline fit chip.parquet generic-8t-sram --per column --physical --arrays 2 --out chip.yaml`
    """
    from bitline import presets
    from bitline.configuration import to_yaml
    from bitline.files import write_atomic
    from bitline.macro import fit_macro
    from bitline.report.error_tables import table_picture

    found = fit_macro(
        _taken(samples, where),
        presets.load(macro),
        out.stem,
        per=per,
        assign="physical" if physical else "drawn",
        arrays=arrays,
        low=low,
        step=step,
        codes=codes,
        bank=bank,
        over=tuple(over or ()),
        least=least,
        reach=reach,
        smoothing=smoothing,
    )
    write_atomic(out, to_yaml(found.macro.dump()))
    if picture is not None:
        write_atomic(picture, table_picture([("measured", found.column), ("fitted Gaussian", found.gaussian)]))
    say(f"{found.told}\n{out}: trained for by `macro: {out.name}` of an experiment beside it")


def enough(
    samples: Log,
    file: File,
    method: Annotated[
        str | None, typer.Option("--method", help="kind or title of the one whose network it is for; absent: untrained")
    ] = None,
    out: Out = None,
    tolerance: Annotated[float, typer.Option("--tolerance", help="error of the accuracy allowed, points")] = 0.5,
    halvings: Annotated[int, typer.Option("--halvings", min=1, help="of the log, one after the other")] = 6,
    parts: Annotated[int, typer.Option("--parts", min=1, help="of each size, at most, that are compared")] = 4,
    chips: Annotated[int, typer.Option("--chips", min=1, help="that each table is tested on")] = 4,
    where: Where = None,
    over: Over = None,
    least: Least = 8,
    reach: Reach = 4,
    picture: Annotated[Path | None, typer.Option("--picture", help="SVG: error of the accuracy by reads")] = None,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Tell how many reads of a log are enough for a network: how far its accuracy is off with tables from half of the
    log, a quarter, an eighth …

    The experiment's macro is one that `bitline fit` made of the log, with the same `--least` and `--reach`.

    Example: `bitline enough chip.parquet experiment.yaml --method dnat --tolerance 1 --picture enough.svg`
    """
    from bitline.evaluate import accuracy_curve
    from bitline.files import write_atomic
    from bitline.report.sample_curve import accuracy_picture

    log, experiment = _taken(samples, where), loaded(file, changes)
    macro, chosen = experiment.on(), method_of(experiment, method) if method else None
    walk = walk_of(experiment, folder_of(file, out), errors if as_json else console)
    model = walk.converted(walk.float_network(), macro)
    if chosen is not None:
        model = walk.trained(model, macro, chosen)
    found = accuracy_curve(
        model,
        walk.source(),
        log,
        tolerance=tolerance,
        halvings=halvings,
        parts=parts,
        chips=chips,
        seed=experiment.seed,
        least=least,
        reach=reach,
        over=tuple(over or ()),
    )
    if picture is not None:
        write_atomic(picture, accuracy_picture(found))
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    say(found.text())


def _taken(samples: Path, where: list[str] | None) -> Any:
    """The rows of a log that are asked for."""
    from bitline.samples import Samples

    log = Samples.load(samples)
    wanted = dict(_condition(text) for text in where or ())
    if unknown := wanted.keys() - log.columns().keys():
        raise ValueError(f"--where {unknown.pop()}: {samples} has the columns {', '.join(log.columns())}")
    taken = log.select(**wanted)
    if not len(taken):
        raise ValueError(f"{samples} has no rows where {' and '.join(where or ())}: {log.summary()}")
    return taken


def _condition(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"--where {text!r}: expected column=value, such as temperature=300") from None
