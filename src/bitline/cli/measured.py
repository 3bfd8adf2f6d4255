"""``bitline fit``: a log of conversions becomes a macro to train for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bitline.cli.telling import say


def fit(
    samples: Annotated[
        Path, typer.Argument(help="log of conversions, .parquet or .csv: a board's, a circuit's, yours")
    ],
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
    where: Annotated[list[str] | None, typer.Option("--where", help="column=value: the rows to take; several")] = None,
    over: Annotated[list[str] | None, typer.Option("--over", help="condition whose values are pooled; several")] = None,
    low: Annotated[
        float | None, typer.Option("--low", help="value of the first code, counts; absent: as logged")
    ] = None,
    step: Annotated[float | None, typer.Option("--step", help="counts a code; absent: as logged")] = None,
    codes: Annotated[int | None, typer.Option("--codes", min=2, help="of the converter; absent: as logged")] = None,
    least: Annotated[int, typer.Option("--least", min=1, help="reads below which a row borrows a neighbour's")] = 8,
    reach: Annotated[int, typer.Option("--reach", min=0, help="codes away that a neighbour may be")] = 4,
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
    from bitline.evaluate import write_atomic
    from bitline.macro import fit_macro
    from bitline.report.error_tables import table_picture
    from bitline.samples import Samples

    log = Samples.load(samples)
    wanted = dict(_condition(text) for text in where or ())
    if unknown := wanted.keys() - log.columns().keys():
        raise ValueError(f"--where {unknown.pop()}: {samples} has the columns {', '.join(log.columns())}")
    taken = log.select(**wanted)
    if not len(taken):
        raise ValueError(f"{samples} has no rows where {' and '.join(where or ())}: {log.summary()}")
    found = fit_macro(
        taken,
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


def _condition(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"--where {text!r}: expected column=value, such as temperature=300") from None
