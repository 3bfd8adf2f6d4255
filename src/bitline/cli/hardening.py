"""The whole walk from a network to one that holds on its macro."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bitline.cli.options import AsJson, Changes, Fresh, Out, folder_of, loaded
from bitline.cli.telling import console, errors, say


def harden(
    file: Annotated[
        Path, typer.Argument(metavar="NETWORK", help="an experiment in YAML: the network, its data and training")
    ],
    macro: Annotated[
        str | None, typer.Argument(metavar="MACRO", help="a preset, or a YAML file; absent: the experiment's own macro")
    ] = None,
    target: Annotated[str, typer.Option("--target", help="of the accuracy without errors: 95% or 0.95")] = "95%",
    percentile: Annotated[
        bool, typer.Option("--percentile", help="hold it at the 5th percentile of chips, not at their mean")
    ] = False,
    per_chip: Annotated[
        bool, typer.Option("--per-chip", help="allow what has to be done on each chip, as a last step")
    ] = False,
    budget: Annotated[str, typer.Option("--budget", help="most that side paths may add: 5% or 0.05")] = "5%",
    of: Annotated[
        Literal["parameters", "macs", "energy"], typer.Option("--of", help="what the budget is a share of")
    ] = "parameters",
    searcher: Annotated[
        str | None,
        typer.Option("--searcher", help="of places for side paths, as of `place`; absent: 16 by reinforce"),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="of training a placement")] = 120,
    chips: Annotated[int, typer.Option("--chips", min=1, help="that steps are decided by")] = 10,
    images: Annotated[
        int, typer.Option("--images", min=1, help="that steps are decided by, of the training set")
    ] = 500,
    out: Out = None,
    changes: Changes = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Make a network hold a share of its accuracy on its macro, by the least that does it: measure, train, compensate,
    each only if the target does not hold before; then give away bits while it does; then verify on other chips.

    Goes on where it stopped. Writes `hardened.html`, `hardened.json`, and `hardened.yaml`: the experiment that makes
    the network, for `bitline run`.

    Example: `bitline harden examples/resnet20-cifar10.yaml generic-8t-sram --target 95%`
    """
    from bitline.configuration import from_yaml
    from bitline.experiment import HardenRun, Placing, clear
    from bitline.place import Budget, read_searcher
    from bitline.report.hardening import hardened_tables, sentence
    from bitline.units import share

    experiment, folder = loaded(file, changes, macro=macro), folder_of(file, out, macro)
    if fresh:
        clear(folder)
    voice = errors if as_json else console
    placing = Placing(
        budget=Budget.read(budget, of),
        searcher=Placing().searcher if searcher is None else read_searcher(from_yaml(searcher)),
        tries=steps,
        chips=chips,
        images=images,
    )
    found = HardenRun(
        experiment,
        folder,
        share(target, "target", 1.0),
        "p5" if percentile else "mean",
        per_chip,
        placing,
        lambda line: say(line, voice),
        voice.is_terminal,
    )()
    if as_json:
        typer.echo(found.model_dump_json(indent=2, by_alias=True))
        return
    for table in hardened_tables(found):
        console.print(table)
    say(sentence(found))
    say(f"report: {folder / 'hardened.html'}   to go on with: bitline run {folder / 'hardened.yaml'}")
