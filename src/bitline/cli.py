"""The command ``bitline``: thin commands over the library."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    help="Make a neural network work on a compute-in-memory macro, and show the evidence.\n\n"
    "Start with `bitline demo`, then `bitline presets`, then write an experiment and `bitline run` it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

File = Annotated[Path, typer.Argument(help="an experiment in YAML; `bitline schema` prints its JSON schema")]
Out = Annotated[Path | None, typer.Option("--out", help="folder for results; default: out/<name of the experiment>")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="lay key=value over the YAML: --set test.chips=5")]
Fresh = Annotated[bool, typer.Option("--fresh", help="start over: remove what an earlier run left in the folder")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON on standard output, and nothing else there")]
Plan = Annotated[str | None, typer.Option("--plan", help="force a plan: `reference` is the slow oracle")]

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


@contextmanager
def _told() -> Iterator[None]:
    """What a user can mend is one message and exit status 2, not a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError, ArithmeticError) as error:
        errors.print(
            f"[bold red]error:[/] {type(error).__name__}" if not str(error) else "[bold red]error:[/]", end=" "
        )
        errors.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        errors.print("interrupted; run the same command again to go on")
        raise typer.Exit(130) from None


def _run(experiment: Any, out: Path, fresh: bool, as_json: bool, into: Path | None = None) -> None:
    from bitline.experiment import Run
    from bitline.macro import slow
    from bitline.report.tables import facts_table, summary_table

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if fresh:
        _clear(out)
    voice = errors if as_json else console

    def tell(line: str) -> None:
        voice.print(line, markup=False, soft_wrap=True)

    def chip(place: str, number: int, accuracy: float) -> None:
        """One line a row of the table, chip after chip."""
        start = f"{place}, % on each chip:" if number == 0 else ""
        last = number + 1 == experiment.test.chips
        voice.print(f"{start} {accuracy:.1f}", end="\n" if last else "", markup=False, soft_wrap=True)
        voice.file.flush()

    if (reason := slow()) is not None:
        tell(f"slower, with the same results: {reason}")
    walk = Run(experiment, out, tell, chip, progress=voice.is_terminal, into=into)
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
    console.print(f"report: {into / 'report.html'}   figures: {into / 'result.json'}", markup=False, soft_wrap=True)


def _clear(out: Path) -> None:
    """Remove what a run left in a folder, and nothing else."""
    for name in ("train", "answers"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("experiment.yaml", "result.json", "rows.csv", "run.json", "report.html"):
        with suppress(OSError):
            (out / name).unlink()


def _loaded(file: Path, changes: list[str] | None, plan: str | None) -> Any:
    from bitline.experiment import load

    return load(file, [*(changes or ()), *([f"plan={plan}"] if plan else ())])


def _chosen(experiment: Any, kind: str) -> tuple[Any, ...]:
    """The methods of a kind, at least one; raises ValueError naming those there are."""
    chosen = tuple(m for m in experiment.methods if m.kind == kind)
    if not chosen:
        there = ", ".join(m.kind for m in experiment.methods)
        raise ValueError(f"--method {kind}: the experiment has no such method; it has: {there}")
    return chosen


@app.command()
def run(
    file: File,
    out: Out = None,
    changes: Changes = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
    plan: Plan = None,
) -> None:
    """Carry out a whole experiment: train by each method, test on chips, report.

    What an interrupted run had done is not done again. Writes `result.json`, `report.html`, `rows.csv`, `run.json`.

    Example: `bitline run examples/digits.yaml --set test.chips=5`
    """
    with _told():
        _run(_loaded(file, changes, plan), out or Path("out") / file.stem, fresh, as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="folder for results")] = Path("out/demo"),
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """The embedded experiment: handwritten digits on an 8T SRAM macro, about a minute, no data to fetch."""
    from importlib.resources import as_file, files

    with _told(), as_file(files("bitline.experiment") / "demo.yaml") as file:
        _run(_loaded(file, changes, None), out, True, as_json)


