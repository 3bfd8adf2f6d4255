"""Circuits: columns characterised in ngspice, arrays written for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bitline.cli.options import Changes, Ngspice, Written, folder_of, loaded, method_of, walk_of
from bitline.cli.telling import errors, say, terminable, write


def characterize(
    circuit: Annotated[str, typer.Argument(help="a circuit in YAML, or the name of one that comes with Bitline")],
    out: Annotated[Path, typer.Option("--out", help="samples to write: .parquet or .csv")],
    points: Annotated[int, typer.Option("--points", min=1, help="points to simulate, or to choose from")] = 512,
    vectors: Annotated[Path | None, typer.Option("--vectors", help="samples whose x and w to simulate")] = None,
    dice: Annotated[int, typer.Option("--dice", min=0, help="points on dies of their own, with mismatch")] = 0,
    reads: Annotated[int, typer.Option("--reads", min=0, help="reads of a point, with the circuit's noise")] = 0,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="macro to write: fit a behavioural model to as few points as it needs"),
    ] = None,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="rms error held out, LSB; with --model")] = 0.2,
    inner: Annotated[
        bool, typer.Option("--inner", help="pattern counts inside the curve too: lines that bend far; with --model")
    ] = False,
    picture: Annotated[Path | None, typer.Option("--picture", help="SVG of the residuals; with --model")] = None,
    corner: Annotated[str | None, typer.Option("--corner", help="tt, ff, ss, or what the card has")] = None,
    temperature: Annotated[str | None, typer.Option("--temperature", help='such as "125 degC"')] = None,
    supply: Annotated[str | None, typer.Option("--supply", help='such as "0.9 V"')] = None,
    card: Annotated[
        list[str] | None, typer.Option("--card", help="file of model cards; several; {corner} in a path is its name")
    ] = None,
    card_corners: Annotated[
        str | None, typer.Option("--card-corners", help="what corners are called in paths: tt=nom,ff=ff,ss=ss")
    ] = None,
    nmos: Annotated[str | None, typer.Option("--nmos", help="model in the card; absent: the only one")] = None,
    pmos: Annotated[str | None, typer.Option("--pmos", help="model in the card; absent: the only one")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="simulations at once; absent: one a core")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.01, help="seconds a point may take")] = 120.0,
    ngspice: Ngspice = "ngspice",
    cache: Annotated[Path | None, typer.Option("--cache", help="finished points; default: beside --out")] = None,
) -> None:
    """Simulate a column circuit in ngspice: samples, and with `--model` a macro to train networks on.

    Finished points are kept: the same command goes on where it was interrupted. See docs/circuits.md.

    Example: `bitline characterize sram-8t-pwm --out samples.parquet --model macro.yaml --dice 128`
    """
    from bitline.circuits.spice import Card, Circuit, Simulator
    from bitline.macro import spread_pool
    from bitline.macro.rereads import check_reads
    from bitline.samples import Samples

    if picture is not None and model is None:
        raise ValueError("--picture shows the residuals of a behavioural model: give --model too")
    if inner and model is None:
        raise ValueError("--inner is a form of the behavioural model: give --model too")
    Samples.check(out)
    asked = {"corner": corner, "temperature": temperature, "supply": supply}
    changes = {key: value for key, value in asked.items() if value is not None}
    of_card = {"card-corners": card_corners, "nmos": nmos, "pmos": pmos}
    laid = [("card", file) for file in card or ()] + [(key, value) for key, value in of_card.items() if value]
    if laid and not card:
        raise ValueError(f"--{laid[0][0]} {laid[0][1]} is said of a card: give --card too")
    models = {"card": Card.of(card, card_corners, nmos, pmos)} if card else {}
    at = Circuit.load(circuit).at(**changes, **models)
    if reads:
        check_reads(at, reads)
    kept = cache or out.with_suffix(".spice")
    simulator = Simulator(executable=ngspice, timeout=timeout, workers=workers, cache=kept)
    given = f" --vectors {vectors}" if vectors is not None else f" --points {points}"
    given += "".join(f" --{key} {value!r}" for key, value in (*changes.items(), *laid))
    command = f"bitline characterize {circuit}{given} --dice {dice} --seed {seed}"
    command += " --inner" if inner else ""
    pool = spread_pool(at, points, seed) if vectors is None else _vectors(vectors)
    with terminable():
        wanted = tolerance if model else None
        found = _simulated(at, simulator, out, pool, dice, seed, command, wanted, inner)
        if reads:
            found = _reread(at, simulator, out, pool, reads, seed, command, found)
    if found is not None and model is not None:
        _modelled(found, model, picture, f"{command}; {found.sentence}", at.name)
        if not found.met:
            raise typer.Exit(3)


def _simulated(
    circuit: Any,
    simulator: Any,
    out: Path,
    pool: tuple[Any, Any],
    dice: int,
    seed: int,
    command: str,
    rms: float | None,
    inner: bool,
) -> Any:
    """Simulate, with a progress bar, and save the samples; what a model was fitted with, where ``rms`` is to be met."""
    from rich.progress import Progress

    from bitline.circuits.spice import few
    from bitline.macro import Tolerance, model_circuit, sample_circuit

    (x, w), on_dice = pool, beside(out, "dice")
    out.parent.mkdir(parents=True, exist_ok=True)

    def keep(samples: Any, many: Any) -> None:
        _save({out: samples, on_dice: many})

    with (
        _keeping(simulator, out, on_dice),
        Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress,
    ):
        task = progress.add_task("ngspice", total=None if rms is not None else len(x) + dice)
        how: dict[str, Any] = {
            "dice": dice,
            "seed": seed,
            "command": command,
            "done": lambda *_: progress.advance(task),
        }
        if rms is None:
            keep(*sample_circuit(circuit, x, w, simulator, **how))
            return None
        found = model_circuit(circuit, x, w, simulator, Tolerance(rms, 2.5 * rms), inner=inner, keep=keep, **how)
    if found.failed:
        say(f"{len(found.failed)} points failed, and others took their place:", errors)
        say("\n".join(few(found.failed)), errors)
    return found.adapted


def _save(tables: Mapping[Path, Any]) -> list[Path]:
    """Save those tables that there are, and say so; their files."""
    found = {path: table for path, table in tables.items() if table is not None}
    for path, table in found.items():
        table.save(path)
        say(f"{path}: {table.summary()}")
    return list(found)


@contextmanager
def _keeping(simulator: Any, samples: Path, dice: Path | None = None) -> Iterator[None]:
    """Where points fail, those that were finished are saved before the error goes on."""
    from bitline.circuits.spice import SimulationError

    try:
        yield
    except SimulationError as error:
        if kept := _save({samples: error.samples} | ({} if dice is None else {dice: error.dice})):
            say(f"finished points: {', '.join(map(str, kept))} and {simulator.cache}", errors)
        raise


def _vectors(file: Path) -> Any:
    """(x, w) of samples."""
    from bitline.samples import Samples

    table = Samples.load(file)
    if table.x is None or table.w is None:
        missing = "x" if table.x is None else "w"
        raise ValueError(
            f"--vectors {file}: no column {missing!r}; a pool is x and w of samples, it has: "
            f"{', '.join(table.columns())}"
        )
    return table.x, table.w


def _reread(
    circuit: Any, simulator: Any, out: Path, pool: tuple[Any, Any], reads: int, seed: int, command: str, adapted: Any
) -> Any:
    """Read some points of the pool again and again, with noise, and save them; the model with it, if there is one."""
    from bitline.macro import sample_reads, with_reads

    file = beside(out, "reads")
    with _keeping(simulator, file):
        table = sample_reads(circuit, *pool, simulator, reads=reads, seed=seed, command=f"{command} --reads {reads}")
    _save({file: table})
    return adapted and replace(adapted, behaviour=with_reads(adapted.behaviour, table))


def _modelled(adapted: Any, file: Path, picture: Path | None, source: str, name: str) -> None:
    """Write a behavioural model as a macro, and the picture of what it misses."""
    from bitline.configuration import to_yaml
    from bitline.files import write_atomic
    from bitline.report.residuals import residual_picture

    macro = adapted.behaviour.macro(name, columns=128, source=source)
    write_atomic(file, to_yaml(macro.dump()))
    if picture is not None:
        title, bound = f"{name}: {len(adapted.sums)} points held out", adapted.tolerance.largest
        sums, model, alone = adapted.sums.tolist(), adapted.residual.tolist(), adapted.alone.tolist()
        write_atomic(picture, residual_picture(sums, model, alone, bound, title))
    say(f"{file}: {adapted.sentence}")


def beside(samples: Path, what: str) -> Path:
    """Where a circuit's ``dice`` or repeated ``reads`` are: beside its samples without mismatch and noise."""
    return samples.with_name(f"{samples.stem}-{what}{samples.suffix}")


