"""What differs between reads of one die: the spread of repeated reads against the sum."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer
from pydantic import Field

from bitline.configuration import Frozen
from bitline.macro.curves import Points

NODES = 17
SIGNIFICANT = 4.0  # standard errors
ROUNDS = 20  # of weights by the variance fitted
SCATTER = 4.0  # standard errors of how groups scatter about the fit


class Fresh(Frozen):
    """Fresh noise of a column: σ (counts rms) against the sum, and how far groups of reads bear it out."""

    sigma: Points
    freedom: int = Field(description="degrees of freedom: reads less one, over all groups")
    scatter: float = Field(description="of the groups' variances about the fit; 1 where the sum says it all")
    excess: float = Field(description="by how many standard errors that is above 1")

    def at(self, sums: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """σ at sums, counts rms."""
        return np.interp(sums, self.sigma.u, self.sigma.value)

    @property
    def sentence(self) -> str:
        """What was found, in words; says so where the sum alone does not tell it."""
        low, high = min(self.sigma.value), max(self.sigma.value)
        found = f"fresh: σ {low:.3g} … {high:.3g} counts, by {self.freedom} degrees of freedom of repeated reads"
        if self.excess <= SCATTER:
            return found
        return f"{found}; it does NOT go by the sum alone: groups of reads scatter {self.scatter:.2g} times too far"


def fit_fresh(
    sums: Integer[np.ndarray, " n"], value: Float[np.ndarray, " n"], group: Integer[np.ndarray, " n"]
) -> Fresh:
    """σ against the sum from reads (sum, value in counts) that differ in noise alone within a ``group``: one die, one
    column, one pattern.

    The variance is c0 + c1 k + c2 k², by weighted least squares on the groups' own variances, whose standard error is
    σ² sqrt(2/(reads - 1)); c1 and c2 stay where they are four of their standard errors from zero. Raises ValueError
    where no group has two reads.
    """
    _, first, which, reads = np.unique(group, return_index=True, return_inverse=True, return_counts=True)
    if reads.max(initial=0) < 2:
        raise ValueError(f"{len(value)} reads, each of another point or die: fresh spread needs two or more of one")
    mean = np.bincount(which, value) / reads
    square = np.bincount(which, (value - mean[which]) ** 2)
    some = reads > 1
    k, freedom, variance = sums[first][some].astype(float), reads[some] - 1, (square[some] / (reads[some] - 1))
    full = max(float(k.max()), 1.0)
    fitted, c = _variance(k / full, freedom, variance)
    at = np.unique(np.linspace(0, full, NODES))
    found = np.sqrt(np.maximum(np.polynomial.polynomial.polyval(at / full, c), 0))
    scatter = float(np.mean(freedom / 2 * (variance / np.maximum(fitted, 1e-300) - 1) ** 2)) if fitted.max() else 1.0
    error = float(np.sqrt(np.mean(2 + 12 / freedom) / len(k)))
    at, found = np.concatenate([[-1.0], at, [full + 1]]), found[[0, *range(len(found)), -1]]  # flat beyond the sums
    return Fresh(
        sigma=Points(u=tuple(map(float, at)), value=tuple(map(float, found))),
        freedom=int(freedom.sum()),
        scatter=scatter,
        excess=(scatter - 1) / error,
    )


def _variance(
    place: Float[np.ndarray, " g"], freedom: Integer[np.ndarray, " g"], variance: Float[np.ndarray, " g"]
) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " terms"]]:
    """(variance fitted to each group, coefficients by powers of ``place``)."""
    terms = min(3, len(np.unique(place)))
    while True:
        design = place[:, None] ** np.arange(terms)
        fitted = np.full(len(place), np.average(variance, weights=freedom))
        if not fitted[0]:
            return fitted, np.zeros(1)
        for _ in range(ROUNDS):
            weight = np.sqrt(freedom / 2) / fitted
            c = np.linalg.lstsq(weight[:, None] * design, weight * variance, rcond=None)[0]
            fitted = np.maximum(design @ c, 1e-3 * variance.mean())
        error = np.sqrt(np.diag(np.linalg.pinv((weight[:, None] * design).T @ (weight[:, None] * design))))
        if terms == 1 or abs(c[-1]) > SIGNIFICANT * error[-1]:
            return fitted, c
        terms -= 1
