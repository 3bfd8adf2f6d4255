"""Circuits and samples of them as behavioural models."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import numpy as np
from jaxtyping import Float

from bitline.circuits.spice import Circuit, Outcome, SimulationError, Simulator, Volts, scale, standard
from bitline.macro.adaptive import START, Adapted, Tolerance, adapt
from bitline.macro.behaviour import DICE, Behaviour, Shape, Values, Vectors, fit_behaviour, fit_mismatch
from bitline.macro.inner import fit_inner
from bitline.macro.pool import Changed, Pool, check_dice, on_dice, tried
from bitline.samples import Samples

BEFORE_DICE = 16  # points to start with: a cell's deviation goes by the curve's slope, which fewer leave open


@dataclass(frozen=True)
class Characterised:
    """What characterising a circuit gave: the model and its goodness, and every simulated point; ``failed``: those that
    others took the place of, each told in a line."""

    adapted: Adapted
    samples: Samples
    dice: Samples | None
    failed: tuple[str, ...] = ()

    @property
    def behaviour(self) -> Behaviour:
        """The model."""
        return self.adapted.behaviour


def shape_of(circuit: Circuit) -> Shape:
    """What a circuit's column takes."""
    return Shape(
        rows=circuit.rows,
        digits=circuit.input_high + 1,
        levels=circuit.weight_levels,
        counts=circuit.scale.counts,
        bits=circuit.scale.bits,
    )


def shape_in(samples: Samples) -> Shape:
    """What the column of SPICE samples takes; raises ValueError where they come from elsewhere."""
    circuit = _circuit(samples)
    return Shape(
        rows=circuit["rows"],
        digits=2 ** circuit["input_bits"],
        levels=circuit["weight_levels"],
        counts=circuit["scale"]["counts"],
        bits=circuit["scale"]["bits"],
    )


def _circuit(samples: Samples) -> dict[str, Any]:
    told = samples.provenance
    if told.get("source") != "SPICE":
        raise ValueError(f"these samples are not of a circuit: their source is {told.get('source', 'not told')!r}")
    described: dict[str, Any] = told["circuit"]
    return described


def values_of(samples: Samples) -> Values:
    """Measured values of SPICE samples in counts: the swing's counts over the swing."""
    told, name = samples.provenance, _circuit(samples)["measure"]["name"]
    values: Values = (samples[name] - float(told["zero"])) / float(told["lsb"]) * shape_in(samples).step
    return values


def vectors_of(samples: Samples) -> tuple[Vectors, Vectors]:
    """(x, w) of SPICE samples."""
    return samples["x"], samples["w"]


def behaviour_of(samples: Samples, dice: Samples | None = None, *, inner: bool = False) -> Behaviour:
    """The model of SPICE samples without mismatch, and of the dice in ``dice`` with it. See ``fit_behaviour``, and
    ``fit_inner`` for ``inner``."""
    fit = fit_inner if inner else fit_behaviour
    behaviour = fit(shape_in(samples), *vectors_of(samples), values_of(samples))
    return behaviour if dice is None else with_dice(behaviour, dice)


def with_dice(behaviour: Behaviour, dice: Samples, nominal: Values | None = None) -> Behaviour:
    """The model with mismatch, fitted to samples of many dice; their deviations are drawn again from the provenance.

    ``nominal``: as of ``fit_mismatch``. Raises ValueError as it and ``deviations_of``.
    """
    return fit_mismatch(behaviour, *vectors_of(dice), values_of(dice), deviations_of(dice), nominal)


def deviations_of(dice: Samples) -> dict[str, Float[np.ndarray, "n R"]]:
    """How far each device of each row of each point's column is off, in units of its σ: drawn again.

    Raises ValueError where the samples tell no chips apart.
    """
    if dice.chip is None or dice.column is None:
        raise ValueError("the samples tell no chips apart: characterise with mismatch")
    rows, seed = shape_in(dice).rows, int(dice.provenance["seed"])
    places, which = np.unique(np.stack([dice.chip, dice.column]), axis=1, return_inverse=True)
    return {
        name: np.stack([standard(seed, int(chip), name, rows, int(column)) for chip, column in places.T])[which.ravel()]
        for name in sorted(_circuit(dice)["mismatch"])
    }


def sample_circuit(
    circuit: Circuit,
    x: Vectors,
    w: Vectors,
    simulator: Simulator | None = None,
    *,
    dice: int = 0,
    seed: int = 0,
    command: str = "",
    axis: Volts | None = None,
    done: Callable[[int, Outcome], None] | None = None,
) -> tuple[Samples, Samples | None]:
    """(samples of all points without mismatch, and of ``dice`` dies with it, on the points in turn). See
    ``characterize``.

    Raises ValueError where dies would be the same, and SimulationError, with the samples of both that were finished.
    """
    check_dice(circuit, dice, 0)
    simulator = simulator or Simulator()
    axis = axis or scale(circuit, simulator)
    how: dict[str, Any] = {"seed": seed, "command": command, "axis": axis, "done": done}
    samples, wrong = tried(circuit, x, w, simulator, **how)
    rows, chips, many, also = np.arange(dice) % len(x), np.arange(dice), None, None
    if dice and samples is not None:
        many, also = tried(circuit, x[rows], w[rows], simulator, chips=chips, points=rows, **how)
    if wrong is None and also is None:
        assert samples is not None
        return samples, many
    failures, lines = dict(wrong.failures if wrong else {}), [*(wrong.lines if wrong else ())]
    if also is not None:
        failures |= {len(x) + i: message for i, message in also.failures.items()}
        lines += also.lines
    total = len(x) + (dice if samples is not None else 0)
    raise SimulationError(f"circuit {circuit.name}", failures, total, samples, lines=lines, dice=many)


