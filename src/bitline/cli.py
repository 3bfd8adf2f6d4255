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
from typer.core import TyperGroup

from bitline.lab.cli import lab

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


class _Told(TyperGroup):
    """A group of commands whose errors are told like those of all others."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command asked for."""
        with _told():
            return super().invoke(ctx)


app.add_typer(lab, name="lab", cls=_Told)


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
    """An experiment from its file; ``demo``, where no file is called so, is the embedded one."""
    from importlib.resources import as_file, files

    from bitline.experiment import load

    laid = [*(changes or ()), *([f"plan={plan}"] if plan else ())]
    if file == Path("demo") and not file.exists():
        with as_file(files("bitline.experiment") / "demo.yaml") as embedded:
            return load(embedded, laid)
    return load(file, laid)


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
    """The embedded experiment: digits on an 8T SRAM macro from ngspice, about a minute, no data to fetch."""
    with _told():
        _run(_loaded(Path("demo"), changes, None), out, True, as_json)


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
def verify(
    file: Annotated[Path, typer.Argument(help="an experiment in YAML, or `demo`")],
    circuit: Annotated[str, typer.Option("--circuit", help="a circuit in YAML, or the name of one with samples")],
    method: Annotated[
        str, typer.Option("--method", help="kind of the method whose network is verified")
    ] = "error_aware",
    samples: Annotated[
        Path | None,
        typer.Option("--samples", help="of the circuit, as `characterize --dice` wrote them; absent: shipped ones"),
    ] = None,
    out: Out = None,
    chips: Annotated[int, typer.Option("--chips", min=1, help="fresh dies of the behavioural model")] = 5,
    images: Annotated[int, typer.Option("--images", min=1, help="whose conversions are looked at")] = 64,
    conversions: Annotated[int, typer.Option("--conversions", min=8, help="of them, simulated in ngspice")] = 256,
    changes: Changes = None,
    as_json: AsJson = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="simulations at once")] = None,
    ngspice: Annotated[str, typer.Option("--ngspice", help="the simulator's program")] = "ngspice",
) -> None:
    """Verify a trained network on its circuit: on the behavioural model with dies it has never met, and its own
    conversions in ngspice, error rates by sum side by side.

    Takes the network trained in the folder, or trains it now. Writes `verify-METHOD.json` there.

    Example: `bitline verify demo --circuit sram-8t-compact`
    """
    from bitline.circuits.spice import Circuit, Simulator
    from bitline.experiment import Run
    from bitline.flows import verify as verified
    from bitline.macro import shipped
    from bitline.report.tables import verification_tables
    from bitline.samples import Samples

    with _told():
        experiment = _loaded(file, changes, None)
        chosen, folder = _chosen(experiment, method)[0], out or Path("out") / file.stem
        if len(experiment.macros) > 1:
            raise ValueError("the experiment has several macros: choose one with --set macro=…")
        at = Circuit.load(circuit)
        if samples is None:
            tables = [shipped(f"{at.name}{part}") for part in ("", "-dice")]
        else:
            tables = [Samples.load(samples), Samples.load(samples.with_name(f"{samples.stem}-dice{samples.suffix}"))]
        voice = errors if as_json else console
        walk = Run(experiment, folder, lambda line: voice.print(line, markup=False), progress=voice.is_terminal)
        macro = experiment.macros[0]
        model = walk.trained(walk.converted(walk.float_network(), macro), macro, chosen)
        found = verified(
            model,
            walk.source,
            at,
            *tables,
            method=chosen.title,
            simulator=Simulator(executable=ngspice, workers=workers, cache=folder / "spice"),
            chips=chips,
            images=images,
            conversions=conversions,
            seed=experiment.seed,
        )
        found.write(folder / f"verify-{method}.json")
        if as_json:
            typer.echo(found.model_dump_json(indent=2, by_alias=True))
            return
        for table in verification_tables(found):
            console.print(table)
        console.print(f"ngspice: {found.simulator}", markup=False, soft_wrap=True)
        console.print(f"figures: {folder / f'verify-{method}.json'}", markup=False, soft_wrap=True)


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
def characterize(
    circuit: Annotated[str, typer.Argument(help="a circuit in YAML, or the name of one that comes with Bitline")],
    out: Annotated[Path, typer.Option("--out", help="samples to write: .parquet or .csv")],
    points: Annotated[int, typer.Option("--points", min=1, help="points to simulate, or to choose from")] = 512,
    vectors: Annotated[Path | None, typer.Option("--vectors", help="samples whose x and w to simulate")] = None,
    dice: Annotated[int, typer.Option("--dice", min=0, help="points on dies of their own, with mismatch")] = 0,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="macro to write: fit a behavioural model to as few points as it needs"),
    ] = None,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="rms error held out, LSB; with --model")] = 0.2,
    picture: Annotated[Path | None, typer.Option("--picture", help="SVG of the residuals; with --model")] = None,
    corner: Annotated[str | None, typer.Option("--corner", help="tt, ff, ss, or what the card has")] = None,
    temperature: Annotated[str | None, typer.Option("--temperature", help='such as "125 degC"')] = None,
    supply: Annotated[str | None, typer.Option("--supply", help='such as "0.9 V"')] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="simulations at once; absent: one a core")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.01, help="seconds a point may take")] = 120.0,
    ngspice: Annotated[str, typer.Option("--ngspice", help="the simulator's program")] = "ngspice",
    cache: Annotated[Path | None, typer.Option("--cache", help="finished points; default: beside --out")] = None,
) -> None:
    """Simulate a column circuit in ngspice: samples, and with `--model` a macro to train networks on.

    Finished points are kept: the same command goes on where it was interrupted. See docs/circuits.md.

    Example: `bitline characterize sram-8t-pwm --out samples.parquet --model macro.yaml --dice 128`
    """
    from bitline.circuits.spice import Circuit, Simulator

    with _told():
        if picture is not None and model is None:
            raise ValueError("--picture shows the residuals of a behavioural model: give --model too")
        asked = {"corner": corner, "temperature": temperature, "supply": supply}
        changes = {key: value for key, value in asked.items() if value is not None}
        at = Circuit.load(circuit).at(**changes)
        kept = cache or out.with_suffix(".spice")
        simulator = Simulator(executable=ngspice, timeout=timeout, workers=workers, cache=kept)
        given = f" --vectors {vectors}" if vectors is not None else f" --points {points}"
        given += "".join(f" --{key} {value!r}" for key, value in changes.items())
        command = f"bitline characterize {circuit}{given} --dice {dice} --seed {seed}"
        found = _simulated(at, simulator, out, vectors or points, dice, seed, command, tolerance if model else None)
        if found is not None and model is not None:
            _modelled(found, model, picture, f"{command}; {found.sentence}", at.name)
            if not found.met:
                raise typer.Exit(3)


