"""A behavioural model of a column circuit: from few simulated points to a column a network can be trained on.

The value of a column, in counts, is a smooth curve of its sum plus pattern counts, linear in what each row holds and
gets; what differs from die to die is a deviation of each cell, and of the column's gain and offset. S0's first level
(Chang, Liu, Kuster, SMACD 2022: the form is a reconstruction, the paper's is not public).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Integer
from pydantic import Field

from bitline.configuration import Frozen
from bitline.converters import Adc, FixedRange
from bitline.devices import Cell, LevelTable
from bitline.encode import InputScheme, UnsignedInput, UnsignedWeight, WeightScheme
from bitline.macro.curves import Points
from bitline.macro.fresh import SIGNIFICANT, Fresh
from bitline.macro.kinds import CurveColumn, Feature
from bitline.macro.macro import Macro
from bitline.macro.readout import Readout

HIGHEST = 8  # degree of the mean curve
GAIN = 0.98  # a term stays where it takes two per cent or more off the error
FOLLOWED = (0.05, 0.1)  # variance between dies unexplained, and σ surely off, up to which a model follows them
STRATA = 16  # of sums, for what patterns scatter by
NODES = 65  # of the tabulated curve, at most
DICE = 32  # points a device whose mismatch is fitted: eight a coefficient

Vectors = Integer[np.ndarray, "n R"]
Values = Float[np.ndarray, " n"]


class Shape(Frozen):
    """What a column takes: R rows, digits 0 … digits - 1, levels 0 … levels - 1; a code each ``step`` counts."""

    rows: int = Field(ge=1)
    digits: int = Field(ge=2)
    levels: int = Field(ge=2)
    counts: int = Field(ge=1, description="counts that the used swing spans")
    bits: int = Field(ge=1, le=16)

    @property
    def step(self) -> float:
        """Counts a code."""
        return self.counts / 2**self.bits

    @property
    def converter(self) -> Adc:
        """The column's own converter, from no count on."""
        return Adc(bits=self.bits, range=FixedRange(low=0.0, high=self.step * (2**self.bits - 1)))

    @property
    def readout(self) -> Readout:
        """How the column alone becomes a code of it."""
        return Readout((1,), 0.0, self.step, 2**self.bits)


class Mismatch(Frozen):
    """What differs between dies: cells relative to what they hold, columns in gain and offset (counts)."""

    cell_mean: float = 0.0
    cell_sigma: float = Field(ge=0)
    gain_sigma: float | None = Field(default=None, gt=0)
    offset_sigma: float | None = Field(default=None, gt=0)
    sensitivity: dict[str, tuple[float, float]] = Field(
        description="relative change of a cell a σ of each device, and a σ²"
    )
    unexplained: float = Field(description="share of the variance between dies that the model leaves over")
    ratio: float = Field(description="σ between dies of the model over that of the points it was fitted to")
    points: int = Field(ge=1, description="those points, each of a die")

    @property
    def sentence(self) -> str:
        """How well dies are described, in words; says so where they are not."""
        error = 1 / math.sqrt(2 * self.points)
        found = (
            f"mismatch: σ between dies {self.ratio:.3g} ± {error:.1g} times the circuit's, "
            f"{100 * self.unexplained:.2g} % of its variance unexplained"
        )
        if self.unexplained <= FOLLOWED[0] and abs(self.ratio - 1) <= FOLLOWED[1] + 2 * error:
            return found
        return f"{found}; the model does NOT follow the dies: a factor of each cell is not all that differs"


