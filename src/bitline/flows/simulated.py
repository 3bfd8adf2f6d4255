"""Conversions of a network in ngspice, leg by leg, beside the behavioural model of the same dies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from bitline.circuits.spice import Circuit, SimulationError, Simulator, Volts, characterize
from bitline.macro import Behaviour, Readout, values_of
from bitline.macro.behaviour import Vectors
from bitline.macro.characterised import deviations_of, vectors_of
from bitline.macro.legs import Levels, sums_of
from bitline.samples import Samples


@dataclass(frozen=True)
class Simulated:
    """What ngspice gave of each conversion, in LSB, NaN where it did not: code less ideal code, and value less that of
    the behavioural model of the same die. ``said``: its version, or why there is nothing."""

    error: Float[np.ndarray, " n"]
    residual: Float[np.ndarray, " n"]
    said: str


def assumed(readout: Readout) -> str:
    """What of a conversion is simulated in the circuit, and what is taken to be ideal."""
    legs = len(readout.signs)
    if legs == 1:
        return "each conversion is one column, solved with its mismatch; the converter is ideal"
    return (
        f"each conversion is {legs} columns, solved apart, each with mismatch of its own; their subtraction and the "
        "converter are ideal, and nothing couples the columns"
    )


def simulated(
    circuit: Circuit,
    x: Vectors,
    w: Levels,
    behaviour: Behaviour,
    readout: Readout,
    axis: Volts,
    simulator: Simulator | None,
    seed: int,
) -> Simulated:
    """Simulate every leg of each conversion as a column of a die of the conversion's own, and read what they make.

    ``axis``: the circuit's scale, by which each leg's volts are counts.
    """
    n, legs = w.shape[:2]
    nothing = np.full(n, np.nan)
    if simulator is None:
        return Simulated(nothing, nothing, "not asked for")
    inputs, levels, done = np.repeat(x, legs, axis=0), w.reshape(n * legs, -1), np.arange(n * legs)
    chips, columns = done // legs, done % legs
    try:
        said = simulator.version
        found = characterize(circuit, inputs, levels, simulator, chips=chips, columns=columns, seed=seed, axis=axis)
    except FileNotFoundError as absent:
        return Simulated(nothing, nothing, str(absent))
    except SimulationError as failed:
        if failed.samples is None:
            return Simulated(nothing, nothing, str(failed))
        said, found = f"{said}; {failed}", failed.samples
        done = np.setdiff1d(done, list(failed.failures))
    value, expected = np.full((2, n * legs), np.nan)
    value[done] = values_of(found)
    expected[done] = behaviour.predict(inputs[done], levels[done], deviations_of(found))
    met, model = (readout.met(each.reshape(n, legs)) for each in (value, expected))
    error = readout.code(met) - readout.code(readout.met(sums_of(x, w)))
    return Simulated(error, (met - model) / readout.step, said)


def left_over(behaviour: Behaviour, dice: Samples, readout: Readout) -> float:
    """What the behavioural model leaves of a conversion's value on dies it was fitted to, LSB rms: legs that meet each
    add theirs."""
    rest = values_of(dice) - behaviour.predict(*vectors_of(dice), deviations_of(dice))
    return float(np.sqrt(len(readout.signs) * np.mean(rest**2)) / readout.step)
