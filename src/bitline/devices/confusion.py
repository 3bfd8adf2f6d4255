"""Level confusion: the share of cells of each programmed level that reads as each level, later.

``read_confusions`` takes counts as the RRAM relaxation measurements publish them, ``fit_confusions`` finds the
conductances behind them, and ``confusion`` counts what any measured cells, or their model, give.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer

from bitline.devices.conductances import NORMAL_SCORES, NORMAL_SHARES, Conductances, normal_below

Counts = Integer[np.ndarray, "programmed read"]
POINTS = 12  # of a programmed window, in fits
KNOTS = np.array([0, 0.5, 1.5, 3, 4.5, 6, 7.5, 9, 11, 13, 16]) / 16  # of g_max: where shift and spread are told
SKEWS = 5
TO_THE_END = {"maxiter": 2000, "maxfun": 200_000, "maxcor": 56, "ftol": 1e-13, "gtol": 1e-9}
"""Every machine ends at the same cells, to a thousandth of a step: the top level's tail is told by few counts."""


def read_confusions(folder: str | Path) -> dict[float, Counts]:
    """Counts (programmed level, level read) by age in seconds, from ``T.npy`` files of a folder.

    In the files a row is a level read and a column a level programmed (groupby of range and irange in confmat.ipynb of
    the source: only the columns add up to the same cells at every age); here programmed comes first. Raises
    ValueError naming the file and what would be accepted.
    """
    found: dict[float, np.ndarray] = {}
    for path in Path(folder).glob("*.npy"):
        try:
            seconds = float(path.stem)
        except ValueError:
            raise ValueError(f"{path}: its name should be the age in seconds, such as 100.npy") from None
        try:
            counts = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path} is no array of counts: {error}") from None
        if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
            raise ValueError(f"{path}: shape {counts.shape}; accepted is (levels, levels)")
        if not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any():
            raise ValueError(f"{path}: counts are whole numbers ≥ 0, not {counts.dtype} down to {counts.min()}")
        if (counts.sum(0) == 0).any():
            raise ValueError(
                f"{path}: no cell of level {int(np.argmin(counts.sum(0)))} was programmed (its column is 0)"
            )
        found[seconds] = counts.T.astype(np.int64)
    if not found:
        raise ValueError(f"{folder}: no T.npy files of counts, T the age in seconds")
    shapes = {counts.shape for counts in found.values()}
    if len(shapes) > 1:
        raise ValueError(f"{folder}: the files differ in levels: {sorted(shapes)}")
    return dict(sorted(found.items()))


def read_errors(counts: Counts) -> tuple[Float[np.ndarray, " levels"], Float[np.ndarray, " levels"]]:
    """(share of cells of each level that reads as another, its binomial standard error)."""
    cells = counts.sum(1)
    share = 1 - np.diag(counts) / cells
    return share, np.sqrt(share * (1 - share) / cells)


