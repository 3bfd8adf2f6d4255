"""Adaptive sampling: simulate only the points that a behavioural model still needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from bitline.macro.behaviour import (
    HIGHEST,
    Basis,
    Behaviour,
    Shape,
    Values,
    Vectors,
    candidates,
    choose,
    fit_behaviour,
    sums_of,
)
from bitline.macro.inner import fit_inner

STRATA = 16  # of sums, for points that check
RIDGE = 1e-4
START, BATCH = 8, 4  # points
LOWEST = 4  # degree of the curve that points are chosen for, at least
PATIENCE = 32  # points that have to take a tenth off the error

Simulate = Callable[[Integer[np.ndarray, " m"]], Float[np.ndarray, " m"]]


@dataclass(frozen=True)
class Tolerance:
    """What a model may miss held-out points by, LSB."""

    rms: float = 0.2
    largest: float = 0.5


@dataclass(frozen=True)
class Goodness:
    """How well a model holds on points it was not fitted to, LSB; ``alone``: the best curve in the sum and nothing
    else, fitted to these very points."""

    points: int
    rms: float
    largest: float
    rms_alone: float
    largest_alone: float

    def meets(self, tolerance: Tolerance) -> bool:
        """Whether both bounds hold."""
        return self.rms <= tolerance.rms and self.largest <= tolerance.largest


@dataclass(frozen=True)
class Adapted:
    """A model, the pool's rows it was fitted to and checked on; ``trace``: (points fitted to, goodness) by round."""

    behaviour: Behaviour
    fitted: Integer[np.ndarray, " n"]
    checked: Integer[np.ndarray, " m"]
    sums: Integer[np.ndarray, " m"]  # of the checked rows
    residual: Float[np.ndarray, " m"]  # what the model misses them by, LSB
    alone: Float[np.ndarray, " m"]  # and the best curve in the sum alone
    trace: tuple[tuple[int, Goodness], ...]
    tolerance: Tolerance
    stuck: bool = False  # whether more points had stopped helping
    inner: bool = False  # whether pattern counts were tried inside the curve too

    @property
    def goodness(self) -> Goodness:
        """That of the model."""
        return self.trace[-1][1]

    @property
    def met(self) -> bool:
        """Whether the tolerance is."""
        return self.goodness.meets(self.tolerance)

    @property
    def sentence(self) -> str:
        """What was reached, in words, and of dies, where they were measured; says so where it was not."""
        g, t = self.goodness, self.tolerance
        found = f"{g.rms:.3g} LSB rms and {g.largest:.3g} LSB at most on {g.points} points held out"
        alone = f"a curve of the sum alone: {g.rms_alone:.3g} and {g.largest_alone:.3g}"
        cost = f"{len(self.fitted)} points fitted to"
        told = (part.sentence for part in (self.behaviour.mismatch, self.behaviour.fresh) if part is not None)
        dies = "".join(f"; {sentence}" for sentence in told)
        if self.met:
            return f"{found} ({alone}), {cost}{dies}"
        why = "more points did not help: what is left is no curve plus sums over rows"
        if not self.stuck:
            why = "no more points were allowed"
        more = "" if self.inner else "; pattern counts inside the curve were not tried (inner)"
        return (
            f"the model does NOT meet the tolerance of {t.rms:g} LSB rms, {t.largest:g} at most: {found} ({alone}), "
            f"{cost}; {why}{more}{dies}"
        )


