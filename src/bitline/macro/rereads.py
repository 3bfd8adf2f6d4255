"""Repeated reads of a circuit's column: fresh noise, apart from what is frozen with a die."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bitline.circuits.spice import Circuit, Outcome, Simulator, Volts, characterize
from bitline.macro.behaviour import Behaviour, Vectors, sums_of
from bitline.macro.characterised import values_of
from bitline.macro.fresh import fit_fresh
from bitline.samples import Samples

POINTS = 24  # that are read again, each on a die of its own


def sample_reads(
    circuit: Circuit,
    x: Vectors,
    w: Vectors,
    simulator: Simulator | None = None,
    *,
    reads: int = 16,
    points: int = POINTS,
    seed: int = 0,
    command: str = "",
    axis: Volts | None = None,
    done: Callable[[int, Outcome], None] | None = None,
) -> Samples:
    """``reads`` reads, with the circuit's noise, of ``points`` rows of the pool (x, w), evenly over the sums, each on a
    die of its own. See ``characterize``. Raises ValueError for a circuit without noise, and fewer than two reads."""
    check_reads(circuit, reads)
    order = np.argsort(sums_of(x, w), kind="stable")
    rows = order[np.unique(np.linspace(0, len(order) - 1, points).astype(np.int64))]
    chips, numbers = np.repeat(np.arange(len(rows)), reads), np.tile(np.arange(reads), len(rows))
    x, w = (np.repeat(each[rows], reads, axis=0) for each in (x, w))
    how = {"seed": seed, "command": command, "axis": axis, "done": done}
    return characterize(circuit, x, w, simulator, chips=chips, reads=numbers, **how)  # type: ignore[arg-type]


def check_reads(circuit: Circuit, reads: int) -> None:
    """Raise ValueError where all reads would be the same, or are too few to differ."""
    if not circuit.noise:
        raise ValueError(f"circuit {circuit.name} has no `noise`: all reads of a die would be the same")
    if reads < 2:
        raise ValueError(f"{reads} reads of a point tell no spread: two or more")


def with_reads(behaviour: Behaviour, samples: Samples) -> Behaviour:
    """The model with fresh noise, fitted to what reads of one die, column and pattern differ by. See ``fit_fresh``.

    Raises ValueError where the samples tell no reads apart.
    """
    if samples.read is None:
        raise ValueError("the samples tell no reads apart: characterise with noise")
    n = len(samples)
    where = [np.zeros(n, dtype=np.int64) if part is None else part for part in (samples.chip, samples.column)]
    places = np.column_stack([*where, samples["x"], samples["w"]])
    group = np.unique(places, axis=0, return_inverse=True)[1].ravel()
    fresh = fit_fresh(samples.ideal, values_of(samples), group)
    return behaviour.model_copy(update={"fresh": fresh})
