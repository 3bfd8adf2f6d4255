"""Behavioural models of columns against ngspice: time a MAC, and points that they take to fit."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from bitline.circuits.spice import Circuit, Simulator, measured
from bitline.macro import (
    Chip,
    Converters,
    Dense,
    Macro,
    Reads,
    Shape,
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
    sample_circuit,
    shipped,
    spread_pool,
    values_of,
    with_dice,
)
from bitline.macro.adaptive import BATCH, START
from bitline.macro.behaviour import HIGHEST, Basis, left_out
from bitline.macro.characterised import shape_in
from bitline.samples import Samples

NAME, COMPACT, WIRED = "sram-8t-pwm", "sram-8t-compact", "rram-1t1r"
BOUND = 1e5
COLUMNS, POSITIONS = 64, 4096
DRAWS = 5  # of patterns
POOL = 600  # points of a column that no samples are shipped of
CHECKED = 24  # points held out by adaptive sampling
NOTE = f"""Points fitted to until the rms error on all other points of the pool is met first; medians of {DRAWS} draws,
– : not reached. *Each sum*: a table of every sum by itself, one point of it or more: the full grid, without a model.
*A curve*: of the sum alone, at even sums. Through the behavioural model: *even sums*, *at random*, *adaptive*. Then
what the others take over adaptive sampling, *and held out*: with {CHECKED} more in both, to know the error. *Stops at*:
where sampling asked for this error stops, and what it then misses all other points by."""
DESIGNS = ("each sum", "a curve", "even sums", "at random", "adaptive")
EACH = (1, 2, 4, 8, 16, 28)  # points a sum
SIZES = (*range(8, 65, 4), 80, 96, 128, 192)
ERRORS = (1.0, 0.5, 0.4, 0.35, 0.3, 0.25, 0.2, 0.1, 0.05, 0.02, 0.01, 0.007)


def run(rounds: int = 5) -> str:
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
    """Points that designs need for one held-out error, on the shipped columns and a 1T1R one with wires."""
    circuit = Circuit.load(WIRED)
    x, w = spread_pool(circuit, POOL)
    columns = {name: shipped(name) for name in (NAME, COMPACT)}
    columns[WIRED] = sample_circuit(circuit, x, w, Simulator(workers=1))[0]
    texts = [f"**{name}, a pool of {len(samples)} points**\n\n{_needed(samples)}" for name, samples in columns.items()]
    return "\n\n".join([NOTE, *texts])


def _needed(samples: Samples) -> str:
    """One column's table."""
    shape, x, w, value = shape_in(samples), samples["x"], samples["w"], values_of(samples)
    found = _errors(samples)
    lines = [
        f"| rms, LSB | {' | '.join(DESIGNS)} | each sum × | and held out × | even sums × | at random × "
        "| stops at (rms) |",
        "|" + "---|" * (len(DESIGNS) + 6),
    ]
    for error in ERRORS:
        took = {design: _first(errors, error) for design, errors in found.items()}
        mine = took["adaptive"]
        if mine is None:
            continue
        ratios = [_ratio(took[design], mine) for design in ("each sum", "even sums", "at random")]
        ratios.insert(1, _ratio(took["each sum"], mine, CHECKED))
        fitted, missed = [], []
        for seed in range(DRAWS):
            stop = adapt(shape, x, w, lambda rows: value[rows], Tolerance(error, 10 * error), seed=seed)
            rest = np.setdiff1d(np.arange(len(x)), np.concatenate([stop.fitted, stop.checked]))
            fitted.append(len(stop.fitted))
            missed.append(judge(stop.behaviour, x[rest], w[rest], value[rest])[0].rms)
        told = " | ".join("–" if took[design] is None else f"{took[design]}" for design in DESIGNS)
        stops = f"{statistics.median(fitted):g} ({statistics.median(missed):.2g})"
        lines.append(f"| {error:g} | {told} | {' | '.join(ratios)} | {stops} |")
    best = {design: min(map(statistics.median, errors.values())) for design, errors in found.items()}
    reached = ", ".join(f"{design} {error:.2g}" for design, error in best.items())
    return "\n".join([*lines, "", f"Least error reached: {reached}."])


def _errors(samples: Samples) -> dict[str, dict[int, list[float]]]:
    """By design and points fitted to: rms error on all others of the pool, LSB, for each draw."""
    shape, x, w, value = shape_in(samples), samples["x"], samples["w"], values_of(samples)
    sums, found = np.unique(samples.ideal), {design: defaultdict(list) for design in DESIGNS}

    def note(design: str, rows: np.ndarray, predicted: np.ndarray, n: int) -> None:
        others = np.setdiff1d(np.arange(len(x)), rows)
        found[design][n].append(float(np.sqrt(np.mean((value[others] - predicted[others]) ** 2))) / shape.step)

    def fitted(design: str, rows: np.ndarray, n: int) -> None:
        note(design, rows, fit_behaviour(shape, x[rows], w[rows], value[rows]).predict(x, w), n)

    for seed in range(DRAWS):
        order = np.random.default_rng(seed).permutation(len(x))
        of_sum = [order[samples.ideal[order] == k] for k in sums]
        for each in EACH:
            rows = np.concatenate([some[:each] for some in of_sum])
            if 2 * len(rows) <= len(x):
                mean = np.array([value[some[:each]].mean() for some in of_sum])
                note("each sum", rows, np.interp(samples.ideal, sums, mean), len(rows))
        for n in SIZES:
            near = np.unique(np.searchsorted(sums, np.linspace(sums[0], sums[-1], n)))
            even = np.array([of_sum[i][0] for i in near])
            note("a curve", even, _curve(shape, x, w, value, even), n)
            fitted("even sums", even, n)
            fitted("at random", order[:n], n)
        on = adapt(shape, x, w, lambda rows: value[rows], Tolerance(0.0), most=SIZES[-1], seed=seed).fitted
        for n in range(START, len(on) + 1, BATCH):
            fitted("adaptive", on[:n], n)
    return found


def _curve(shape: Shape, x: np.ndarray, w: np.ndarray, value: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Values of all points by the curve in the sum that misses those of ``rows`` least, each left out in turn."""
    bases = [Basis(shape, degree, ()) for degree in range(1, HIGHEST + 1) if degree + 1 <= 2 * len(rows) // 3]
    best = min(bases, key=lambda basis: left_out(basis, x[rows], w[rows], value[rows]))
    design = best.design(x, w)
    return design @ np.linalg.lstsq(design[rows], value[rows], rcond=1e-12)[0]


def _first(errors: dict[int, list[float]], wanted: float) -> int | None:
    """The fewest points whose median error is at most the one wanted."""
    return next((n for n in sorted(errors) if statistics.median(errors[n]) <= wanted), None)


def _ratio(a: int | None, b: int, more: int = 0) -> str:
    return "never" if a is None else f"{(a + more) / (b + more):.1f}"