def adapt(
    shape: Shape,
    x: Vectors,
    w: Vectors,
    simulate: Simulate,
    tolerance: Tolerance | None = None,
    *,
    start: int = START,
    batch: int = BATCH,
    check: int = 24,
    most: int = 256,
    seed: int = 0,
    inner: bool = False,
) -> Adapted:
    """Fit a behavioural model to as few points of a pool (x, w) as meet the tolerance on ``check`` held out.

    ``simulate`` gives the values, in counts, of rows of the pool, by number. ``inner``: models that may have pattern
    counts inside the curve (``fit_inner``). Points to fit to are those whose value is
    least sure: the variance of a prediction by all candidate terms beside a curve a degree above the model's own
    (D-optimal, one after the other), and the disagreement of a committee (the models passed on the way to the chosen
    one). Those held out are drawn evenly over the sums. Stops where the tolerance is met, after ``most`` points, or
    where 32 points did not take a tenth off the error; ``Adapted.met`` says which.
    Raises ValueError where the pool is too small.
    """
    tolerance = tolerance or Tolerance()
    if len(x) < start + check:
        raise ValueError(f"a pool of {len(x)} points is too small for {start} to start with and {check} held out")
    held = _even(shape, x, w, check, np.random.default_rng(seed))
    rest = np.setdiff1d(np.arange(len(x)), held)
    truth, fit = simulate(held), fit_inner if inner else fit_behaviour
    chosen = _surest(_scaled(shape, LOWEST, x, w), rest, np.empty(0, dtype=np.int64), start, None)
    value = simulate(chosen)
    trace: list[tuple[int, Goodness]] = []
    while True:
        basis, passed = choose(shape, x[chosen], w[chosen], value)
        behaviour = fit(shape, x[chosen], w[chosen], value, basis)
        goodness, residual, alone = judge(behaviour, x[held], w[held], truth)
        trace.append((len(chosen), goodness))
        earlier = [g.rms for n, g in trace if n <= len(chosen) - PATIENCE]
        stuck = bool(earlier) and goodness.rms > 0.9 * earlier[-1]
        left = np.setdiff1d(rest, chosen)
        met = goodness.meets(tolerance)
        if met or stuck or len(chosen) + batch > most or len(left) < batch:
            break
        committee = [_predicted(b, x, w, chosen, value) for b in passed[-4:]]
        apart = np.var(np.stack(committee), axis=0) if len(committee) > 1 else None
        degree = min(max(LOWEST, basis.degree + 1), HIGHEST)
        more = _surest(_scaled(shape, degree, x, w), left, chosen, batch, apart)
        chosen, value = np.concatenate([chosen, more]), np.concatenate([value, simulate(more)])
    sums = sums_of(x[held], w[held])
    return Adapted(behaviour, chosen, held, sums, residual, alone, tuple(trace), tolerance, stuck and not met, inner)


def judge(behaviour: Behaviour, x: Vectors, w: Vectors, value: Values) -> tuple[Goodness, Values, Values]:
    """(goodness on points held out, what the model misses each by, and what the curve alone does; LSB)."""
    step = behaviour.shape.step
    residual = (value - behaviour.predict(x, w)) / step
    alone = (value - alone_in_sum(behaviour.shape, x, w, value)) / step
    goodness = Goodness(
        points=len(x),
        rms=float(np.sqrt(np.mean(residual**2))),
        largest=float(np.abs(residual).max()),
        rms_alone=float(np.sqrt(np.mean(alone**2))),
        largest_alone=float(np.abs(alone).max()),
    )
    return goodness, residual, alone


def alone_in_sum(shape: Shape, x: Vectors, w: Vectors, value: Values) -> Values:
    """Values of the best curve in the sum and nothing else, of degree 6 at most."""
    design = Basis(shape, min(6, len(x) // 3), ()).design(x, w)
    return design @ np.linalg.lstsq(design, value, rcond=1e-12)[0]


def _scaled(shape: Shape, degree: int, x: Vectors, w: Vectors) -> Float[np.ndarray, "n terms"]:
    """All candidate terms beside a curve of some degree, each 1 at most."""
    design = Basis(shape, degree, candidates(shape)).design(x, w)
    return design / np.maximum(np.abs(design).max(axis=0), 1e-12)


def _predicted(basis: Basis, x: Vectors, w: Vectors, chosen: np.ndarray, value: np.ndarray) -> Values:
    c = np.linalg.lstsq(basis.design(x[chosen], w[chosen]), value, rcond=1e-12)[0]
    return basis.design(x, w) @ c


def _even(shape: Shape, x: Vectors, w: Vectors, n: int, rng: np.random.Generator) -> Integer[np.ndarray, " m"]:
    """``n`` rows at random, as evenly over the sums as there are."""
    sums = sums_of(x, w)
    stratum = np.minimum(sums * STRATA // max(shape.counts, int(sums.max()) + 1), STRATA - 1)
    order = rng.permutation(len(x))
    turn = np.empty(len(x), dtype=np.int64)  # a row's place among those of its stratum
    for s in range(STRATA):
        of = order[stratum[order] == s]
        turn[of] = np.arange(len(of))
    return np.sort(order[np.argsort(turn[order], kind="stable")[:n]])


def _surest(
    design: Float[np.ndarray, "n terms"], left: np.ndarray, chosen: np.ndarray, n: int, apart: Values | None
) -> Integer[np.ndarray, " m"]:
    """``n`` of the rows ``left`` that tell most: largest variance of prediction, one after the other."""
    inverse = np.linalg.inv(design[chosen].T @ design[chosen] + RIDGE * np.eye(design.shape[1]))
    found: list[int] = []
    some = design[left]
    weight = np.ones(len(left))
    if apart is not None and apart[left].max() > 0:
        weight = 1 + apart[left] / apart[left].mean()
    for _ in range(n):
        variance = np.einsum("nt,tu,nu->n", some, inverse, some, optimize=True)
        variance = np.where(np.isin(left, found), -1.0, variance * weight)
        best = int(np.argmax(variance))
        found.append(int(left[best]))
        gained = inverse @ some[best]
        inverse -= np.outer(gained, gained) / (1 + some[best] @ gained)
    return np.array(found, dtype=np.int64)
