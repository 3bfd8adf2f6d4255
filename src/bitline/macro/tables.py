"""Measured tables, P(code | ideal code), by counting: D-NAT's macro error model (Lin et al., JETCAS 2022).

An ideal sum s has the ideal code floor((s - low)/step + 1/2), clipped; a code stands for low + step · code counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Integer

from bitline.macro.components import columns_of
from bitline.macro.kinds import TableColumn
from bitline.samples import Samples

MOST_ENTRIES = 1 << 28  # of a table, 2 GiB of float64
MOST_TOLD = 4  # values of a condition in a message
Per = Literal["pooled", "bank", "column"]


@dataclass(frozen=True)
class Counts:
    """How often each code was read for each ideal code: T tables of I ideal codes by J codes."""

    counts: Float[np.ndarray, "T I J"]
    labels: Integer[np.ndarray, "T 2"]  # (chip, column or bank) of each table
    per: Per

    @property
    def reads(self) -> Float[np.ndarray, "T I"]:
        """Reads of each ideal code."""
        return np.asarray(self.counts.sum(axis=2))

    def name(self, table: int) -> str:
        """Which columns a table is of."""
        chip, number = (int(i) for i in self.labels[table])
        return "" if self.per == "pooled" else f"chip {chip}, {self.per} {number}: "

    def source(self, least: int, reach: int) -> Integer[np.ndarray, "T I"]:
        """The ideal code whose row each row is made from: its own where it was read ``least`` times or more, else the
        nearest that was (the lower of two as near), or -1 where none is within ``reach``."""
        ideals = self.counts.shape[1]
        enough, index, none = self.reads >= least, np.arange(ideals), 2 * ideals + reach + 1  # out of everybody's reach
        below = np.maximum.accumulate(np.where(enough, index, -none), axis=1)
        above = np.minimum.accumulate(np.where(enough, index, none)[:, ::-1], axis=1)[:, ::-1]
        source = np.where(index - below <= above - index, below, above)
        return np.where(np.abs(source - index) > reach, -1, source)


def count_codes(
    samples: Samples,
    per: Per = "pooled",
    *,
    low: float = 0.0,
    step: float = 1.0,
    codes: int | None = None,
    bank: int | None = None,
    over: Sequence[str] = (),
) -> Counts:
    """Reads by ideal code and code; the arguments are those of ``fit_table``, which says what they mean."""
    sound_scale(low, step)
    if not len(samples):
        raise ValueError("the samples are empty: nothing to fit")
    one_condition(samples, over)
    if (per == "bank") != (bank is not None) or (bank is not None and bank < 2):
        raise ValueError(f"bank = {bank}, per = {per!r}: say how many columns (2 or more) a bank has, and only there")
    codes = code_count(samples, codes)
    ideal = np.clip(np.floor((samples.ideal - low) / step + 0.5), 0, codes - 1).astype(np.int64)
    which: np.ndarray | int = 0
    labels = np.zeros((1, 2), dtype=np.int64)
    if per != "pooled":
        grouped = samples
        if bank is not None and samples.column is not None:
            grouped = replace(samples, column=samples.column // bank)
        which, labels = columns_of(grouped)
    tables = len(labels)
    if tables * codes * codes > MOST_ENTRIES:
        raise ValueError(f"{tables} tables of {codes} × {codes} codes do not fit: fit fewer columns, or a pooled table")
    place = (which * codes + ideal) * codes + samples.code
    counts = np.bincount(place, minlength=tables * codes * codes).reshape(tables, codes, codes).astype(np.float64)
    return Counts(counts, labels, per)


def fit_table(
    samples: Samples,
    per: Per = "pooled",
    *,
    low: float = 0.0,
    step: float = 1.0,
    codes: int | None = None,
    least: int = 8,
    reach: int = 4,
    smoothing: float = 0.0,
    band: int = 1,
    assign: Literal["drawn", "physical"] = "drawn",
    bank: int | None = None,
    over: Sequence[str] = (),
) -> TableColumn:
    """P(code | ideal code) by counting, D-MAC-EM; the treatment of rare codes is a reconstruction, the paper's is not
    public.

    ``per``: ``pooled`` makes one table, drawn anew at every read: it holds the total error, but none of it frozen, so
    that what differs between chips comes out far too small. ``column`` makes a table for each (chip, column) of the
    samples, in that order, and ``bank`` one for every ``bank`` columns side by side. ``codes``: number of codes of the
    converter; absent: the largest one seen, plus one.
    ``smoothing`` is added to the counts of codes at most ``band`` from the ideal one. Ideal codes read fewer than
    ``least`` times borrow the row of the nearest code that was, shifted by their distance, up to ``reach`` codes
    away. ``assign: physical`` is the measured die itself: one chip; a macro that converts in a column (bank) that was
    not read is refused when it is programmed. ``over``: conditions of the samples (temperature, supply, …) that the
    table pools; it is of one value of every other.

    Raises ValueError naming the conditions of several values, or the first code, or column and code, that was not read
    and has no neighbour in reach; ``coverage`` names them all. ``falls`` tells where the mean code of the result is not
    monotone. Valid for the sums' distribution of neighbours that was measured: a table knows the sum only, not which
    rows made it.
    """
    if least < 1 or reach < 0 or band < 0 or not (math.isfinite(smoothing) and smoothing >= 0):
        raise ValueError(
            f"least = {least} must be at least 1; reach = {reach}, band = {band}, smoothing = {smoothing:g} at least 0"
        )
    found = count_codes(samples, per, low=low, step=step, codes=codes, bank=bank, over=over)
    places = _places(found.labels) if per != "pooled" and assign == "physical" else None
    counts = _borrowed(found, least, reach)
    if smoothing:
        away = np.abs(np.arange(counts.shape[1])[:, None] - np.arange(counts.shape[2]))
        counts += smoothing * (away <= band)
    probability = counts / counts.sum(axis=2, keepdims=True)
    return TableColumn(
        probability=probability,
        low=low,
        step=step,
        per=per,
        assign=assign,
        bank=bank,
        places=places,
        reads=tuple(tuple(int(n) for n in row) for row in found.reads),
    )


def falls(column: TableColumn, tolerance: float = 0.0) -> Integer[np.ndarray, "k 2"]:
    """(table, ideal code) at which the mean code falls by more than ``tolerance`` codes to the next ideal code.

    Empty for a monotone table. A measured table falls by chance too where it was read seldom.
    """
    return np.argwhere(np.diff(column.mean, axis=1) < -tolerance)


def one_condition(samples: Samples, over: Sequence[str] = ()) -> None:
    """Raise ValueError for reads at several values of a condition that is not one of ``over``.

    What a circuit's `.meas` gave is an outcome, no condition; its name is in the provenance.
    """
    if unknown := sorted(set(over) - set(samples.conditions)):
        raise ValueError(
            f"over names {unknown[0]!r}, which is no condition of the samples; conditions: "
            f"{', '.join(samples.conditions) or 'none'}"
        )
    sources = (samples.provenance, *samples.provenance.get("parts", ()))
    circuits = [source["circuit"] for source in sources if isinstance(source.get("circuit"), dict)]
    outcomes = {circuit.get("measure", {}).get("name") for circuit in circuits}
    told = []
    for name, values in samples.conditions.items():
        if name in over or name in outcomes or not len(values) or values.min() == values.max():
            continue
        there = np.unique(values)
        some = ", ".join(f"{value:g}" for value in there[:MOST_TOLD]) + (", …" if len(there) > MOST_TOLD else "")
        told.append((name, float(there[0]), f"{name} = {some} {samples.units.get(name, '')}".rstrip()))
    if told:
        each = ", ".join(f"{name}={value!r}" for name, value, _ in told)
        raise ValueError(
            f"the samples are of several conditions, {'; '.join(text for _, _, text in told)}: fit those of one, "
            f"samples.select({each}), or pool them with over={tuple(name for name, _, _ in told)}"
        )


def sound_scale(low: float, step: float) -> None:
    """Raise ValueError for a scale on which codes have no place."""
    if not (math.isfinite(low) and math.isfinite(step) and step > 0):
        raise ValueError(f"low = {low:g}, step = {step:g}: a code stands for low + step · code counts, step above 0")


def code_count(samples: Samples, codes: int | None) -> int:
    """Number of codes; raises ValueError naming the first code outside."""
    most = codes if codes is not None else int(samples.code.max()) + 1
    outside = (samples.code < 0) | (samples.code >= most)
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(f"code {samples.code[row]} in row {row} is outside 0 … {most - 1}")
    return most


def _places(labels: np.ndarray) -> tuple[int, ...] | None:
    """Numbers of one die's columns or banks; None where they are 0, 1, 2, …"""
    chips = np.unique(labels[:, 0])
    if len(chips) > 1:
        raise ValueError(f"assign: physical describes one die; the samples have {len(chips)} chips, select one")
    places = tuple(int(place) for place in labels[:, 1])
    return None if places == tuple(range(len(places))) else places


def _borrowed(found: Counts, least: int, reach: int) -> np.ndarray:
    """Counts with the rows read seldom replaced by the nearest row that was not, shifted."""
    source = found.source(least, reach)
    if (source < 0).any():
        table, code = (int(i) for i in np.argwhere(source < 0)[0])
        raise ValueError(
            f"{found.name(table)}ideal code {code} was read {int(found.reads[table, code])} times, fewer than least = "
            f"{least}, and no code within reach = {reach} was read more; {int((source < 0).sum())} rows lack reads: "
            "measure them, or raise reach"
        )
    index = np.arange(source.shape[1])
    filled = np.zeros_like(found.counts)
    for distance in np.unique(index - source):
        tables, rows = np.nonzero(index - source == distance)
        filled[tables, rows] = shifted(found.counts[tables, rows - distance], int(distance))
    return filled


def shifted(counts: Float[np.ndarray, "n J"], by: int) -> Float[np.ndarray, "n J"]:
    """Code j becomes j + ``by``; what falls off stays at the end."""
    codes = counts.shape[1]
    move = np.zeros((codes, codes))
    move[np.arange(codes), np.clip(np.arange(codes) + by, 0, codes - 1)] = 1
    return np.asarray(counts @ move)