def model_circuit(
    circuit: Circuit,
    x: Vectors,
    w: Vectors,
    simulator: Simulator | None = None,
    tolerance: Tolerance | None = None,
    *,
    dice: int = 0,
    most: int = 256,
    seed: int = 0,
    inner: bool = False,
    command: str = "",
    done: Callable[[int, Outcome], None] | None = None,
    keep: Callable[[Samples, Samples | None], object] | None = None,
) -> Characterised:
    """Characterise a circuit on as few rows of the pool (x, w) as its behavioural model needs, then on ``dice`` dies.

    Points that fail are left out: other rows of the pool, and other dies, take their place. ``keep`` is given the
    samples, and those of the dice, before mismatch is fitted to them. Raises as ``characterize`` and ``adapt``,
    SimulationError only where most points fail or too few are left; and ValueError, before anything is simulated, for
    dice too few to fit mismatch to. Points are remembered in the simulator's cache.
    """
    check_dice(circuit, dice, DICE)
    simulator = simulator or Simulator()
    shape, axis = shape_of(circuit), scale(circuit, simulator)
    how: dict[str, Any] = {"seed": seed, "command": command, "axis": axis, "done": done}

    def simulate(rows: np.ndarray) -> tuple[Samples | None, SimulationError | None]:
        return tried(circuit, x[rows], w[rows], simulator, points=rows, **how)

    choice: dict[str, Any] = {"start": BEFORE_DICE if dice else START, "most": most, "seed": seed, "inner": inner}
    pool, adapted = Pool(x, w, simulate, values_of, f"circuit {circuit.name}"), None
    while adapted is None:
        with suppress(Changed):
            adapted = adapt(shape, pool.x, pool.w, pool.values, tolerance, **choice)
    adapted = replace(adapted, fitted=pool.rows[adapted.fitted], checked=pool.rows[adapted.checked])
    samples, many = pool.samples, None
    assert samples is not None
    lines: list[str] = []
    if dice:
        rows = np.resize(adapted.checked, 2 * dice)
        many, lines = on_dice(circuit, x[rows], w[rows], rows, dice, samples, simulator, how)
    if keep is not None:
        keep(samples, many)
    if many is not None:
        adapted = replace(adapted, behaviour=with_dice(adapted.behaviour, many, _still(samples, many)))
    return Characterised(adapted, samples, many, (*pool.lines, *lines))


def _still(samples: Samples, many: Samples) -> Values:
    """Values without mismatch of the points that dies stand on, by their vectors."""

    def points(table: Samples) -> list[bytes]:
        return [x.tobytes() + w.tobytes() for x, w in zip(*vectors_of(table), strict=True)]

    found = dict(zip(points(samples), values_of(samples), strict=True))
    return np.array([found[point] for point in points(many)])


def spread_pool(circuit: Circuit, n: int, seed: int = 0) -> tuple[Vectors, Vectors]:
    """A pool of ``n`` random (x, w) whose sums fill the circuit's counts: rows on, levels and digits of many densities.

    For circuits without a network at hand; vectors of a network's own activations serve it better.
    """
    rng = np.random.default_rng(seed)
    x, w = np.zeros((n, circuit.rows), dtype=np.int8), np.zeros((n, circuit.rows), dtype=np.int8)
    wanted = rng.integers(0, circuit.scale.counts + 1, n)
    for i in range(n):
        for least in np.linspace(0, 1, 16):  # denser, until the sum is reached
            on, held = np.maximum(rng.random(2), least)
            high = max(int(rng.integers(1, circuit.input_high + 1)), int(least * circuit.input_high))
            low = 1 + int(least * (high - 1))
            x[i] = rng.integers(low, high + 1, circuit.rows) * (rng.random(circuit.rows) < on)
            top = circuit.weight_levels - 1
            w[i] = rng.integers(1 + int(least * (top - 1)), top + 1, circuit.rows) * (rng.random(circuit.rows) < held)
            over = np.cumsum(x[i].astype(np.int64) * w[i]) > wanted[i]
            w[i][over] = 0  # rows that would pass the sum hold nothing
            if (x[i].astype(np.int64) * w[i]).sum() >= wanted[i] - circuit.scale.counts // 16:
                break
    order = rng.permuted(np.tile(np.arange(circuit.rows), (n, 1)), axis=1)
    return np.take_along_axis(x, order, 1), np.take_along_axis(w, order, 1)


def shipped(name: str) -> Samples:
    """Samples that come with Bitline: ``sram-8t-pwm`` (no mismatch), ``sram-8t-pwm-dice`` (8 sums, 1024 dice each).

    Made by ``examples/sram_samples.py``. Raises ValueError naming those there are.
    """
    folder = files("bitline.circuits.spice") / "samples"
    there = sorted(entry.name.removesuffix(".parquet") for entry in folder.iterdir() if entry.name.endswith(".parquet"))
    if name not in there:
        raise ValueError(f"no samples {name!r} come with Bitline; there are: {', '.join(there)}")
    return Samples.load(str(folder / f"{name}.parquet"))


__all__ = [
    "Characterised",
    "SimulationError",
    "behaviour_of",
    "deviations_of",
    "model_circuit",
    "sample_circuit",
    "shape_in",
    "shape_of",
    "shipped",
    "spread_pool",
    "values_of",
    "vectors_of",
    "with_dice",
]