class Behaviour(Frozen):
    """A fitted column: value = mean(sum + Σ inner pattern counts) + Σ the others, in counts; ``mismatch`` where dies
    were measured, ``fresh`` where reads of one were repeated."""

    shape: Shape
    mean: Points
    pattern: tuple[Feature, ...] = ()
    mismatch: Mismatch | None = None
    fresh: Fresh | None = None

    def patterns(self, x: Vectors, w: Vectors, inner: bool = False) -> Values:
        """What the pattern counts add to the curve's value, or the inner ones to the sum that it takes; counts."""
        total = np.zeros(len(x))
        for feature in self.pattern:
            if bool(feature.inner) == inner:
                total += count(feature, x, w)
        return total

    def predict(
        self, x: Vectors, w: Vectors, deviations: Mapping[str, Float[np.ndarray, "n R"]] | None = None
    ) -> Values:
        """Values for inputs and levels, counts: of a typical die, or of dies whose devices deviate, in their σ.

        The devices are those of ``mismatch``; what they do to a column's gain and offset is left out.
        """
        product = (x.astype(np.int64) * w).astype(float)
        if deviations is not None and self.mismatch is not None:
            change = {
                name: s * deviations[name] + q * deviations[name] ** 2
                for name, (s, q) in self.mismatch.sensitivity.items()
            }
            product = product * (1 + sum(change.values()))
        return self.curve(product.sum(axis=1) + self.patterns(x, w, inner=True)) + self.patterns(x, w)

    def curve(self, sums: Float[np.ndarray, "*n"] | Integer[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """The mean curve, counts."""
        return self.mean.at(torch.as_tensor(sums, dtype=torch.float64), 1.0).numpy()

    def slope(self, sums: Float[np.ndarray, "*n"] | Integer[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Its derivative, over one count to each side."""
        return (self.curve(sums + 1.0) - self.curve(sums - 1.0)) / 2

    def column(self) -> CurveColumn:
        """The model as a macro's column."""
        spread = self.mismatch
        return CurveColumn(
            mean=self.mean,
            sigma=self.fresh.sigma if self.fresh else None,
            gain_sigma=spread.gain_sigma if spread else None,
            offset_sigma=spread.offset_sigma if spread else None,
            pattern=self.pattern or None,
        )

    def cell(self) -> Cell | None:
        """Its cells: deviations frozen at fabrication; None where dies were not measured."""
        if self.mismatch is None or not (self.mismatch.cell_sigma or self.mismatch.cell_mean):
            return None
        held = range(self.shape.levels)
        mean = tuple(level * (1 + self.mismatch.cell_mean) for level in held)
        sigma = tuple(level * self.mismatch.cell_sigma for level in held)
        return Cell(errors=(LevelTable(mean=mean, sigma=sigma, clock="fabrication"),))

    def macro(
        self,
        name: str,
        columns: int,
        source: str = "",
        *,
        inputs: InputScheme | None = None,
        weights: WeightScheme | None = None,
        column: CurveColumn | None = None,
    ) -> Macro:
        """A macro of such columns with the circuit's converter.

        ``inputs``, ``weights``: schemes whose digits are the circuit's digits and levels; absent: unsigned,
        of one digit. ``column``: another form of the column (``curve_alone``). Raises ValueError where the circuit's
        digits or levels are no power of two, or the schemes' are others.
        """
        bits, cell = (self.shape.digits - 1).bit_length(), (self.shape.levels - 1).bit_length()
        if 1 << bits != self.shape.digits or 1 << cell != self.shape.levels:
            raise ValueError(
                f"{self.shape.digits} digits and {self.shape.levels} levels: integers are cut into powers of two"
            )
        inputs = inputs or UnsignedInput(bits=bits, digit_bits=bits)
        weights = weights or UnsignedWeight(bits=cell, cell_bits=cell)
        wanted = (0, self.shape.digits - 1, self.shape.levels - 1)
        if (inputs.digit_low, inputs.digit_high, weights.level_high) != wanted:
            raise ValueError(
                f"the circuit takes digits 0 … {wanted[1]} and levels 0 … {wanted[2]}; the schemes have digits "
                f"{inputs.digit_low} … {inputs.digit_high} and levels 0 … {weights.level_high}"
            )
        return Macro(
            name=name,
            source=source,
            rows=self.shape.rows,
            columns=columns,
            inputs=inputs,
            weights=weights,
            cell=self.cell(),
            column=column or self.column(),
            converter=self.shape.converter,
        )


@dataclass(frozen=True)
class Basis:
    """Terms of a model: the curve's degree, and which candidate features; their values at points make a design."""

    shape: Shape
    degree: int
    features: tuple[Feature, ...]

    def design(self, x: Vectors, w: Vectors) -> Float[np.ndarray, "n terms"]:
        """Columns of the least-squares problem."""
        sums = sums_of(x, w)
        curve = np.polynomial.chebyshev.chebvander(2 * sums / self.shape.counts - 1, self.degree)
        return np.column_stack([curve, *(count(feature, x, w) for feature in self.features)])


def candidates(shape: Shape) -> tuple[Feature, ...]:
    """Pattern counts a column may answer to, none a combination of others or of the sum.

    Products of a function of the digit (on, x, x²; any), one of the level (nothing, something, l, l²), and, for what
    conducts and for what is on, the place of the row along the wire.
    """
    d, m = np.arange(shape.digits), np.arange(shape.levels)
    of_digit = (np.ones_like(d), d > 0, d / d[-1], (d / d[-1]) ** 2)
    of_level = (m == 0, m > 0, m / m[-1], (m / m[-1]) ** 2)
    span = [np.outer(d, m).ravel().astype(float)]
    found = []
    for f, g in product(of_digit, of_level):
        if f[0] and g[0]:
            continue
        term = np.outer(f, g).ravel().astype(float)
        if np.linalg.matrix_rank(np.stack([*span, term]), tol=1e-9) == len(span) + 1:
            span.append(term)
            found.append(Feature(digits=tuple(map(float, f)), levels=tuple(map(float, g))))
    if shape.rows > 1:
        place = tuple(map(float, np.arange(shape.rows) / (shape.rows - 1) - 0.5))
        digits = tuple(map(float, d / d[-1]))
        found += [Feature(digits=digits, levels=tuple(map(float, g)), rows=place) for g in (m / m[-1], m == 0)]
    return tuple(found)


def fit_behaviour(shape: Shape, x: Vectors, w: Vectors, value: Values, basis: Basis | None = None) -> Behaviour:
    """The behavioural model of a typical die from points (x, w, value in counts).

    Degree of the curve and pattern counts are taken one after the other, each where it takes most off the error of
    points left out (leave one out, exact for least squares), as long as that is two per cent or more; ``basis``: what
    ``choose`` took, where it is at hand. Raises ValueError with fewer than 6 points. Between the sums that were
    measured the curve is a polynomial; beyond, a line.
    """
    if len(x) < 6:
        raise ValueError(f"{len(x)} points: a behavioural model needs six or more")
    basis = basis or choose(shape, x, w, value)[0]
    design = basis.design(x, w)
    coefficients = np.linalg.lstsq(design, value, rcond=1e-12)[0]
    mean = tabulated(shape, sums_of(x, w), coefficients[: basis.degree + 1])
    pattern = scaled(basis.features, coefficients[basis.degree + 1 :])
    return Behaviour(shape=shape, mean=mean, pattern=pattern)


def tabulated(
    shape: Shape, sums: Float[np.ndarray, " n"] | Integer[np.ndarray, " n"], coefficients: Float[np.ndarray, " terms"]
) -> Points:
    """A curve as points between the least and the largest of some sums; raises ValueError where they are one."""
    low, high = math.floor(sums.min()), math.ceil(sums.max())
    at = np.unique(np.round(np.linspace(low, high, min(NODES, high - low + 1))))
    if len(at) < 2:
        raise ValueError(f"all points have the sum {low}: a curve needs two sums or more")
    curve = np.polynomial.chebyshev.chebval(2 * at / shape.counts - 1, coefficients)
    return Points(u=tuple(map(float, at)), value=tuple(map(float, curve)))


def scaled(features: Sequence[Feature], coefficients: Iterable[float]) -> tuple[Feature, ...]:
    """Pattern counts with their coefficients in them."""
    return tuple(
        feature.model_copy(update={"levels": tuple(float(c * level) for level in feature.levels)})
        for feature, c in zip(features, coefficients, strict=True)
    )


def curve_alone(behaviour: Behaviour, x: Vectors, w: Vectors) -> CurveColumn:
    """The model as a curve of the sum and noise: what kernels read. Patterns like those of (x, w) are averaged into the
    mean, and what they scatter by becomes fresh noise against the sum, though in truth a pattern gives the same again.
    """
    sums, rest = sums_of(x, w), behaviour.patterns(x, w)
    if any(feature.inner for feature in behaviour.pattern):
        rest += behaviour.curve(sums + behaviour.patterns(x, w, inner=True)) - behaviour.curve(sums)
    edges = np.unique(np.quantile(sums, np.linspace(0, 1, STRATA + 1)).astype(np.int64))
    place = np.clip(np.searchsorted(edges, sums, side="right") - 1, 0, len(edges) - 2)
    at, mean, scatter = [], [], []
    for s in np.unique(place):
        some = rest[place == s]
        at.append(float(sums[place == s].mean()))
        mean.append(float(some.mean()))
        scatter.append(float(some.std()))
    u = np.asarray(behaviour.mean.u)
    value = tuple(map(float, np.asarray(behaviour.mean.value) + np.interp(u, at, mean)))
    column = behaviour.column().model_copy(update={"mean": Points(u=behaviour.mean.u, value=value), "pattern": None})
    if len(at) < 2 or max(scatter) == 0:
        return column
    if behaviour.fresh is not None:
        scatter = np.hypot(scatter, behaviour.fresh.at(np.asarray(at))).tolist()
    flat = (at[0] - 1, *at, at[-1] + 1)  # and no further than was seen
    sigma = Points(u=flat, value=(scatter[0], *scatter, scatter[-1]))
    return column.model_copy(update={"sigma": sigma})


def choose(shape: Shape, x: Vectors, w: Vectors, value: Values) -> tuple[Basis, list[Basis]]:
    """(the best basis, those tried on the way to it that came within twice its error)."""
    left = list(candidates(shape))
    basis = Basis(shape, 1, ())
    error = left_out(basis, x, w, value)
    path = [(error, basis)]
    while True:
        trials = [Basis(shape, basis.degree, (*basis.features, feature)) for feature in left]
        if basis.degree < HIGHEST:
            trials.append(Basis(shape, basis.degree + 1, basis.features))
            trials.append(Basis(shape, min(basis.degree + 2, HIGHEST), basis.features))
        trials = [t for t in trials if t.degree + 1 + len(t.features) <= 2 * len(x) // 3]
        errors = [left_out(trial, x, w, value) for trial in trials]
        if not errors or min(errors) > GAIN * error:
            break
        error, basis = min(zip(errors, trials, strict=True), key=lambda pair: pair[0])
        left = [feature for feature in left if feature not in basis.features]
        path.append((error, basis))
    return basis, [b for e, b in path if e <= 2 * error]


def left_out(basis: Basis, x: Vectors, w: Vectors, value: Values) -> float:
    """Root mean square of what least squares misses each point by when it is left out, counts."""
    return missed(basis.design(x, w), value)


def missed(design: Float[np.ndarray, "n terms"], value: Values) -> float:
    """As ``left_out``, of any least-squares problem; infinite where its terms depend on each other."""
    q, r = np.linalg.qr(design)
    if np.abs(np.diag(r)).min() < 1e-9 * np.abs(np.diag(r)).max():
        return math.inf
    residual = value - q @ (q.T @ value)
    kept = 1 - np.einsum("nt,nt->n", q, q)
    return float(np.sqrt(np.mean((residual / np.maximum(kept, 1e-9)) ** 2)))


def fit_mismatch(
    behaviour: Behaviour,
    x: Vectors,
    w: Vectors,
    value: Values,
    deviations: Mapping[str, Float[np.ndarray, "n R"]],
    nominal: Values | None = None,
) -> Behaviour:
    """The model with what differs between dies, from points of many dies whose device deviations are known.

    ``deviations``: of each device in each row, in units of their σ; ``nominal``: the points' values without mismatch,
    absent: the model's, whose own error then counts as unexplained. A cell's value changes by the factor
    1 + Σ s z + q z²; gain and offset of a column by the mean of its rows' z. All but s are taken where they are four
    standard errors from zero. Raises ValueError with fewer points than eight a coefficient.
    """
    least = DICE * len(deviations)
    if len(x) < least:
        raise ValueError(f"{len(x)} points of {len(deviations)} devices: mismatch needs {least} or more")
    nominal = behaviour.predict(x, w) if nominal is None else nominal
    error = value - nominal
    product_of = (x.astype(np.int64) * w).astype(float)
    slope = behaviour.slope(product_of.sum(axis=1) + behaviour.patterns(x, w, inner=True))
    names, columns = [], []
    for name, z in deviations.items():
        names += [(name, kind) for kind in ("cell", "square", "gain", "offset")]
        mean = z.mean(axis=1)
        columns += [
            slope * np.einsum("nr,nr->n", product_of, z),
            slope * np.einsum("nr,nr->n", product_of, z**2),
            nominal * mean,
            mean,
        ]
    design = np.column_stack(columns)
    keep = np.ones(len(names), dtype=bool)
    for _ in range(2):  # once to find what is there, once without the rest
        some = design[:, keep]
        gram = np.linalg.pinv(some.T @ some)
        c = gram @ (some.T @ error)
        left = error - some @ c
        deviation = np.sqrt(np.diag(gram) * left.var() * len(x) / max(1, len(x) - keep.sum()))
        found = dict(zip([n for n, k in zip(names, keep, strict=True) if k], c, strict=True))
        sure = dict(zip(found, np.abs(c) > SIGNIFICANT * deviation, strict=True))
        keep = np.array([kind == "cell" or bool(sure.get((name, kind), False)) for name, kind in names])
    linear = {name: float(found.get((name, "cell"), 0.0)) for name in deviations}
    square = {name: float(found.get((name, "square"), 0.0)) for name in deviations}
    gain, offset = (
        math.sqrt(sum(float(found.get((name, kind), 0.0)) ** 2 for name in deviations) / behaviour.shape.rows)
        for kind in ("gain", "offset")
    )
    cell = math.sqrt(sum(s**2 for s in linear.values()) + 2 * sum(q**2 for q in square.values()))
    variance = (slope * cell) ** 2 * (product_of**2).sum(axis=1) + (nominal * gain) ** 2 + offset**2
    return behaviour.model_copy(
        update={
            "mismatch": Mismatch(
                cell_mean=sum(square.values()),
                cell_sigma=cell,
                gain_sigma=gain or None,
                offset_sigma=offset or None,
                sensitivity={name: (linear[name], square[name]) for name in deviations},
                unexplained=float(left.var() / error.var()) if error.var() else 0.0,
                ratio=float(np.sqrt(variance.mean()) / error.std()) if error.var() else 1.0,
                points=len(x),
            )
        }
    )


def sums_of(x: Vectors, w: Vectors) -> Integer[np.ndarray, " n"]:
    """The sum of each point, counts."""
    return np.einsum("nr,nr->n", x, w, dtype=np.int64)


def count(feature: Feature, x: Vectors, w: Vectors) -> Values:
    """u_f of each point."""
    digits, levels = np.asarray(feature.digits), np.asarray(feature.levels)
    each = digits[x] * levels[w]
    return each.sum(axis=1) if feature.rows is None else each @ np.asarray(feature.rows)
