"""Pattern counts inside the mean curve: what else moves a line moves it along its bend, as the sum does."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from bitline.macro.behaviour import (
    GAIN,
    HIGHEST,
    Basis,
    Behaviour,
    Shape,
    Values,
    Vectors,
    candidates,
    choose,
    count,
    fit_behaviour,
    left_out,
    missed,
    scaled,
    sums_of,
    tabulated,
)
from bitline.macro.kinds import Feature

STEPS, HALVES = 30, 6  # of Gauss-Newton, and how often one is halved, at most
CLOSE = 1e-6  # counts: a step that moves no sum by more is the last

Terms = Float[np.ndarray, "n terms"]


def fit_inner(shape: Shape, x: Vectors, w: Vectors, value: Values, basis: Basis | None = None) -> Behaviour:
    """As ``fit_behaviour``, with pattern counts inside the curve too: value = mean(sum + Σ inner) + Σ others.

    The plain model's pattern counts move inside; then terms are added as there, each inside or outside, by what points
    left out are missed by in the problem linearised at the fit. The plain model stays where that misses them by less.
    ``basis`` and errors as of ``fit_behaviour``.
    """
    basis = basis or choose(shape, x, w, value)[0]
    plain = fit_behaviour(shape, x, w, value, basis)
    fit = _Bent(shape, basis.degree, basis.features).fitted(x, w, value)
    error = missed(fit.tangent(x, w), fit.rest(x, w, value))
    while fit.terms < 2 * len(x) // 3:
        trials = fit.more(x, w)
        base, rest = fit.tangent(x, w), fit.rest(x, w, value)
        errors = [missed(np.column_stack([base, column]), rest) for _, column in trials]
        better = trials[int(np.argmin(errors))][0].fitted(x, w, value)
        least = missed(better.tangent(x, w), better.rest(x, w, value))
        if least > GAIN * error:
            break
        fit, error = better, least
    return plain if left_out(basis, x, w, value) <= error else fit.behaviour(x, w)


@dataclass(frozen=True)
class _Bent:
    """A curve of some degree, inner and outer pattern counts, and their coefficients: ``bends`` of the inner ones,
    ``linear`` of the curve and the outer ones."""

    shape: Shape
    degree: int
    inner: tuple[Feature, ...]
    outer: tuple[Feature, ...] = ()
    bends: tuple[float, ...] = ()  # absent: 0
    linear: tuple[float, ...] = ()

    @property
    def terms(self) -> int:
        return self.degree + 1 + len(self.inner) + len(self.outer)

    def sums(self, x: Vectors, w: Vectors) -> Values:
        """What the curve takes."""
        total = sums_of(x, w).astype(float)
        for feature, c in zip(self.inner, self.bends, strict=False):
            total += c * count(feature, x, w)
        return total

    def _place(self, x: Vectors, w: Vectors) -> Values:
        return 2 * self.sums(x, w) / self.shape.counts - 1

    def design(self, x: Vectors, w: Vectors) -> Terms:
        """Terms that are linear while the inner counts stay."""
        curve = np.polynomial.chebyshev.chebvander(self._place(x, w), self.degree)
        return np.column_stack([curve, *(count(feature, x, w) for feature in self.outer)])

    def slope(self, x: Vectors, w: Vectors) -> Values:
        """The curve's, at each point."""
        rise = np.polynomial.chebyshev.chebder(self.linear[: self.degree + 1])
        return np.polynomial.chebyshev.chebval(self._place(x, w), rise) * 2 / self.shape.counts

    def tangent(self, x: Vectors, w: Vectors) -> Terms:
        """All terms, linearised at the fit: an inner count moves the value by the curve's slope."""
        slope = self.slope(x, w)
        return np.column_stack([self.design(x, w), *(slope * count(feature, x, w) for feature in self.inner)])

    def rest(self, x: Vectors, w: Vectors, value: Values) -> Values:
        """What the fit leaves."""
        return value - self.design(x, w) @ np.asarray(self.linear)

    def more(self, x: Vectors, w: Vectors) -> list[tuple[_Bent, Values]]:
        """Fits of one term more, and the column it adds to the tangent."""
        slope, possible = self.slope(x, w), candidates(self.shape)
        inner = [f for f in possible if f not in self.inner]
        outer = [f for f in possible if f not in self.outer]
        found = [(replace(self, inner=(*self.inner, f)), slope * count(f, x, w)) for f in inner]
        found += [(replace(self, outer=(*self.outer, f)), count(f, x, w)) for f in outer]
        if self.degree < HIGHEST:
            next_one = np.polynomial.chebyshev.chebvander(self._place(x, w), self.degree + 1)[:, -1]
            found.append((replace(self, degree=self.degree + 1), next_one))
        return found

    def _solved(self, x: Vectors, w: Vectors, value: Values) -> _Bent:
        linear = np.linalg.lstsq(self.design(x, w), value, rcond=1e-12)[0]
        return replace(self, linear=tuple(map(float, linear)))

    def fitted(self, x: Vectors, w: Vectors, value: Values) -> _Bent:
        """With coefficients of least squares, by Gauss-Newton steps, halved until the sum of squares falls."""
        found = replace(self, bends=(*self.bends, *[0.0] * (len(self.inner) - len(self.bends))))._solved(x, w, value)
        for _ in range(STEPS):
            rest = found.rest(x, w, value)
            move = np.linalg.lstsq(found.tangent(x, w), rest, rcond=1e-10)[0][found.terms - len(found.inner) :]
            for _ in range(HALVES):
                ahead = replace(found, bends=tuple(map(float, found.bends + move)))._solved(x, w, value)
                if np.sum(ahead.rest(x, w, value) ** 2) <= np.sum(rest**2):
                    break
                move = move / 2
            else:
                return found
            moved = np.abs(ahead.sums(x, w) - found.sums(x, w)).max()
            found = ahead
            if moved < CLOSE:
                break
        return found

    def behaviour(self, x: Vectors, w: Vectors) -> Behaviour:
        """The model, its curve tabulated between the sums it takes of these points."""
        mean = tabulated(self.shape, self.sums(x, w), np.asarray(self.linear[: self.degree + 1]))
        inner = tuple(f.model_copy(update={"inner": True}) for f in scaled(self.inner, self.bends))
        return Behaviour(
            shape=self.shape, mean=mean, pattern=(*scaled(self.outer, self.linear[self.degree + 1 :]), *inner)
        )