@app.command()
def convert(file: File, changes: Changes = None, as_json: AsJson = False, plan: Plan = None) -> None:
    """Show how a network sits on its macro: tiles, utilisation, conversions, plans; what stays digital and why."""
    import torch

    from bitline import nn
    from bitline.report.tables import mapping_table

    with _told():
        experiment = _loaded(file, changes, plan)
        sample = experiment.data.set.test()[:1].images.float()
        found: list[nn.Mapped] = []
        for macro in experiment.macros:
            model = experiment.place(experiment.network.build(experiment.seed).eval(), macro)
            with torch.no_grad():
                nn.walk(model, [sample])
            rows = nn.mapping(model)
            found += rows
            if not as_json:
                console.print(mapping_table(rows))
        if as_json:
            typer.echo(json.dumps([row.model_dump() for row in found], indent=2))


@app.command()
def train(
    file: File,
    method: Annotated[str, typer.Option("--method", help="kind of the method to train with, e.g. error_aware")],
    out: Out = None,
    changes: Changes = None,
    plan: Plan = None,
) -> None:
    """Train by one of an experiment's methods and save the network; `run` in the same folder goes on from there."""
    from bitline.experiment import Run

    with _told():
        experiment = _loaded(file, changes, plan)
        chosen = _chosen(experiment, method)[0]
        folder = out or Path("out") / file.stem
        walk = Run(experiment, folder, lambda line: console.print(line, markup=False), progress=console.is_terminal)
        net = walk.float_network()
        for macro in experiment.macros:
            walk.trained(walk.converted(net, macro), macro, chosen)
        console.print(f"saved under {folder / 'train'}", markup=False, soft_wrap=True)


@app.command()
def evaluate(
    file: File,
    method: Annotated[str, typer.Option("--method", help="kind of the method whose trained network is tested")],
    out: Out = None,
    changes: Changes = None,
    as_json: AsJson = False,
    plan: Plan = None,
) -> None:
    """Test one method's network on chips, trained before in the same folder, or now.

    Results go to `evaluate-METHOD` in that folder.
    """
    with _told():
        experiment = _loaded(file, changes, plan)
        chosen = _chosen(experiment, method)
        one = experiment.model_copy(update={"methods": chosen})
        folder = out or Path("out") / file.stem
        _run(one, folder, False, as_json, folder / f"evaluate-{method}")


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="a result.json")],
    out: Annotated[Path | None, typer.Option("--out", help="the HTML file; default: report.html beside it")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="also write the rows as CSV")] = None,
) -> None:
    """Write the HTML report of a result again, and print its summary."""
    from bitline.evaluate import Result
    from bitline.report import write_csv, write_html
    from bitline.report.tables import summary_table

    with _told():
        result = Result.read(file)
        beside = file.with_name("run.json")
        run = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else None
        page = out or file.with_name("report.html")
        write_html(result, page, run)
        if csv is not None:
            write_csv(result, csv)
        console.print(summary_table(result))
        console.print(str(page), markup=False, soft_wrap=True)


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="a preset; absent: list them all")] = None,
    as_json: AsJson = False,
) -> None:
    """List the macros that come with Bitline, or describe one."""
    from bitline import presets as shipped
    from bitline.report.tables import facts_table

    with _told():
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
        table = Table("preset", "rows × columns", "inputs", "weights", "converter", "source")
        for each in shipped.names():
            macro = shipped.load(each)
            digits = [f"{s.bits} bit {s.kind}" if s else "continuous" for s in (macro.inputs, macro.weights)]
            readout = f"{macro.converter.bits} bit" if macro.converter else "none"
            table.add_row(each, f"{macro.rows} × {macro.columns}", *digits, readout, macro.source)
        console.print(table)


@app.command()
def schema(
    what: Annotated[str, typer.Argument(help="`experiment` or `macro`")] = "experiment",
    out: Annotated[Path | None, typer.Option("--out", help="file to write; default: standard output")] = None,
) -> None:
    """Print the JSON schema of an experiment or a macro, for editors that complete and check YAML."""
    from bitline.evaluate import write_atomic
    from bitline.experiment import Experiment
    from bitline.macro import Macro

    with _told():
        kinds: dict[str, type[Experiment] | type[Macro]] = {"experiment": Experiment, "macro": Macro}
        if what not in kinds:
            raise ValueError(f"no schema {what!r}; there are: {', '.join(kinds)}")
        text = json.dumps(kinds[what].model_json_schema(), indent=2)
        if out is None:
            typer.echo(text)
        else:
            write_atomic(out, text + "\n")