def _simulated(
    circuit: Any, simulator: Any, out: Path, pool: Path | int, dice: int, seed: int, command: str, rms: float | None
) -> Any:
    """Simulate, with a progress bar, and save the samples; what a model was fitted with, where ``rms`` is to be met."""
    from rich.progress import Progress

    from bitline.circuits.spice import SimulationError
    from bitline.macro import Tolerance, model_circuit, sample_circuit, spread_pool
    from bitline.samples import Samples

    if isinstance(pool, int):
        x, w = spread_pool(circuit, pool, seed)
    else:
        x, w = (Samples.load(pool)[name] for name in ("x", "w"))
    out.parent.mkdir(parents=True, exist_ok=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("ngspice", total=None if rms is not None else len(x) + dice)
        how: dict[str, Any] = {
            "dice": dice,
            "seed": seed,
            "command": command,
            "done": lambda *_: progress.advance(task),
        }
        try:
            if rms is None:
                found, (samples, many) = None, sample_circuit(circuit, x, w, simulator, **how)
            else:
                found = model_circuit(circuit, x, w, simulator, Tolerance(rms, 2.5 * rms), **how)
                samples, many = found.samples, found.dice
        except SimulationError as error:
            if error.samples is not None:
                error.samples.save(out)
                errors.print(f"finished points: {out} and {simulator.cache}", markup=False, soft_wrap=True)
            raise
    for table, path in ((samples, out), (many, out.with_name(f"{out.stem}-dice{out.suffix}"))):
        if table is not None:
            table.save(path)
            console.print(f"{path}: {table.summary()}", markup=False, soft_wrap=True)
    return found.adapted if found is not None else None


def _modelled(adapted: Any, file: Path, picture: Path | None, source: str, name: str) -> None:
    """Write a behavioural model as a macro, and the picture of what it misses."""
    import yaml

    from bitline.evaluate import write_atomic
    from bitline.report.residuals import residual_picture

    macro = adapted.behaviour.macro(name, columns=128, source=source)
    write_atomic(file, yaml.safe_dump(macro.dump(), sort_keys=False, allow_unicode=True))
    if picture is not None:
        title, bound = f"{name}: {len(adapted.sums)} points held out", adapted.tolerance.largest
        sums, model, alone = adapted.sums.tolist(), adapted.residual.tolist(), adapted.alone.tolist()
        write_atomic(picture, residual_picture(sums, model, alone, bound, title))
    console.print(f"{file}: {adapted.sentence}", markup=False, soft_wrap=True)


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


@app.command("export-spice")
def export_spice(
    file: Annotated[str, typer.Argument(help="a macro (YAML file or preset), or with --layer an experiment")],
    out: Annotated[Path | None, typer.Option("--out", help="file to write; default: standard output")] = None,
    layer: Annotated[str | None, typer.Option("--layer", help="a layer of the experiment's network, by name")] = None,
    array: Annotated[int, typer.Option("--array", help="which of the layer's arrays")] = 0,
    volts: Annotated[float, typer.Option("--volts", help="what every row is driven with")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="of the random weights that fill a macro's array")] = 0,
    changes: Changes = None,
) -> None:
    """Write an array with its wires as a SPICE netlist that prints the sensed currents: `ngspice -b` checks the solver.

    Example: `bitline export-spice macro.yaml --out tile.cir && ngspice -b tile.cir`
    """
    from bitline import nn
    from bitline.evaluate import write_atomic
    from bitline.macro.export import array_netlist, filled

    with _told():
        if layer is None:
            from bitline import presets as shipped
            from bitline.macro import Macro

            macro = Macro.load(file) if file.endswith((".yaml", ".yml")) else shipped.load(file)
            column = filled(macro, seed)
        else:
            experiment = _loaded(Path(file), changes, None)
            network = experiment.network.build(experiment.seed).eval()
            sample = experiment.data.set.test()[:8].images.float()  # weights are quantised without it
            model = nn.calibrate(experiment.place(network, experiment.macros[0]), [sample], 1)
            column = nn.programmed(model.eval(), layer)
        text = array_netlist(column, array, volts)
        if out is None:
            typer.echo(text, nl=False)
        else:
            write_atomic(out, text)


