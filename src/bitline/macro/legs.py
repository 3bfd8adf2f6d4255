"""What a circuit's models say of conversions, whether one column makes them or several legs meet before.

Each leg is a column of its own, its cells off independently of the others'; that they meet, and the converter, are
ideal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from bitline.macro.behaviour import Behaviour, Vectors
from bitline.macro.errors import Patterns, law
from bitline.macro.readout import Readout

FINE = 16  # parts of a code in which the values of legs that meet are told
FAR = 6.0  # standard deviations beyond which no value is looked for

Levels = Integer[np.ndarray, "n L R"]
Pool = Integer[np.ndarray, "points R"]


@dataclass(frozen=True)
class Expected:
    """What a model says of each conversion, over dies: probability that its code is not that of its sum, and the mean
    of code less ideal code, LSB."""

    rate: Float[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]


def sums_of(x: Vectors, w: Levels) -> Integer[np.ndarray, "n L"]:
    """The sum of each leg of conversions, counts."""
    return np.einsum("nr,nlr->nl", x, w, dtype=np.int64)


def expected_errors(
    x: Vectors, w: Levels, behaviour: Behaviour, readout: Readout, pool: tuple[Pool, Pool]
) -> tuple[Expected, Expected]:
    """Errors of conversions by the behavioural model; and by the error model, which knows only the sum of each leg and
    takes its value to be spread over dies and patterns as for those of ``pool`` with this sum.

    Exact where a column is alone; where legs meet, the value of each is told in sixteenths of a code. Raises
    ValueError where the behavioural model's curve falls.
    """
    sums, legs = sums_of(x, w), range(w.shape[1])
    seen, known = [Patterns.of(behaviour, x, w[:, leg]) for leg in legs], Patterns.of(behaviour, *pool)
    edges = readout.edges if len(legs) == 1 else _fine(behaviour, seen, readout.step / FINE)
    spread = {int(k): law(behaviour, known.of_sum(int(k)), edges).mean(axis=0) for k in np.unique(sums)}
    model = [law(behaviour, patterns, edges) for patterns in seen]
    table = [np.stack([spread[int(k)] for k in sums[:, leg]]) for leg in legs]
    right = readout.code(readout.met(sums))
    of_model, of_table = (_errors(_coded(each, edges, readout), right) for each in (model, table))
    return of_model, of_table


def _errors(p: Float[np.ndarray, "n codes"], right: Float[np.ndarray, " n"]) -> Expected:
    every, codes = np.arange(len(p)), np.arange(p.shape[1])
    return Expected(1 - p[every, right.astype(np.int64)], p @ codes - right)


def _fine(behaviour: Behaviour, legs: list[Patterns], step: float) -> Float[np.ndarray, " m"]:
    """Edges of cells that hold all values of the legs."""
    sigma = behaviour.mismatch.cell_sigma if behaviour.mismatch else 0.0
    noise = max(behaviour.fresh.sigma.value) if behaviour.fresh else 0.0
    ends = [
        behaviour.curve(each.sums + each.inner + far * sigma * np.sqrt(each.squares)) + each.counts + far * noise
        for each in legs
        for far in (-FAR, FAR)
    ]
    low, high = (int(np.floor(end / step)) for end in (np.min(ends), np.max(ends)))
    return np.arange(low - FINE, high + FINE + 1) * step


def _coded(
    legs: list[Float[np.ndarray, "n cells"]], edges: Float[np.ndarray, " m"], readout: Readout
) -> Float[np.ndarray, "n codes"]:
    """P(code) of values that meet, from the probability of each leg's in cells between ``edges``, the first and last
    cell open."""
    step = edges[1] - edges[0]
    share, first = legs[0], edges[0] - step  # of cells `step` wide, from the lower edge of the first on
    for sign, leg in zip(readout.signs[1:], legs[1:], strict=True):
        size = share.shape[1] + leg.shape[1] - 1
        share = np.fft.irfft(np.fft.rfft(share, size) * np.fft.rfft(leg[:, ::sign], size), size)  # convolved
        first += sign * edges[0 if sign > 0 else -1] - step / 2
    below = np.cumsum(np.pad(share, ((0, 0), (1, 0))), axis=1)
    place = np.clip((readout.edges - first) / step, 0, share.shape[1])
    cell = np.minimum(place.astype(np.int64), share.shape[1] - 1)
    met = below[:, cell] + (place - cell) * (below[:, cell + 1] - below[:, cell])
    return np.diff(np.clip(met, 0, 1), axis=1, prepend=0.0, append=1.0)
