"""The conversions that a network makes, counted by sum, and some of them drawn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bitline.macro import Probe, Readout
from bitline.macro.behaviour import Shape

BANDS = 8  # of sums


class Conversions(Probe):
    """Conversions of a network by the sum of their legs: how many, how many wrong, and from each of ``bands`` of
    sums ``each`` of them drawn at random, as the digits and levels that met."""

    wants_codes = True

    def __init__(self, shape: Shape, readout: Readout, each: int, bands: int = BANDS, seed: int = 0) -> None:
        self.shape, self.readout, self.each, self.bands = shape, readout, each, bands
        most = shape.rows * (shape.digits - 1) * (shape.levels - 1)
        low, high = (most * sum(s for s in readout.signs if s * side > 0) for side in (-1, 1))
        self.sums = np.arange(low, high + 1)  # that there can be
        self.total = np.zeros(len(self.sums), dtype=np.int64)  # of each of them
        self.wrong = np.zeros(len(self.sums), dtype=np.int64)
        self.error = np.zeros(len(self.sums))  # Σ (code - ideal code)
        self.rng = np.random.default_rng(abs(seed))
        legs = len(readout.signs)
        self.drawn: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [
            (np.empty(0), np.empty((0, shape.rows), dtype=np.int8), np.empty((0, legs, shape.rows), dtype=np.int8))
            for _ in range(bands)
        ]  # in each band: lots drawn, x, w

    def columns(self, x: Tensor, held: Tensor) -> None:
        self.x, self.held = x, held

    def codes(self, code: Tensor, clipped: Tensor, ideal: Tensor) -> None:
        signs = self.held.new_tensor(self.readout.signs)
        met = torch.einsum("grcln,l->grcn", self.held, signs).flatten(2)
        sums = torch.bmm(self.x, met).view(code.shape).long().cpu().numpy()
        place, size = (sums - self.sums[0]).ravel(), len(self.sums)
        self.total += np.bincount(place, minlength=size)
        error = (code - ideal).double().cpu().numpy().ravel()
        self.wrong += np.bincount(place[error != 0], minlength=size)
        self.error += np.bincount(place, error, minlength=size)
        self._draw(sums)

    def _draw(self, sums: np.ndarray) -> None:
        """Keep those of each band with the lowest lots."""
        lots, band = self.rng.random(sums.shape), self.band(sums)
        for b in range(self.bands):
            before, xs, ws = self.drawn[b]
            most = before.max() if len(before) == self.each else 1.0
            g, m, c, n = np.nonzero((band == b) & (lots < most))
            if not len(g):
                continue
            new = lots[g, m, c, n]
            first = np.argsort(new, kind="stable")[: self.each]
            g, m, c, n = (index[first] for index in (g, m, c, n))
            x = self._rows(self.x[g, m].cpu().numpy())
            w = self._rows(self.held.permute(0, 2, 4, 3, 1)[g, c, n].cpu().numpy())
            joined = np.concatenate([before, new[first]])
            keep = np.argsort(joined, kind="stable")[: self.each]
            self.drawn[b] = (joined[keep], np.concatenate([xs, x])[keep], np.concatenate([ws, w])[keep])

    def band(self, sums: np.ndarray) -> np.ndarray:
        """Band of each sum: equal ones over what the converter spans, those beyond in the first and the last."""
        place = (sums - self.readout.low) * self.bands // (self.readout.span + 1)
        return np.clip(place, 0, self.bands - 1).astype(np.int64)

    def _rows(self, values: np.ndarray) -> np.ndarray:
        """As columns of all rows: those of a ragged tile that are off hold and get nothing."""
        missing = self.shape.rows - values.shape[-1]
        return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)]).astype(np.int8)

    @property
    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """(x (n, R), w (n, L, R)) of those drawn, band after band."""
        return np.concatenate([x for _, x, _ in self.drawn]), np.concatenate([w for _, _, w in self.drawn])