@app.command()
def export(
    file: File,
    macro: Annotated[str | None, typer.Argument(help="name of one of its macros; absent: its only one")] = None,
    method: Annotated[str | None, typer.Option("--method", help="kind of the method whose network is exported")] = None,
    out: Out = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", help="folder to write; default: `bundle` in --out")] = None,
    arrays: Annotated[
        int | None, typer.Option("--arrays", min=1, help="arrays of the board; absent: one a tile")
    ] = None,
    images: Annotated[int, typer.Option("--images", min=0, help="test images that come with it, for replay")] = 600,
    samples: Annotated[
        Path | None, typer.Option("--samples", help="characterisation of this very board, to compare codes with")
    ] = None,
    changes: Changes = None,
) -> None:
    """Write a trained network as a deploy bundle: cell levels, scales, ranges, all a board and `lab replay` need.

    Trains what is not trained yet. Example: `bitline export examples/digits.yaml --method error_aware`
    """
    from bitline import lab as bench
    from bitline.experiment import Run
    from bitline.samples import Samples

    with _told():
        experiment = _loaded(file, changes, None)
        names = [one.name for one in experiment.macros]
        if (macro is None and len(names) > 1) or (macro is not None and macro not in names):
            raise ValueError(f"macro {macro!r}: name one of the experiment's: {', '.join(names)}")
        design = experiment.macros[names.index(macro) if macro else 0]
        chosen = _chosen(experiment, method)[0] if method else experiment.methods[-1]
        folder = out or Path("out") / file.stem
        walk = Run(experiment, folder, lambda line: console.print(line, markup=False), progress=console.is_terminal)
        model = walk.trained(walk.converted(walk.float_network(), design), design, chosen)
        some = walk.testing[:images]
        made = bench.export(
            model.cpu(),
            name=experiment.title,
            arrays=arrays,
            images=(some.images, some.labels) if images else None,
            samples=Samples.load(samples) if samples else None,
            provenance={"experiment": str(file), "method": chosen.kind},
        )
        bench.save(made, bundle or folder / "bundle")
        tiles = sum(len(layer.tiles) for layer in made.record.layers)
        where = bundle or folder / "bundle"
        console.print(f"{where}: {tiles} tiles on {made.record.arrays} arrays", markup=False, soft_wrap=True)


@app.command()
def schema(
    what: Annotated[str, typer.Argument(help="`experiment`, `macro` or `bundle`")] = "experiment",
    out: Annotated[Path | None, typer.Option("--out", help="file to write; default: standard output")] = None,
) -> None:
    """Print the JSON schema of an experiment, a macro or a deploy bundle, for editors that complete and check it."""
    from bitline.evaluate import write_atomic
    from bitline.experiment import Experiment
    from bitline.lab.bundle import Record
    from bitline.macro import Macro

    with _told():
        kinds: dict[str, type[Experiment | Macro | Record]] = {
            "experiment": Experiment,
            "macro": Macro,
            "bundle": Record,
        }
        if what not in kinds:
            raise ValueError(f"no schema {what!r}; there are: {', '.join(kinds)}")
        text = json.dumps(kinds[what].model_json_schema(), indent=2)
        if out is None:
            typer.echo(text)
        else:
            write_atomic(out, text + "\n")
