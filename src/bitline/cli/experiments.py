"""Experiments: carried out, a part of one carried out, and reported again."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from bitline.cli.options import (
    Address,
    AsJson,
    Changes,
    Count,
    File,
    Fresh,
    Out,
    Plan,
    folder_of,
    loaded,
    method_of,
    walk_of,
    workers_of,
)
from bitline.cli.telling import console, errors, say


def run(
    file: File,
    out: Out = None,
    changes: Changes = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
    plan: Plan = None,
    workers: Count = None,
    address: Address = None,
) -> None:
    """Carry out a whole experiment: train by each method, test on chips, report.

    What an interrupted run had done is not done again. Writes `result.json`, `report.html`, `rows.csv`, `run.json`.
    With `--workers`, or `--address` of a Ray cluster, chips are tested several at once: the same results.

    Example: `bitline run examples/digits-two-macros.yaml --set test.chips=5`
    """
    _run(loaded(file, changes, plan), folder_of(file, out), fresh, as_json, workers=workers_of(workers, address))


def sweep(
    file: File,
    over: Annotated[
        list[str], typer.Option("--over", help="key of the macro and values to test at: macro.variation.sigma=0.05,0.1")
    ],
    train_over: Annotated[
        list[str] | None,
        typer.Option("--train-over", help="key of the experiment and values, for each of which methods are trained"),
    ] = None,
    out: Out = None,
    changes: Changes = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
    plan: Plan = None,
    workers: Count = None,
    address: Address = None,
) -> None:
    """Test an experiment's methods at many macros: accuracy against any of its keys, with intervals, on the same chips.

    Each method is trained once, or once for each `--train-over` value, and tested at every combination of `--over`
    values. What was done before in the folder, by `run` too, is not done again. Writes `sweep.json`, `sweep.html` and
    `sweep.csv`.

    Example: `bitline sweep demo --over macro.converter.noise=0.2,0.5,1 --workers 2`
    """
    from bitline.evaluate import Over
    from bitline.experiment import SweepRun, clear

    experiment, folder = loaded(file, changes, plan), folder_of(file, out)
    if fresh:
        clear(folder)
    voice = errors if as_json else console
    walk = SweepRun(
        experiment,
        [Over.read(text) for text in over],
        folder,
        [Over.read(text, "--train-over") for text in train_over or ()],
        lambda line: say(line, voice),
        progress=voice.is_terminal,
        workers=workers_of(workers, address),
    )
    found = walk()
    if as_json:
        typer.echo(found.model_dump_json(indent=2, by_alias=True))
        return
    say(found.sentence)
    say(f"report: {folder / 'sweep.html'}   figures: {folder / 'sweep.json'}, {folder / 'sweep.csv'}")


def demo(
    out: Annotated[Path, typer.Option("--out", help="folder for results")] = Path("out/demo"),
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """The embedded experiment: digits on an 8T SRAM macro from ngspice, about a minute, no data to fetch."""
    _run(loaded(Path("demo"), changes), out, True, as_json)


def train(
    file: File,
    method: Annotated[str, typer.Option("--method", help="kind or title of the one to train with, e.g. error_aware")],
    out: Out = None,
    changes: Changes = None,
    plan: Plan = None,
) -> None:
    """Train by one of an experiment's methods and save the network; `run` in the same folder goes on from there.

    Several processes train it together, each on chips of its own:
    `torchrun --nproc-per-node 2 -m bitline train EXPERIMENT.yaml --method error_aware`
    """
    from bitline.train import joined

    experiment = loaded(file, changes, plan)
    chosen = method_of(experiment, method)
    folder = folder_of(file, out)
    with joined() as rank:
        walk = walk_of(experiment, folder)
        net = walk.float_network()
        for macro in experiment.macros:
            walk.trained(walk.converted(net, macro), macro, chosen)
    if rank == 0:
        say(f"saved under {folder / 'train'}")


def evaluate(
    file: File,
    method: Annotated[str, typer.Option("--method", help="kind or title of the one whose trained network is tested")],
    out: Out = None,
    changes: Changes = None,
    as_json: AsJson = False,
    plan: Plan = None,
) -> None:
    """Test a method's network on chips, trained before in the same folder, or now.

    Results go to `evaluate-METHOD` in that folder.
    """
    from bitline.experiment import slug

    experiment = loaded(file, changes, plan)
    chosen = experiment.named(method, "--method ")
    one = experiment.model_copy(update={"methods": chosen})
    folder = folder_of(file, out)
    _run(one, folder, False, as_json, folder / f"evaluate-{slug(method)}")


def report(
    file: Annotated[Path, typer.Argument(help="a result.json")],
    out: Annotated[Path | None, typer.Option("--out", help="the HTML file; default: report.html beside it")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="also write the rows as CSV")] = None,
) -> None:
    """Write the HTML report of a result again, and print its summary."""
    from bitline.evaluate import Result
    from bitline.report import write_csv, write_html
    from bitline.report.tables import summary_table

    result = Result.load(file)
    beside = file.with_name("run.json")
    run = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else None
    page = out or file.with_name("report.html")
    write_html(result, page, run)
    if csv is not None:
        write_csv(result, csv)
    console.print(summary_table(result))
    say(str(page))


def _run(experiment: Any, out: Path, fresh: bool, as_json: bool, into: Path | None = None, workers: Any = None) -> None:
    from bitline.experiment import Run, clear
    from bitline.macro import slow
    from bitline.report.tables import facts_table, summary_table
    from bitline.train import started

    if started() > 1:
        raise ValueError("torchrun is for `bitline train`: `bitline run` in its folder then tests what was trained")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if fresh:
        clear(out)
    voice = errors if as_json else console

    def tell(line: str) -> None:
        say(line, voice)

    def chip(place: str, number: int, accuracy: float) -> None:
        """One line a row of the table, chip after chip."""
        start = f"{place}, % on each chip:" if number == 0 else ""
        last = number + 1 == experiment.test.chips
        voice.print(f"{start} {accuracy:.1f}", end="\n" if last else "", markup=False, soft_wrap=True)
        voice.file.flush()

    if (reason := slow()) is not None:
        tell(f"slower, with the same results: {reason}")
    walk = Run(experiment, out, tell, chip, progress=voice.is_terminal, into=into, workers=workers)
    for macro in experiment.macros:
        voice.print(facts_table(macro))
    result = walk()
    if as_json:
        typer.echo(result.model_dump_json(indent=2, by_alias=True))
        return
    console.print()
    console.print(summary_table(result))
    console.print(result.sentence, markup=False)
    into = into or out
    say(f"report: {into / 'report.html'}   figures: {into / 'result.json'}")
