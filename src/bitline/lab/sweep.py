"""Characterisation of a board: known cells, known inputs, the codes it gives, as ``Samples``; resumed after a kill.

The sweep is cut into steps, each a function of the plan and its number alone: cells of one array, a batch of vectors
on one row group. A step's samples appear in the folder ``<out>.parts`` whole or not at all, so that a sweep that was
killed goes on after the last whole step: nothing is lost and nothing measured twice.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from bitline.files import write_atomic
from bitline.lab.errors import BoardReset
from bitline.lab.instrument import Identity, Instrument
from bitline.samples import Samples

VECTORS = 32  # of a step
RESTARTS = 3  # of a board that is reset while a step is measured
CONDITIONS = {"temperature": "K", "supply": "V"}  # what may be written down beside the reads, and its unit


@dataclass(frozen=True)
class Sweep:
    """What is measured: ``conversions`` at least, on these arrays, in this converter range, under ``conditions``."""

    conversions: int
    arrays: tuple[int, ...]
    low: float
    step: float
    seed: int
    chip: int
    conditions: Mapping[str, float] = field(default_factory=dict)

    def steps(self, identity: Identity) -> int:
        """Number of steps."""
        each = VECTORS * identity.lanes * len(self.arrays)
        return -(-self.conversions // each) * len(self.arrays)


def characterize(
    instrument: Instrument,
    out: Path,
    *,
    conversions: int = 100_000,
    low: float = 0.0,
    step: float = 1.0,
    arrays: tuple[int, ...] | None = None,
    seed: int = 0,
    chip: int = 0,
    conditions: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """Measure single conversions and write them to ``out`` (``.parquet`` or ``.csv``).

    Every other step fills the columns, so that the sums run from none to all rows; the others hold random levels at
    random densities, so that a sum is made in many ways. Inputs are digits, driven in one pass. ``low`` and ``step``:
    range of the converters, counts. ``arrays``: absent: all. ``column`` of a sample is the physical address of the
    lane's first column (array · columns + column), ``read`` numbers the vectors, and ``w`` is a row's level, less that
    of the second leg. ``conditions``: what the board was measured under, names of ``CONDITIONS`` in their units; each
    becomes a column of the samples. ``progress`` is told steps done and in all.

    Raises ValueError for a condition that is unknown or no finite number and where ``out.parts`` holds another sweep,
    and what the link raises; the same call then goes on.
    """
    identity, under = instrument.identity, sound(conditions or {})
    sweep = Sweep(conversions, arrays or tuple(range(identity.arrays)), float(low), float(step), seed, chip, under)
    if conversions < 1 or any(not 0 <= a < identity.arrays for a in sweep.arrays):
        raise ValueError(f"{conversions} conversions on arrays {sweep.arrays}: the board has {identity.arrays} arrays")
    parts = out.with_name(out.name + ".parts")
    _claim(parts, sweep, identity)
    steps = sweep.steps(identity)
    for number in range(steps):
        file = parts / f"{number:06d}.parquet"
        if not file.exists():
            _insisted(instrument, sweep, number).save(file)
        if progress is not None:
            progress(number + 1, steps)
    samples = Samples.concat([Samples.load(parts / f"{number:06d}.parquet") for number in range(steps)])
    samples.save(out)
    shutil.rmtree(parts)
    return samples


def sound(conditions: Mapping[str, float]) -> dict[str, float]:
    """The conditions themselves; raises ValueError naming one that is unknown or no finite number."""
    for name, value in conditions.items():
        if name not in CONDITIONS:
            known = ", ".join(f"{key} ({unit})" for key, unit in CONDITIONS.items())
            raise ValueError(f"condition {name!r} is unknown; known: {known}")
        if not math.isfinite(value):
            raise ValueError(f"condition {name} = {value} is no finite number")
    return {name: float(value) for name, value in conditions.items()}


def _claim(parts: Path, sweep: Sweep, identity: Identity) -> None:
    plan = json.dumps({"sweep": asdict(sweep), "board": asdict(identity)}, indent=1, sort_keys=True)
    file = parts / "sweep.json"
    parts.mkdir(parents=True, exist_ok=True)
    if file.exists() and file.read_text(encoding="utf-8") != plan:
        raise ValueError(f"{parts} holds an unfinished sweep of another plan or board: finish it, or remove the folder")
    write_atomic(file, plan)


def _insisted(instrument: Instrument, sweep: Sweep, number: int) -> Samples:
    """A step, measured again from its beginning if the board was reset in it."""
    for _ in range(RESTARTS):
        try:
            return _measured(instrument, sweep, number)
        except BoardReset:
            instrument.restart()
    return _measured(instrument, sweep, number)


def _measured(instrument: Instrument, sweep: Sweep, number: int) -> Samples:
    identity, which = instrument.identity, number // len(sweep.arrays)
    array = sweep.arrays[number % len(sweep.arrays)]
    row, rows = identity.groups[which % len(identity.groups)]
    rng = np.random.default_rng([sweep.seed, number])
    levels = cells(identity, rng, full=(which // len(identity.groups)) % 2 == 0)
    x = digits(identity, rng, rows, full=rng.random() < 0.5)
    instrument.configure(array, sweep.low, sweep.step)
    instrument.program(array, levels)
    code = instrument.read(array, row, x, "digits")[:, 0]  # vectors × lanes
    w = weights(identity, levels)[row : row + rows]  # rows × lanes
    n = code.size
    whole_x, whole_w = (np.zeros((n, identity.active_rows), dtype=np.int16) for _ in range(2))
    whole_x[:, :rows] = np.repeat(x, identity.lanes, axis=0)
    whole_w[:, :rows] = np.tile(w.T, (len(x), 1))
    lanes = array * identity.columns + np.arange(identity.lanes) * identity.stride
    return Samples(
        ideal=(x.astype(np.int64) @ w.astype(np.int64)).reshape(-1),
        code=code.reshape(-1),
        chip=np.full(n, sweep.chip),
        column=np.tile(lanes, len(x)),
        read=np.repeat(which * VECTORS + np.arange(len(x)), identity.lanes),
        x=whole_x,
        w=whole_w,
        conditions={name: np.full(n, value) for name, value in sweep.conditions.items()},
        units={"ideal": "counts", "code": "LSB"} | {name: CONDITIONS[name] for name in sweep.conditions},
        provenance={
            "source": "bench",
            "board": identity.name,
            "serial": identity.serial,
            "low": sweep.low,
            "step": sweep.step,
            "codes": identity.codes,
            "seed": sweep.seed,
        },
    )


def cells(identity: Identity, rng: np.random.Generator, full: bool) -> Integer[np.ndarray, "rows columns"]:
    """Levels for an array: all at the top (``full``), or at a density of each lane's own; one leg of a pair holds 0."""
    i = identity
    sign = np.zeros(i.lanes, dtype=int) if i.legs == 1 or i.reserved else np.arange(i.lanes) % 2
    if full:
        held = np.full((i.rows, i.lanes), i.level_high)
    else:
        held = rng.integers(1, i.level_high + 1, (i.rows, i.lanes)) * (
            rng.random((i.rows, i.lanes)) < rng.random(i.lanes)
        )
    levels = np.zeros((i.rows, i.columns), dtype=np.uint8)
    lane = np.arange(i.lanes)
    levels[:, lane * i.stride + sign] = held
    if i.reserved and not full:
        levels[:, i.columns - i.reserved :] = rng.integers(0, i.level_high + 1, (i.rows, i.reserved))
    return levels


