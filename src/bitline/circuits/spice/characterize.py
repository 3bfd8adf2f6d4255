"""From a circuit and input and weight vectors to samples: every point through ngspice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from bitline.circuits.spice.circuit import Circuit
from bitline.circuits.spice.runner import Outcome, Simulator
from bitline.samples import Samples

SHOWN = 5  # failures told in a message


class SimulationError(ValueError):
    """Points that failed, each with the simulator's own message. ``samples`` holds those that did not, if any."""

    def __init__(self, what: str, failures: dict[int, str], total: int, samples: Samples | None) -> None:
        some = [f"point {i}: {message}" for i, message in list(failures.items())[:SHOWN]]
        if len(failures) > SHOWN:
            some.append(f"… and {len(failures) - SHOWN} more")
        kept = "no point was finished" if samples is None else f"the {len(samples)} finished points are kept"
        super().__init__("\n".join([f"{what}: {len(failures)} of {total} points failed; {kept}", *some]))
        self.failures, self.samples = failures, samples


@dataclass(frozen=True)
class Volts:
    """Converter's scale of a circuit: what is measured (SI) at no count, and a step of it (signed)."""

    zero: float
    lsb: float

    def codes(self, value: Float[np.ndarray, " n"], bits: int) -> Integer[np.ndarray, " n"]:
        """Codes of measured values, rounded half up and clipped."""
        return np.clip(np.floor((value - self.zero) / self.lsb + 0.5), 0, 2**bits - 1).astype(np.int64)


def scale(circuit: Circuit, simulator: Simulator) -> Volts:
    """The converter's scale: 2^bits steps between no count and the pattern of ``scale.counts`` counts, no mismatch.

    Raises SimulationError where one of the two does not simulate, ValueError where they do not differ.
    """
    patterns = [circuit.reference(0), circuit.reference(circuit.scale.counts)]
    low, high = _values(circuit, simulator, [circuit.template.fill(x, w, _none(circuit)) for x, w in patterns], "scale")
    if high == low:
        raise ValueError(
            f"circuit {circuit.name}: {circuit.measure.name} is {low:.6g} {circuit.measure.unit} at 0 and at "
            f"{circuit.scale.counts} counts: the circuit does not respond"
        )
    return Volts(low, (high - low) / 2**circuit.scale.bits)


def measured(
    circuit: Circuit,
    x: Integer[np.ndarray, "n R"],
    w: Integer[np.ndarray, "n R"],
    simulator: Simulator,
    *,
    mismatch: Sequence[dict[str, Float[np.ndarray, " R"]]] | None = None,
    noise: Sequence[dict[str, Float[np.ndarray, " R"]]] | None = None,
    done: Callable[[int, Outcome], None] | None = None,
) -> list[Outcome]:
    """What ngspice measures at each point, or why it does not. Raises ValueError for vectors that do not fit."""
    _check(circuit, x, w)
    nominal = _none(circuit)
    decks = [
        circuit.template.fill(a, b, nominal if mismatch is None else mismatch[i], None if noise is None else noise[i])
        for i, (a, b) in enumerate(zip(x, w, strict=True))
    ]
    return simulator.run(decks, circuit.measure.name, circuit.cards(), done)


