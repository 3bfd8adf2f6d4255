"""From a circuit and input and weight vectors to samples: every point through ngspice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsInt

import numpy as np
from jaxtyping import Float, Integer

from bitline.circuits.spice.card import digest
from bitline.circuits.spice.circuit import Circuit
from bitline.circuits.spice.runner import Outcome, Simulator
from bitline.samples import Samples

SHOWN = 5  # failures told in a message
ENDS = 4  # values of a vector told from each end


class SimulationError(ValueError):
    """Points that failed, each with the simulator's own message.

    ``failures``: by place among the points; ``lines``: the same as they are told, by number, die and vectors.
    ``samples`` holds the points that did not fail, and ``dice`` those on dies of their own, if any.
    """

    def __init__(
        self,
        what: str,
        failures: Mapping[int, str],
        total: int,
        samples: Samples | None,
        *,
        lines: Sequence[str] | None = None,
        dice: Samples | None = None,
    ) -> None:
        self.what, self.failures, self.total, self.samples, self.dice = what, dict(failures), total, samples, dice
        self.lines = [f"point {i}: {message}" for i, message in failures.items()] if lines is None else list(lines)
        finished = sum(len(table) for table in (samples, dice) if table is not None)
        kept = f"the {finished} finished points are kept" if finished else "no point was finished"
        super().__init__("\n".join([f"{what}: {len(failures)} of {total} points failed; {kept}", *few(self.lines)]))


def few(lines: Sequence[str]) -> list[str]:
    """The first lines, and how many more there are."""
    return [*lines[:SHOWN], *([f"… and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])]


def named(
    number: SupportsInt, x: Integer[np.ndarray, " R"], w: Integer[np.ndarray, " R"], chip: SupportsInt | None = None
) -> str:
    """What a point is called in messages: its number, its die, and its vectors or their ends."""
    die = "" if chip is None else f"die {chip}, "
    return f"point {number}: {die}x = {_ends(x)}, w = {_ends(w)}"


def _ends(values: Integer[np.ndarray, " R"]) -> str:
    told = [str(int(value)) for value in values]
    return " ".join(told if len(told) <= 2 * ENDS else [*told[:ENDS], "…", *told[-ENDS:]])


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
    low, high = _values(circuit, simulator, patterns)
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
    points: Integer[np.ndarray, " n"] | None = None,
    reads: Integer[np.ndarray, " n"] | None = None,
    seed: int = 0,
    command: str = "",
    axis: Volts | None = None,
    done: Callable[[int, Outcome], None] | None = None,
) -> Samples:
    """Simulate a circuit's column for input codes ``x`` and cell levels ``w``; ``chips``: the die of each point, and
    ``columns`` the column on it, absent: the first. ``points``: what each is numbered in messages, absent: from 0.

    Without ``chips`` there is no mismatch. ``reads``: the number of each read of its point, for the circuit's noise;
    absent: there is none. ``axis``: the converter's scale, if at hand. A row holds x, w, their sum
    ``ideal``, the converter's ``code`` (see ``scale``) and the measured value as the condition named as the circuit's
    `.meas`, with its unit. Corner, temperature and supply are in the provenance, with all it takes to repeat the run:
    the circuit, hashes of its netlist, its cards and the files it includes, ngspice's version and ``command``.
    Temperature (K) and supply (V) are conditions too, where the netlist has a place for them.

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
    varied = {key: unit for key, unit in (("temperature", "K"), ("supply", "V")) if key in circuit.template.used}
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
            conditions={circuit.measure.name: value}
            | {name: np.full(len(value), getattr(circuit, name)) for name in varied},
            units={"ideal": "counts", "code": "LSB", circuit.measure.name: circuit.measure.unit} | varied,
            provenance=provenance(circuit, simulator, axis, seed, command),
        )
    failures = {i: str(o.failure) for i, o in enumerate(outcomes) if o.value is None}
    if failures:
        number, die = (np.arange(len(x)) if points is None else points), ([None] * len(x) if chips is None else chips)
        lines = [f"{named(number[i], x[i], w[i], die[i])}: {message}" for i, message in failures.items()]
        raise SimulationError(f"circuit {circuit.name}", failures, len(outcomes), samples, lines=lines)
    assert samples is not None
    return samples


def provenance(circuit: Circuit, simulator: Simulator, axis: Volts, seed: int, command: str) -> dict[str, object]:
    """All it takes to repeat a run, as JSON."""
    hashes = [digest(card, size=8) for card in circuit.cards()]
    first = len(hashes) - len(circuit.included)  # after the cards' own
    included = dict(zip(circuit.included, hashes[first:], strict=True))
    told: dict[str, object] = {
        "source": "SPICE",
        "simulator": simulator.version,
        "circuit": circuit.told(),
        "netlist_hash": hashlib.blake2b(circuit.template.text.encode(), digest_size=8).hexdigest(),
        "card_hashes": hashes[:first],
        "zero": axis.zero,
        "lsb": axis.lsb,
        "seed": seed,
        "command": command,
    }
    return told | ({"included": included} if included else {})


def _none(circuit: Circuit) -> dict[str, np.ndarray]:
    return {name: np.zeros(circuit.rows) for name in circuit.mismatch}


def _values(circuit: Circuit, simulator: Simulator, patterns: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    decks = [circuit.template.fill(x, w, _none(circuit)) for x, w in patterns]
    outcomes = simulator.run(decks, circuit.measure.name, circuit.cards())
    failures = {i: str(o.failure) for i, o in enumerate(outcomes) if o.value is None}
    if failures:
        lines = [f"{int((x * w).sum())} counts: {failures[i]}" for i, (x, w) in enumerate(patterns) if i in failures]
        raise SimulationError(f"circuit {circuit.name}, scale", failures, len(decks), None, lines=lines)
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
