"""Reads of real cells, from the files of the RRAM relaxation measurements to conductances by level and age.

The files are those of github.com/akashlevy/RRAM-Relaxation-Master-Model (MIT, Copyright (c) 2021 Akash Levy), arrays
of technologies A and B, 32 levels; any measurement in the same columns reads alike.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer

from bitline import draws
from bitline.devices.conductances import NORMAL_SCORES, NORMAL_SHARES, REFERENCE, ROOM, Bake, Conductances

LEVELS = 32
LEAST = 20  # cells of a level and condition below which quantiles mean nothing
_BAKE = ("address", "time (s)", "resistance (ohm)", "conductance (S)", "bake temperature (°C)")
_RELAXATION = (
    *("address", "time (s)", "resistance (ohm)", "conductance (S)", "conductance as programmed (S)"),
    *("programmed level", "nominal time (s)"),
)


@dataclass(frozen=True)
class CellReads:
    """Reads of n cells; ``seconds`` is the nominal age, the same for all cells of a condition."""

    address: Integer[np.ndarray, " n"]
    level: Integer[np.ndarray, " n"]
    seconds: Float[np.ndarray, " n"]
    kelvin: Float[np.ndarray, " n"]
    siemens: Float[np.ndarray, " n"]
    programmed: Float[np.ndarray, " n"]  # S, the first read of the cell

    def __len__(self) -> int:
        return len(self.address)

    def where(self, keep: np.ndarray) -> CellReads:
        """The reads that ``keep`` (n booleans) marks."""
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return replace(self, **{name: column[keep] for name, column in columns.items()})

    def conditions(self) -> list[tuple[float, float]]:
        """(seconds, kelvin) that were measured, in order."""
        pairs = np.unique(np.stack([self.kelvin, self.seconds], axis=1), axis=0)
        return [(float(seconds), float(kelvin)) for kelvin, seconds in pairs]

    def halves(self) -> tuple[CellReads, CellReads]:
        """Two halves with different cells, split by a hash of the address.

        Not by row: neighbouring pairs of rows of array B differ more than chance allows.
        """
        first = draws.uniform(draws.key("halves"), torch.from_numpy(self.address)).numpy() < 0.5
        return self.where(first), self.where(~first)


def read_relaxation(path: str | Path, levels: int = LEVELS) -> CellReads:
    """Reads at room temperature: address, time, R, G, G as programmed, level, nominal time (``rram_techB``).

    Cells that were programmed beyond the highest level (a level ≥ ``levels``) are left out: nobody would take them for
    programmed. Raises ValueError naming the file, the line and what would be accepted.
    """
    table, line = _table(path, _RELAXATION)
    address, _, _, siemens, programmed, level, seconds = table.T
    _check(path, line, "programmed level", level, lambda v: (v >= 0) & (v == np.floor(v)), "a whole number ≥ 0")
    _check(path, line, "nominal time (s)", seconds, lambda v: v >= 0, "0 or more")
    _once(path, line, np.stack([address, seconds], axis=1), "cell {:.0f} was read before at a nominal time of {:g} s")
    order = np.lexsort((seconds, address))
    same = address[order][1:] == address[order][:-1]
    moved = same & (programmed[order][1:] != programmed[order][:-1])
    if moved.any():
        at = order[1:][moved][0]
        raise ValueError(
            f"{path}, line {line[at]}: cell {address[at]:.0f} was programmed to {programmed[at]:g} S, other lines say "
            "otherwise: one programming a cell is accepted"
        )
    keep = level < levels
    whole, kelvin = address.astype(np.int64), np.full(len(seconds), REFERENCE)
    reads = CellReads(whole, level.astype(np.int64), seconds, kelvin, siemens, programmed)
    return reads.where(keep)


def read_bake(path: str | Path, g_max: float, levels: int = LEVELS) -> CellReads:
    """Reads of cells after bakes of hours: address, time, R, G, temperature (``rram_techA``), two a cell and bake.

    The read at time 0 counts as what was programmed, its range of ``g_max`` / ``levels`` (S) as the level: the
    definition of the source, and that of its other files. Cells beyond the highest level are left out. All cells of a
    bake have the median of their ages. Raises ValueError naming the file, the line and what would be accepted.
    """
    table, line = _table(path, _BAKE)
    address, time, _, siemens, celsius = table.T
    _check(path, line, "bake temperature (°C)", celsius, lambda v: v > ROOM[1] - 273.15, "above room temperature")
    late = time > 0
    _once(path, line, np.stack([address, celsius, late], axis=1), "cell {:.0f} was read before, likewise, at {:g} °C")
    before, after = (np.flatnonzero(which)[np.lexsort((address[which], celsius[which]))] for which in (~late, late))
    if (
        len(before) != len(after)
        or (address[before] != address[after]).any()
        or (celsius[before] != celsius[after]).any()
    ):
        keys = [set(zip(celsius[which], address[which], strict=True)) for which in (before, after)]
        warm, cell = min(keys[0] ^ keys[1])
        raise ValueError(
            f"{path}: cell {cell:.0f} was not read both at time 0 and after the bake at {warm:g} °C; accepted is "
            "one read of each"
        )
    seconds = np.zeros(len(after))
    for one in np.unique(celsius):
        seconds[celsius[after] == one] = float(np.median(time[after][celsius[after] == one]))
    level = np.floor(siemens[before] / (g_max / levels)).astype(np.int64)
    whole, kelvin = address[after].astype(np.int64), celsius[after] + 273.15
    reads = CellReads(whole, level, seconds, kelvin, siemens[after], siemens[before])
    return reads.where(level < levels)


def fit_conductances(
    reads: CellReads, name: str, low: float, step: float, source: str = "", levels: int = LEVELS
) -> Conductances:
    """Quantiles of every level at every condition of ``reads``.

    ``low``, ``step`` (S): what level 0 aims at, and from level to level. Half of a distribution comes from the level's
    own cells, a quarter from those of each neighbour, moved to where cells of equal rank started in the level. The
    outer levels stand alone. Raises ValueError naming the level and
    condition with fewer than 20 cells.
    """
    room = [(s, k) for s, k in reads.conditions() if ROOM[0] <= k <= ROOM[1]]
    hot = [(s, k) for s, k in reads.conditions() if k > ROOM[1]]
    quantiles = np.empty((len(room) + len(hot), levels, len(NORMAL_SCORES)))
    for i, (seconds, kelvin) in enumerate(room + hot):
        here = reads.where((reads.seconds == seconds) & (reads.kelvin == kelvin))
        cells = [here.where(here.level == level) for level in range(levels)]
        began = [np.sort(each.programmed) for each in cells]
        for level, own in enumerate(cells):
            if len(own) < LEAST:
                raise ValueError(
                    f"{name}: {len(own)} cells of level {level} at {seconds:g} s and {kelvin:g} K; {LEAST} are needed"
                )
            if 0 < level < levels - 1:
                moved = [_moved(cells[other], other, level, began) for other in (level - 1, level + 1)]
                parts, weights = [own.siemens, *moved], [0.5, 0.25, 0.25]
            else:
                parts, weights = [own.siemens], [1.0]
            weight = np.concatenate([np.full(len(p), w / len(p)) for p, w in zip(parts, weights, strict=True)])
            values = np.maximum(np.concatenate(parts), 0.0)
            order = np.argsort(values, kind="stable")  # equal values have unequal weights
            ranks = np.cumsum(weight[order]) - weight[order] / 2
            quantiles[i, level] = np.interp(NORMAL_SHARES, ranks, values[order])
    return Conductances(
        name=name,
        source=source,
        low=low,
        step=step,
        seconds=tuple(seconds for seconds, _ in room),
        bakes=tuple(Bake(kelvin=kelvin, seconds=seconds) for seconds, kelvin in hot),
        quantiles=quantiles,
    )


def _moved(cells: CellReads, level: int, to: int, began: list[np.ndarray]) -> np.ndarray:
    """What cells of ``level`` would conduct had they been programmed to another."""
    rank = (np.searchsorted(began[level], cells.programmed) + 0.5) / len(began[level])
    return np.quantile(began[to], np.clip(rank, 0, 1)) + (cells.siemens - cells.programmed)


def _table(path: str | Path, columns: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(numbers, line of each row) of a tab-separated file, gzipped or not; R · G = 1 is checked."""
    path = Path(path)
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            lines = file.read().splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as tab-separated text: {error}") from None
    rows, line = [], []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        fields = text.split("\t")
        if len(fields) != len(columns):
            raise ValueError(
                f"{path}, line {number}: {len(fields)} columns; accepted are {len(columns)}, tab-separated: "
                + ", ".join(columns)
            )
        try:
            rows.append([float(field) for field in fields])
        except ValueError:
            wrong = next(i for i, field in enumerate(fields) if not _number(field))
            raise ValueError(f"{path}, line {number}: {columns[wrong]} is {fields[wrong]!r}, not a number") from None
        line.append(number)
    if not rows:
        raise ValueError(f"{path} is empty; accepted are lines of {', '.join(columns)}")
    table, place = np.array(rows), np.array(line)
    for i, column in enumerate(columns):
        _check(path, place, column, table[:, i], np.isfinite, "a finite number")
    _check(path, place, "address", table[:, 0], lambda v: (v >= 0) & (v == np.floor(v)), "a whole number ≥ 0")
    _check(path, place, "time (s)", table[:, 1], lambda v: v >= 0, "0 or more")
    _check(path, place, "conductance (S)", table[:, 3], lambda v: (v > 0) & (v < 1), "between 0 and 1")
    product = table[:, 2] * table[:, 3]
    _check(path, place, "resistance · conductance", product, lambda v: np.abs(v - 1) < 1e-3, "1 within 0.1 %")
    return table, place


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check(
    path: str | Path,
    line: np.ndarray,
    name: str,
    values: np.ndarray,
    sound: Callable[[np.ndarray], np.ndarray],
    accepted: str,
) -> None:
    wrong = ~sound(values)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"{path}, line {line[at]}: {name} is {values[at]:g}; accepted is {accepted}")


def _once(path: str | Path, line: np.ndarray, keys: np.ndarray, told: str) -> None:
    _, first, count = np.unique(keys, axis=0, return_index=True, return_counts=True)
    if (count > 1).any():
        key = keys[first[np.argmax(count > 1)]]
        again = np.flatnonzero((keys == key).all(axis=1))[1]
        raise ValueError(f"{path}, line {line[again]}: {told.format(*key)}; accepted is one read")
