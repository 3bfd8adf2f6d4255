"""``bitline lab``: the bench from the command line."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

lab = typer.Typer(
    help="A chip on the bench, or a virtual one: measure it, write a network to it, run the network on it.\n\n"
    "Addresses: `tcp://host:port`, `serial:/dev/ttyUSB0?baud=115200` (binary protocol), `scpi+tcp://host:port`, "
    "`visa:TCPIP0::host::5025::SOCKET` (SCPI).",
    no_args_is_help=True,
)
Address = Annotated[str, typer.Argument(help="where the board is, such as tcp://127.0.0.1:5600")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.01, help="seconds without an answer before asking again")]
Retries = Annotated[int, typer.Option("--retries", min=0, help="times a question is asked again")]
Folder = Annotated[Path, typer.Argument(help="a deploy bundle, from `bitline export`")]

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


@contextmanager
def _connected(address: str, timeout: float, retries: int) -> Iterator[Any]:
    from bitline.lab.instrument import connect

    instrument = connect(address, timeout, retries)
    try:
        yield instrument
    finally:
        instrument.link.close()


def _macro(name: str) -> Any:
    from bitline import presets

    return presets.load(name)


@lab.command()
def emulate(
    macro: Annotated[str, typer.Argument(help="a macro (YAML file or preset): what the hidden die is drawn from")],
    seed: Annotated[int, typer.Option("--seed", help="the die's hidden seed")] = 0,
    chip: Annotated[int, typer.Option("--chip", help="number of the die")] = 0,
    arrays: Annotated[int, typer.Option("--arrays", min=1, help="arrays on the board")] = 4,
    host: Annotated[str, typer.Option("--host", help="address to listen on")] = "127.0.0.1",
    tcp: Annotated[int, typer.Option("--tcp", min=0, help="port of the binary protocol; 0: any")] = 0,
    scpi: Annotated[int, typer.Option("--scpi", min=0, help="port of SCPI; 0: any")] = 0,
    pty: Annotated[
        bool, typer.Option("--pty", help="also a serial line: the binary protocol on a pseudo-terminal")
    ] = False,
    drift: Annotated[
        list[str] | None, typer.Option("--drift", help="array.column=counts: a column whose offset moved")
    ] = None,
    missed: Annotated[float, typer.Option("--missed", min=0, max=1, help="share of cells a write leaves alone")] = 0.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            help="name=value: drop, corrupt, duplicate, truncate, delay, busy, credit (shares), disconnect, reset, "
            "stall, deaf (requests)",
        ),
    ] = None,
    ready: Annotated[Path | None, typer.Option("--ready", help="file to write the addresses to")] = None,
) -> None:
    """A virtual board in this process, behind both protocols, until it is interrupted.

    Prints its addresses as a line of JSON. Example: `bitline lab emulate generic-8t-sram --seed 7 --tcp 5600`
    """
    from bitline.lab.board import Board
    from bitline.lab.faults import Faults
    from bitline.lab.serve import Served, announce
    from bitline.macro import Chip

    described = _macro(macro)
    drifted = dict(_drifted(text, described.columns) for text in drift or ())
    faults = Faults.model_validate(dict(_pair(text) for text in fault or ()))
    board = Board(described, Chip(seed, chip), arrays, drifted=drifted, missed=missed, serial=f"virtual-{chip}")
    served = Served(board, faults)
    addresses = {
        "tcp": f"tcp://{host}:{served.listen('frames', host, tcp)}",
        "scpi": f"scpi+tcp://{host}:{served.listen('scpi', host, scpi)}",
    }
    addresses["visa"] = "visa:TCPIP0::" + addresses["scpi"].removeprefix("scpi+tcp://").replace(":", "::") + "::SOCKET"
    if pty:
        addresses["serial"] = f"serial:{served.pty()}"
    typer.echo(announce(ready, addresses))
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    served.close()


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r}: expected name=value")
    return name, value


def _condition(text: str) -> tuple[str, float]:
    name, value = _pair(text)
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"--condition {text!r}: expected name=value, such as temperature=300") from None


def _drifted(text: str, columns: int) -> tuple[int, float]:
    place, counts = _pair(text)
    array, _, column = place.partition(".")
    try:
        return int(array) * columns + int(column), float(counts)
    except ValueError:
        raise ValueError(f"--drift {text!r}: expected array.column=counts, such as 0.17=1.5") from None


@lab.command()
def rtl(
    macro: Annotated[str, typer.Argument(help="a macro (YAML file or preset) that the hardware can be")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    seed: Annotated[int, typer.Option("--seed", help="of the die that the model of the columns is")] = 0,
    chip: Annotated[int, typer.Option("--chip", help="number of the die")] = 0,
    low: Annotated[float, typer.Option("--low", help="value of the converters' first code, counts")] = 0.0,
    step: Annotated[float, typer.Option("--step", help="counts a code")] = 1.0,
    most: Annotated[int, typer.Option("--most", help="bytes of the largest payload")] = 4096,
) -> None:
    """The digital side of a macro's board in SystemVerilog, with the tables it reads; prints its parameters as JSON.

    Example: `bitline lab rtl macro.yaml out/rtl`
    """
    import json

    from bitline.lab.hardware import write_rtl
    from bitline.macro import Chip

    typer.echo(json.dumps(write_rtl(_macro(macro), out, Chip(seed, chip), low=low, step=step, most=most)))


@lab.command()
def characterize(
    address: Address,
    out: Annotated[Path, typer.Option("--out", help="samples to write: .parquet or .csv")],
    conversions: Annotated[int, typer.Option("--conversions", min=1, help="to make, at least")] = 100_000,
    low: Annotated[float, typer.Option("--low", help="value of the converters' first code, counts")] = 0.0,
    step: Annotated[float, typer.Option("--step", help="counts a code")] = 1.0,
    array: Annotated[list[int] | None, typer.Option("--array", help="an array to measure; absent: all")] = None,
    chip: Annotated[int, typer.Option("--chip", help="number to write down for the die")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="of the patterns")] = 0,
    condition: Annotated[
        list[str] | None,
        typer.Option("--condition", help="name=value to write down: temperature (K) or supply (V); several"),
    ] = None,
    timeout: Timeout = 2.0,
    retries: Retries = 4,
) -> None:
    """Measure a board's columns: known cells, known inputs, the codes it gives. Killed, the same command goes on.

    Example: `bitline lab characterize tcp://127.0.0.1:5600 --out chip.parquet --conversions 400000`
    """
    from bitline.lab.sweep import characterize as measure
    from bitline.lab.sweep import sound

    named = [_condition(text) for text in condition or ()]
    conditions = sound(dict(named))
    if len(conditions) < len(named):
        raise ValueError(f"--condition {' '.join(name for name, _ in named)}: one value for each")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _connected(address, timeout, retries) as instrument, _progress() as progress:
        task = progress.add_task("steps", total=None)
        samples = measure(
            instrument,
            out,
            conversions=conversions,
            low=low,
            step=step,
            arrays=tuple(array) if array else None,
            seed=seed,
            chip=chip,
            conditions=conditions,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    console.print(f"{out}: {samples.summary()}", markup=False, soft_wrap=True)


@lab.command()
def program(
    bundle: Folder,
    address: Address,
    tries: Annotated[int, typer.Option("--tries", min=0, help="write-verify: times wrong cells are written again")] = 2,
    timeout: Timeout = 2.0,
    retries: Retries = 4,
) -> None:
    """Write a bundle's cells and ranges to a board, and read them back where the board can."""
    from bitline.lab.bundle import load
    from bitline.lab.running import program as write

    held = load(bundle)
    with _connected(address, timeout, retries) as instrument:
        again = write(held, instrument, tries)
        verified = "read back" if instrument.identity.verifies and tries else "not read back"
    tiles = sum(len(layer.tiles) for layer in held.record.layers)
    console.print(
        f"{tiles} tiles on {held.record.arrays} arrays, {verified}, {again} blocks written again", markup=False
    )