def weights(identity: Identity, levels: Integer[np.ndarray, "rows columns"]) -> Integer[np.ndarray, "rows lanes"]:
    """What a digit is multiplied by in each lane: the first leg's level less that of the second."""
    i, lane = identity, np.arange(identity.lanes)
    w = levels[:, lane * i.stride].astype(np.int16)
    if i.legs == 2:
        second = i.columns - i.reserved + lane % i.conversions if i.reserved else lane * i.stride + 1
        w = w - levels[:, second].astype(np.int16)
    return w


def digits(identity: Identity, rng: np.random.Generator, rows: int, full: bool) -> Integer[np.ndarray, "vectors rows"]:
    """Vectors of digits with from none to all rows on, evenly spread; ``full``: at the largest digit."""
    i = identity
    on = ((np.arange(VECTORS) + rng.random()) / VECTORS * (rows + 1)).astype(int)
    place = rng.permuted(np.tile(np.arange(rows), (VECTORS, 1)), axis=1)
    stride = 2 if i.digit_low < 0 else 1  # a driver of two polarities: odd digits, and 0 is off
    x = np.full((VECTORS, rows), i.digit_high)
    if not full:
        x = i.digit_high - stride * rng.integers(0, (i.digit_high - max(i.digit_low, 1)) // stride + 1, x.shape)
        if i.digit_low < 0:
            x *= rng.choice([-1, 1], x.shape)
    return np.where(place < on[:, None], x, 0).astype(np.int16)