def confusion(
    quantiles: Float[np.ndarray, "levels quantiles"],
    edges: Float[np.ndarray, " edges"],
    merged: int = 1,
    first: int = 1,
) -> Float[np.ndarray, "programmed read"]:
    """Share of cells of each level, or group of ``merged`` levels, that read between ``edges`` (S, inner ones only).

    The first group has ``first`` levels; what is left over at the top joins the last group, so that there are as many
    as reads.
    """
    under = np.stack([below(row, edges) for row in quantiles])
    whole = np.concatenate([np.zeros((len(under), 1)), under, np.ones((len(under), 1))], axis=1)
    shares = np.diff(whole, axis=1)
    group = np.minimum((np.arange(len(quantiles)) - first + merged) // merged, len(edges))
    return np.stack([shares[group == g].mean(0) for g in range(len(edges) + 1)])


def below(row: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Share of cells below each of ``at``, for one level's quantiles."""
    z = np.interp(at, row, NORMAL_SCORES)
    return np.where(at <= row[0], 0.0, np.where(at > row[-1], 1.0, normal_below(z)))


def fit_confusions(
    confusions: Mapping[float, Counts], name: str, g_max: float, levels: int = 32, source: str = ""
) -> Conductances:
    """Conductances of ``levels`` levels by age that explain confusion counts of half as many, by likelihood.

    Reads are told apart midway between multiples of g_max/16 (S), those beyond the last counting as the last; a cell
    of level k was programmed anywhere in k … k + 1 times g_max/32 with equal chance, and has since moved by
    m(g) + s(g) · t, t Student's with a spread of its own to either side. m and log s are straight lines between eleven
    conductances, the skew between five: 28 parameters an age against 16 × 15 free shares. Raises ValueError where
    ``levels`` is not twice the counts'. Valid for ages that the counts have.
    """
    step = g_max / levels
    quantiles, start = [], None
    for _, counts in sorted(confusions.items()):
        if levels != 2 * len(counts):
            raise ValueError(f"{name}: {len(counts)} levels of counts; {levels // 2} are needed for {levels} of cells")
        if (counts == np.diag(np.diag(counts))).all():
            quantiles.append((np.arange(levels)[:, None] + NORMAL_SHARES) * step)
            continue
        kernel = _Kernel(counts, g_max)
        start = kernel.fit(start)
        quantiles.append(kernel.quantiles(start, levels))
    return Conductances(
        name=name,
        source=source,
        low=step / 2,
        step=step,
        seconds=tuple(sorted(confusions)),
        quantiles=np.stack(quantiles),
    )


class _Kernel:
    """How far cells have moved, in units of the window between two levels read."""

    def __init__(self, counts: Counts, g_max: float) -> None:
        self.counts, self.unit = counts, g_max / len(counts)
        groups = len(counts)
        self.edges = np.arange(groups - 1) + 0.5
        low = np.maximum(np.arange(groups) - 0.5, 0.0)
        high = np.where(np.arange(groups) == groups - 1, groups, np.arange(groups) + 0.5)
        middle = (np.arange(POINTS) + 0.5) / POINTS
        self.start = low[:, None] + (high - low)[:, None] * middle  # (programmed, POINTS)

    def _moved(self, parameters: np.ndarray, g: np.ndarray, to: np.ndarray) -> np.ndarray:
        """P(read below ``to``) for cells programmed to ``g``, broadcast."""
        from scipy.special import stdtr

        top = len(self.counts)
        first, second = len(KNOTS), 2 * len(KNOTS)
        shift = np.interp(g, top * KNOTS, parameters[:first])
        spread = np.exp(np.interp(g, top * KNOTS, parameters[first:second]))
        skew = np.interp(g, np.linspace(0, top, SKEWS), parameters[second:-1])
        freedom = 0.5 + math.exp(parameters[-1])
        t = (to - g - shift) / spread
        left, right = np.exp(-skew), np.exp(skew)  # widths; each side keeps its share, so that the density is one
        side = np.where(t < 0, left, right)
        half = stdtr(freedom, t / side)
        return np.where(t < 0, 2 * left * half, left + right * (2 * half - 1)) / (left + right)

    def _loss(self, parameters: np.ndarray) -> float:
        below = self._moved(parameters, self.start[:, :, None], self.edges).mean(1)
        whole = np.concatenate([np.zeros((len(below), 1)), below, np.ones((len(below), 1))], axis=1)
        share = np.maximum(np.diff(whole, axis=1), 1e-6)
        return float(-(self.counts * np.log(share)).sum() / self.counts.sum() + 1e-5 * (parameters**2).sum())

    def fit(self, start: np.ndarray | None) -> np.ndarray:
        """Parameters of the largest likelihood, from those of the age before."""
        from scipy.optimize import minimize

        if start is None:
            start = np.concatenate([np.zeros(len(KNOTS)), np.full(len(KNOTS), -2.0), np.zeros(SKEWS), [0.5]])
        return np.asarray(minimize(self._loss, start, method="L-BFGS-B", jac="3-point", options=TO_THE_END).x)

    def quantiles(self, parameters: np.ndarray, levels: int) -> np.ndarray:
        """Conductances (S) of each level at ``NORMAL_SCORES``."""
        width = len(self.counts) / levels
        grid = np.linspace(0, len(self.counts) + 4, 4001)
        found = []
        for level in range(levels):
            g = (level + (np.arange(POINTS) + 0.5) / POINTS) * width
            below = self._moved(parameters, g[:, None], grid).mean(0)
            below[0] = max(below[0], 0.0)  # what moved below 0 S conducts nothing
            found.append(np.interp(NORMAL_SHARES, np.maximum.accumulate(below), grid))
        return np.stack(found) * self.unit