@lab.command()
def replay(
    bundle: Folder,
    address: Address,
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="the first of the bundle's; absent: all")
    ] = None,
    alpha: Annotated[float, typer.Option("--alpha", help="probability of a false alarm")] = 0.01,
    out: Annotated[Path | None, typer.Option("--out", help="write the result as JSON")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON on standard output, and nothing else")] = False,
    timeout: Timeout = 2.0,
    retries: Retries = 4,
) -> None:
    """Run a bundle's network on a board, layer by layer, and say whether it reads as predicted.

    Exit status 3 where it does not. Example: `bitline lab replay out/bundle tcp://127.0.0.1:5600`
    """
    from bitline.files import write_atomic
    from bitline.lab.bundle import load
    from bitline.lab.running import replay as run

    held = load(bundle)
    if not held.record.images:
        raise ValueError(f"{bundle} has no images: export it with --images")
    count = slice(images)
    with _connected(address, timeout, retries) as instrument, _progress() as progress:
        task = progress.add_task("layer", total=None)
        found = run(
            held,
            instrument,
            held.tensors["images"][count],
            held.tensors["labels"][count],
            alpha=alpha,
            progress=lambda name, done, total: progress.update(task, description=name, completed=done, total=total),
        )
    text = found.model_dump_json(indent=2)
    if out is not None:
        write_atomic(out, text + "\n")
    if as_json:
        typer.echo(text)
    else:
        _told(found)
    if not found.agrees:
        raise typer.Exit(3)


def _told(found: Any) -> None:
    low, high = found.interval
    lines = [
        f"{found.board} ({found.serial}): {found.accuracy:.2f} % of {found.images} images "
        f"[{low:.2f}, {high:.2f}], predicted {found.predicted:.2f} %"
    ]
    if found.agreement is None:
        lines.append(f"codes not compared: {found.why}")
    else:
        for line in found.agreement.layers:
            verdict = "as predicted" if line.agrees else "NOT as predicted"
            lines.append(
                f"layer {line.name}: chi2 {line.chi2:.1f} for {line.freedom} degrees, p = {line.p:.3g} "
                f"(Holm {line.adjusted:.3g}), {100 * line.covered:.1f} % of {line.conversions} codes: {verdict}"
            )
        lines += [
            f"drifted: {line.name}, mean code {line.shift:+.3f} LSB, p = {line.p:.3g} (Holm {line.adjusted:.3g})"
            for line in found.agreement.drifted
        ]
        what = {"column": "columns", "bank": "banks", "pooled": "tables of all columns"}[found.agreement.per]
        lines.append(f"{len(found.agreement.drifted)} of {found.agreement.columns} {what} drifted")
    for text in lines:
        console.print(text, markup=False, soft_wrap=True)


def _progress() -> Progress:
    return Progress(console=errors, transient=True, disable=not errors.is_terminal)
