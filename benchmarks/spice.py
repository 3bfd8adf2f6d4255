"""The behavioural model of the shipped 8T SRAM column against ngspice: time a MAC, and points that it takes to fit."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bitline.circuits.spice import Circuit, Simulator, measured
from bitline.macro import (
    Adapted,
    Chip,
    Converters,
    Dense,
    Goodness,
    Macro,
    Reads,
    Site,
    Tolerance,
    adapt,
    behaviour_of,
    choose,
    error_model,
    fit_behaviour,
    judge,
    mac,
    program,
    shipped,
    values_of,
    with_dice,
)
from bitline.macro.characterised import shape_in

NAME = "sram-8t-pwm"
BOUND, FEWER = 1e5, 5
COLUMNS, POSITIONS = 64, 4096
DRAWS = 5  # of patterns for a grid


def run() -> str:
    """Both tables, bounds beside them."""
    return f"{speed()}\n\n{points()}"


def speed(rounds: int = 5) -> str:
    """Seconds a MAC, ngspice and the models taking turns on one core."""
    samples, dice = shipped(NAME), shipped(f"{NAME}-dice")
    model = with_dice(behaviour_of(samples), dice)
    macro = model.macro(NAME, columns=COLUMNS)
    plain = macro.model_copy(update={"column": macro.column.model_copy(update={"pattern": None})})
    table = error_model(model, samples["x"], samples["w"])
    drawn = Macro.model_validate(macro.model_dump() | {"column": table.model_dump(), "converter": None, "cell": None})
    circuit = Circuit.load(NAME)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(samples), POSITIONS)
    x = torch.tensor(samples["x"][rows], dtype=torch.float32)[None]
    w = torch.tensor(samples["w"][rng.integers(0, len(samples), COLUMNS)], dtype=torch.float32)
    scale = Converters(torch.tensor(0.0, dtype=torch.float64), torch.tensor(model.shape.step, dtype=torch.float64))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {}
    machines = {"behavioural model, dies": macro, "its curve alone, dies": plain, "error model P(e|k)": drawn}
    columns = {name: program(w, each, Chip(0, 0), Site("layer", 0)) for name, each in machines.items()}
    keys = Reads(0, Chip(0, 0), 0, torch.arange(1)).keys("layer")
    try:
        for turn in range(rounds + 1):
            at = slice(8 * turn, 8 * turn + 8)
            with tempfile.TemporaryDirectory() as folder:
                simulator = Simulator(workers=1, cache=Path(folder))
                start = time.perf_counter()
                measured(circuit, samples["x"][at], samples["w"][at], simulator)
                seen = {"ngspice": (time.perf_counter() - start) / (8 * circuit.rows)}
            for name, column in columns.items():
                start = time.perf_counter()
                mac(x, column, Dense(), keys, scale if column.macro.converter else None)
                seen[name] = (time.perf_counter() - start) / (POSITIONS * COLUMNS * circuit.rows)
            if turn:  # the first warms up
                for name, seconds in seen.items():
                    times.setdefault(name, []).append(seconds)
    finally:
        torch.set_num_threads(threads)
    lines = ["| 64-row PWM column, one core | plan | s a MAC | times as fast as ngspice |", "|---|---|---|---|"]
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["ngspice"], seconds, strict=True))
        plan = choose(machines[name]).name if name in machines else ""
        lines.append(f"| {name} | {plan} | {statistics.median(seconds):.2g} | {ratio:.3g} |")
    return "\n".join([*lines, "", f"Bound: {BOUND:.0e}."])


def points() -> str:
    """Points and error on the shipped table, of grids over the sums and of adaptive sampling."""
    samples = shipped(NAME)
    shape, x, w, value = shape_in(samples), samples["x"], samples["w"], values_of(samples)
    lines = [
        "| design | points fitted to | and held out | rms, LSB | largest, LSB |",
        "|---|---|---|---|---|",
    ]

    def row(name: str, fitted: float, held: float, seen: list[Goodness]) -> None:
        rms, largest = (statistics.median(getattr(g, part) for g in seen) for part in ("rms", "largest"))
        lines.append(f"| {name} | {fitted:g} | {held:g} | {rms:.4f} | {largest:.4f} |")

    rng, full = np.random.default_rng(0), 0
    for step in (1, 2, 4, 8, 12):
        sums = [k for k in range(0, shape.counts + 1, step) if (samples.ideal == k).any()]
        full = full or len(sums)
        seen = []
        for _ in range(DRAWS):
            rows = np.array([rng.choice(np.flatnonzero(samples.ideal == k)) for k in sums])
            seen.append(judge(fit_behaviour(shape, x[rows], w[rows], value[rows]), x, w, value)[0])
        row("each sum" if step == 1 else f"every {step} sums", len(sums), 24, seen)
    found: list[Adapted] = [
        adapt(shape, x, w, lambda rows: value[rows], Tolerance(0.01, 0.05), batch=4, seed=seed) for seed in range(DRAWS)
    ]
    fitted = statistics.median(len(each.fitted) for each in found)
    held = statistics.median(len(each.checked) for each in found)
    row("adaptive", fitted, held, [judge(each.behaviour, x, w, value)[0] for each in found])
    some, all_of = full / fitted, (full + held) / (fitted + held)
    lines += [
        "",
        f"Held-out error on all {len(samples)} shipped points; medians of {DRAWS}. The full grid takes {some:.1f}× the "
        f"points adaptive sampling fits to, {all_of:.1f}× with those held out by both (bound: {FEWER}×). A coarse grid "
        "through the same model comes close: the pattern counts save most of the points. The best curve of the sum "
        f"alone misses by {found[0].goodness.rms_alone:.2f} LSB rms, however many points it has.",
    ]
    return "\n".join(lines)
