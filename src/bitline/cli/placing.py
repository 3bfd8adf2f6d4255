"""Where side paths should stand, and how much of its inputs each layer has in digital."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bitline.cli.options import AsJson, Changes, File, Out, folder_of, loaded, method_of, walk_of
from bitline.cli.telling import console, errors, say


def place(
    file: File,
    budget: Annotated[str, typer.Option("--budget", help="most that side paths may add: 5% or 0.05")] = "5%",
    of: Annotated[
        Literal["parameters", "macs", "energy"], typer.Option("--of", help="what the budget is a share of")
    ] = "parameters",
    searcher: Annotated[
        str, typer.Option("--searcher", help="reinforce, ppo, random, greedy or exhaustive; or {kind: …, lr: …}")
    ] = "reinforce",
    evaluations: Annotated[
        int | None, typer.Option("--evaluations", min=1, help="placements that are trained and tested; absent: its own")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="kind or title of a `compensate`: its path, after and at; absent: the first one"),
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option("--widths", help="widths, ranks or shares, as the path's kind has: 1,2,4; absent: its usual ones"),
    ] = None,
    keep: Annotated[
        str, typer.Option("--keep", help="layers are left out from where on errors keep so much: 95% or 0.95")
    ] = "95%",
    steps: Annotated[int, typer.Option("--steps", min=1, help="of training a placement")] = 120,
    lr: Annotated[
        float | None, typer.Option("--lr", min=0, help="learning rate of these steps; absent: the experiment's")
    ] = None,
    chips: Annotated[int, typer.Option("--chips", min=1, help="that a placement is tested on")] = 5,
    images: Annotated[int, typer.Option("--images", min=1, help="that it is tested on, of the training set")] = 500,
    out: Out = None,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Search for the layers that side paths pay beside, and their widths, under a budget of overhead.

    Prints what was tried and the row of `methods` that trains the best. Writes `place.json`; what was measured in the
    folder before is not measured again, whichever searcher asks.

    Example: `bitline place examples/placement-lenet5.yaml --budget 5% --searcher reinforce`
    """
    from bitline.configuration import from_yaml
    from bitline.experiment import few, place_paths
    from bitline.methods import Compensate
    from bitline.place import Budget, read_searcher
    from bitline.report.placement import placement_table
    from bitline.units import share

    experiment, folder = loaded(file, changes), folder_of(file, out)
    voice = errors if as_json else console
    chosen = next((one for one in experiment.methods if isinstance(one, Compensate)), Compensate())
    if method is not None:
        chosen = method_of(experiment, method)
        if not isinstance(chosen, Compensate):
            raise ValueError(f"--method {method}: side paths of a `compensate` are placed, {chosen.kind} has none")
    sizes = None if widths is None else _sizes(chosen.path, widths)
    most, kept = Budget.read(budget, of), share(keep, "keep", most=1)
    tried = read_searcher(from_yaml(searcher), evaluations)
    found = place_paths(
        walk_of(experiment, folder, voice),
        chosen,
        budget=most,
        searcher=tried,
        widths=sizes,
        images=images,
        training=few(experiment.training, steps, lr),
        chips=chips,
        keep=kept,
        tell=lambda line: say(line, voice),
    )
    found.save(folder / "place.json")
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    console.print(placement_table(found, most=20))
    say(found.row)
    say(f"figures: {folder / 'place.json'}")


def _sizes(path: Any, text: str) -> tuple[float, ...]:
    from bitline.place import sizes_of

    try:
        numbers = [float(one) for one in text.split(",")]
    except ValueError:
        some = ",".join(f"{one:g}" for one in path.SIZES)
        raise ValueError(f"--widths {text!r}: numbers with commas between are expected, such as {some}") from None
    try:
        return sizes_of(path, numbers)
    except ValueError as error:
        raise ValueError(f"--widths {text}: {error}") from None


def centre(
    file: File,
    budget: Annotated[str, typer.Option("--budget", help="most that centred inputs may add: 5% or 0.05")] = "5%",
    of: Annotated[
        Literal["parameters", "macs", "energy"], typer.Option("--of", help="what the budget is a share of")
    ] = "macs",
    chips: Annotated[int, typer.Option("--chips", min=2, help="dies that tell what a layer's errors do")] = 8,
    write: Annotated[
        Path | None, typer.Option("--write", help="the experiment with these directions of each layer, in YAML")
    ] = None,
    out: Out = None,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Spend a budget on directions of centred inputs, layer by layer, where they win most.

    Prints what each layer's errors do to the answers, the directions it has in digital, and the line of a method or of
    `test` that gives it them. Writes `centre.json`, and with `--write` an experiment to run: in its methods that centre
    inputs these directions stand in place of theirs, and its test has a row more.

    Example: `bitline centre examples/correctnet-lenet5.yaml --budget 20% --of macs`
    """
    from bitline.experiment import centred, share_directions, written
    from bitline.files import write_atomic
    from bitline.place import Budget
    from bitline.report.placement import directions_table

    experiment, folder = loaded(file, changes), folder_of(file, out)
    voice = errors if as_json else console
    found = share_directions(walk_of(experiment, folder, voice), Budget.read(budget, of), chips=chips)
    found.save(folder / "centre.json")
    if write is not None:
        write_atomic(write, written(centred(experiment, found.path)))
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    console.print(directions_table(found))
    if found.scarce:
        told = f"more power is left than told of {', '.join(found.scarce)}"
        say(f"{told}: found on few inputs, raise test.recalibration_batches")
    say(found.row)
    say(f"figures: {folder / 'centre.json'}" + (f"   experiment: {write}" if write is not None else ""))