def characterize(
    circuit: Circuit,
    x: Integer[np.ndarray, "n R"],
    w: Integer[np.ndarray, "n R"],
    simulator: Simulator | None = None,
    *,
    chips: Integer[np.ndarray, " n"] | None = None,
    columns: Integer[np.ndarray, " n"] | None = None,
    reads: Integer[np.ndarray, " n"] | None = None,
    seed: int = 0,
    command: str = "",
    axis: Volts | None = None,
    done: Callable[[int, Outcome], None] | None = None,
) -> Samples:
    """Simulate a circuit's column for input codes ``x`` and cell levels ``w``; ``chips``: the die of each point, and
    ``columns`` the column on it, absent: the first.

    Without ``chips`` there is no mismatch. ``reads``: the number of each read of its point, for the circuit's noise;
    absent: there is none. ``axis``: the converter's scale, if at hand. A row holds x, w, their sum
    ``ideal``, the converter's ``code`` (see ``scale``) and the measured value as the condition named as the circuit's
    `.meas`, with its unit. Corner, temperature and supply are in the provenance, with all it takes to repeat the run:
    the circuit, a hash of its netlist and cards, ngspice's version and ``command``. Temperature (K) and supply (V) are
    conditions too.

    Raises SimulationError, after all points have ended, if some failed; its ``samples`` are the others.
    """
    simulator = simulator or Simulator()
    axis = axis or scale(circuit, simulator)
    columns = np.zeros(len(x), dtype=np.int64) if columns is None else columns
    dice = None
    if chips is not None:
        dice = [circuit.drawn(seed, int(chip), int(column)) for chip, column in zip(chips, columns, strict=True)]
    noise = None
    if reads is not None:
        dies = np.zeros(len(x), dtype=np.int64) if chips is None else chips
        where = zip(reads, dies, columns, x, w, strict=True)
        noise = [circuit.fresh(seed, int(read), (int(chip), int(c)), a, b) for read, chip, c, a, b in where]
    outcomes = measured(circuit, x, w, simulator, mismatch=dice, noise=noise, done=done)
    good = np.array([outcome.value is not None for outcome in outcomes], dtype=bool)
    value = np.array([outcome.value for outcome in outcomes if outcome.value is not None])
    samples = None
    if good.any():
        samples = Samples(
            ideal=(x.astype(np.int64) * w).sum(axis=1)[good],
            code=axis.codes(value, circuit.scale.bits),
            chip=None if chips is None else chips[good],
            column=None if chips is None else columns[good],
            read=None if reads is None else reads[good],
            x=x[good],
            w=w[good],
            conditions={
                circuit.measure.name: value,
                "temperature": np.full(len(value), circuit.temperature),
                "supply": np.full(len(value), circuit.supply),
            },
            units={
                "ideal": "counts",
                "code": "LSB",
                circuit.measure.name: circuit.measure.unit,
                "temperature": "K",
                "supply": "V",
            },
            provenance=provenance(circuit, simulator, axis, seed, command),
        )
    failures = {i: str(o.failure) for i, o in enumerate(outcomes) if o.value is None}
    if failures:
        raise SimulationError(f"circuit {circuit.name}", failures, len(outcomes), samples)
    assert samples is not None
    return samples


def provenance(circuit: Circuit, simulator: Simulator, axis: Volts, seed: int, command: str) -> dict[str, object]:
    """All it takes to repeat a run, as JSON."""
    hashes = [hashlib.blake2b(text, digest_size=8).hexdigest() for text in _texts(circuit)]
    return {
        "source": "SPICE",
        "simulator": simulator.version,
        "circuit": circuit.told(),
        "netlist_hash": hashes[0],
        "card_hashes": hashes[1:],
        "zero": axis.zero,
        "lsb": axis.lsb,
        "seed": seed,
        "command": command,
    }


def _texts(circuit: Circuit) -> list[bytes]:
    return [circuit.template.text.encode(), *(card.read_bytes() for card in circuit.cards())]


def _none(circuit: Circuit) -> dict[str, np.ndarray]:
    return {name: np.zeros(circuit.rows) for name in circuit.mismatch}


def _values(circuit: Circuit, simulator: Simulator, decks: Sequence[str], what: str) -> list[float]:
    outcomes = simulator.run(decks, circuit.measure.name, circuit.cards())
    failures = {i: str(o.failure) for i, o in enumerate(outcomes) if o.value is None}
    if failures:
        raise SimulationError(f"circuit {circuit.name}, {what}", failures, len(decks), None)
    return [outcome.value for outcome in outcomes if outcome.value is not None]


def _check(circuit: Circuit, x: np.ndarray, w: np.ndarray) -> None:
    for name, values, most in (("x", x, circuit.input_high), ("w", w, circuit.weight_levels - 1)):
        if values.ndim != 2 or values.shape[1] != circuit.rows or len(values) != len(x):
            raise ValueError(
                f"{name} has the shape {values.shape}; circuit {circuit.name} wants (points, {circuit.rows}) rows"
            )
        outside = (values < 0) | (values > most)
        if outside.any():
            i, r = (int(k) for k in np.argwhere(outside)[0])
            raise ValueError(f"{name}[{i}, {r}] = {values[i, r]} is outside 0 … {most} of circuit {circuit.name}")
