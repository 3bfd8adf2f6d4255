"""Options that several commands share, and what they stand for: an experiment, its folder, its methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bitline.cli.telling import console

File = Annotated[Path, typer.Argument(help="an experiment in YAML; `bitline schema` prints its JSON schema")]
Out = Annotated[Path | None, typer.Option("--out", help="folder for results; default: out/<name of the experiment>")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="lay key=value over the YAML: --set test.chips=5")]
Fresh = Annotated[bool, typer.Option("--fresh", help="start over: remove what an earlier run left in the folder")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON on standard output, and nothing else there")]
Plan = Annotated[str | None, typer.Option("--plan", help="force a plan: `reference` is the slow oracle")]
Written = Annotated[Path | None, typer.Option("--out", help="file to write; default: standard output")]
Count = Annotated[int | None, typer.Option("--workers", min=1, help="share chips out over so many Ray workers")]
Address = Annotated[str | None, typer.Option("--address", help="of a Ray cluster: its workers; absent: local ones")]
Ngspice = Annotated[str, typer.Option("--ngspice", help="the simulator's program")]


def loaded(file: Path, changes: list[str] | None, plan: str | None = None, macro: str | None = None) -> Any:
    """An experiment from its file, on its own macro or another; ``demo``, where no file is called so, is the embedded
    one."""
    from importlib.resources import as_file, files

    from bitline.experiment import load

    laid = [*(changes or ()), *([f"plan={plan}"] if plan else ())]
    if file == Path("demo") and not file.exists():
        with as_file(files("bitline.experiment") / "demo.yaml") as embedded:
            return load(embedded, laid, macro)
    return load(file, laid, macro)


def folder_of(file: Path, out: Path | None, macro: str | None = None) -> Path:
    """The folder of an experiment's results, on its own macro or another."""
    return out or Path("out") / (file.stem if macro is None else f"{file.stem}-{Path(macro).stem}")


def workers_of(count: int | None, address: str | None) -> Any:
    """The Ray workers asked for; None: this process does it all."""
    from bitline.evaluate import Workers

    return None if count is None and address is None else Workers(count=count, address=address)


def method_of(experiment: Any, name: str) -> Any:
    """The only method of this kind, or that of this title; raises ValueError naming those there are."""
    first, *more = experiment.named(name, "--method ")
    if more:
        there = ", ".join(repr(m.title) for m in (first, *more))
        raise ValueError(f"--method {name}: the experiment has {1 + len(more)} of them; choose by title: {there}")
    return first


def walk_of(experiment: Any, folder: Path, voice: Console = console) -> Any:
    """The experiment's run in a folder, told as it goes."""
    from bitline.experiment import Run

    return Run(experiment, folder, lambda line: voice.print(line, markup=False), progress=voice.is_terminal)