def export_spice(
    file: Annotated[str, typer.Argument(help="a macro (YAML file or preset), or with --layer an experiment")],
    out: Written = None,
    layer: Annotated[str | None, typer.Option("--layer", help="a layer of the experiment's network, by name")] = None,
    array: Annotated[int, typer.Option("--array", help="which of the layer's arrays")] = 0,
    method: Annotated[
        str | None, typer.Option("--method", help="kind or title of the one whose network it is; absent: untrained")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="of the experiment's results; default: out/<name of the experiment>")
    ] = None,
    volts: Annotated[
        str, typer.Option("--volts", help="what every row is driven with, or a .csv or .npy file of volts, one a row")
    ] = "1.0",
    seed: Annotated[int, typer.Option("--seed", help="of the random weights that fill a macro's array")] = 0,
    changes: Changes = None,
) -> None:
    """Write an array with its wires as a SPICE netlist that prints the sensed currents: `ngspice -b` checks the solver.

    With `--layer`, the array holds a layer of the experiment's network, with `--method` as this trained it: in the
    folder before, or now.

    Example: `bitline export-spice macro.yaml --out tile.cir && ngspice -b tile.cir`
    """
    from bitline import nn
    from bitline.macro import Chip
    from bitline.macro.export import array_netlist, filled, row_volts

    rows = row_volts(volts)
    if layer is None:
        from bitline import presets

        if method is not None:
            raise ValueError(f"--method {method} trains the network of an experiment: give --layer too")
        column = filled(presets.load(file), seed)
    else:
        experiment = loaded(Path(file), changes)
        macro = experiment.macros[0]
        if method is None:
            network = experiment.network.build(experiment.seed).eval()
            sample = experiment.data.set.test()[:8].images.float()  # weights are quantised without it
            model = nn.calibrate(experiment.place(network, macro), [sample], 1)
        else:
            chosen = method_of(experiment, method)
            walk = walk_of(experiment, folder_of(Path(file), folder), errors)
            model = walk.trained(walk.converted(walk.float_network(), macro), macro, chosen)
            nn.on_chip(model, Chip(0, 0))
        column = nn.programmed(model.eval(), layer)
    write(array_netlist(column, array, rows), out)
