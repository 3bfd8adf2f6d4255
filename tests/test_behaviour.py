"""Behavioural models of circuits: fits of synthetic columns, the shipped samples (A0.1), the error model (A0.3)."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from bitline import presets
from bitline.circuits.spice import Circuit, Simulator, measured, names
from bitline.cli import app
from bitline.encode import TwosComplementWeight
from bitline.macro import (
    Chip,
    Converters,
    Dense,
    Macro,
    Mismatch,
    Reads,
    Shape,
    Site,
    Tolerance,
    adapt,
    behaviour_of,
    choose,
    curve_alone,
    error_model,
    error_rates,
    fit_behaviour,
    fit_fresh,
    fit_inner,
    fit_mismatch,
    judge,
    mac,
    model_circuit,
    program,
    shipped,
    spread_pool,
    values_of,
    with_dice,
)
from bitline.macro.behaviour import candidates
from bitline.macro.characterised import deviations_of, vectors_of
from bitline.macro.curves import Points
from bitline.macro.errors import Patterns, law
from bitline.macro.kinds import Feature
from bitline.report.residuals import residual_picture
from bitline.samples import Samples

SHAPE = Shape(rows=64, digits=16, levels=2, counts=192, bits=7)
NAME, DICE = "sram-8t-pwm", "sram-8t-pwm-dice"
needs_ngspice = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")


def pool(n: int, seed: int = 0, shape: Shape = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    on, held = rng.random((n, 1)), rng.random((n, 1))
    x = rng.integers(0, shape.digits, (n, shape.rows)) * (rng.random((n, shape.rows)) < on)
    w = rng.integers(0, shape.levels, (n, shape.rows)) * (rng.random((n, shape.rows)) < held)
    sums = (x * w).sum(1)
    keep = np.flatnonzero(sums <= shape.counts)
    ends = [keep[sums[keep].argmin()], keep[sums[keep].argmax()]]  # a model is not asked beyond its points
    keep = np.concatenate([ends, keep])
    return x[keep], w[keep]


def bent(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """A compressive column that loses a count's tenth for each conducting row and gains a little for each idle one."""
    k = (x * w).sum(1)
    return k - 0.2 * k**2 / 192 - 0.1 * ((x > 0) & (w > 0)).sum(1) + 0.03 * ((x > 0) & (w == 0)).sum(1)


# ------------------------------------------------------------------------------------------------------------- fits


def test_candidates_are_independent_of_each_other_and_of_the_sum():
    for shape in (SHAPE, SHAPE.model_copy(update={"digits": 2, "counts": 64}), SHAPE.model_copy(update={"levels": 4})):
        x, w = pool(4000, shape=shape.model_copy(update={"counts": 10**6}))
        terms = [(x * w).sum(1)]
        for f in candidates(shape):
            each = np.asarray(f.digits)[x] * np.asarray(f.levels)[w]
            terms.append(each.sum(1) if f.rows is None else each @ np.asarray(f.rows))
        design = np.stack(terms, 1)
        assert np.linalg.cond(design / np.linalg.norm(design, axis=0)) < 1e4
    assert sum(f.rows is None for f in candidates(SHAPE)) == 6


def test_a_column_of_curve_and_counts_is_found_again():
    x, w = pool(3000)
    fitted = fit_behaviour(SHAPE, x[:40], w[:40], bent(x[:40], w[:40]))
    goodness, _, _ = judge(fitted, x[40:], w[40:], bent(x[40:], w[40:]))
    assert goodness.largest < 0.01
    assert goodness.rms_alone > 0.2


def test_order_of_rows_is_seen_where_it_matters():
    x, w = pool(3000)
    place = np.arange(64) / 63 - 0.5
    value = bent(x, w) + 0.1 * (x * w) @ place
    fitted = fit_behaviour(SHAPE, x[:60], w[:60], value[:60])
    assert judge(fitted, x[60:], w[60:], value[60:])[0].largest < 0.01
    assert any(f.rows is not None for f in fitted.pattern)


def drained(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """A column that bends far, and whose conducting rows take part in the bend."""
    k = (x * w).sum(1) - 0.3 * ((x > 0) & (w > 0)).sum(1)
    return 150 * (1 - np.exp(-k / 110)) + 0.03 * ((x > 0) & (w == 0)).sum(1)


def test_pattern_counts_inside_the_curve_are_found_again():
    x, w = pool(1000)
    few, value = slice(0, 80), drained(x, w)
    plain, inner = (fit(SHAPE, x[few], w[few], value[few]) for fit in (fit_behaviour, fit_inner))
    found = judge(inner, x[80:], w[80:], value[80:])[0]
    assert found.largest < 0.05
    assert judge(plain, x[80:], w[80:], value[80:])[0].rms > 10 * found.rms
    assert any(feature.inner for feature in inner.pattern)
    straight = (x * w).sum(1) - 0.1 * ((x > 0) & (w > 0)).sum(1)
    assert judge(fit_inner(SHAPE, x[few], w[few], straight[few]), x[80:], w[80:], straight[80:])[0].largest < 0.01


def test_too_few_points_are_refused():
    x, w = pool(100)
    with pytest.raises(ValueError, match="5 points: a behavioural model needs six or more"):
        fit_behaviour(SHAPE, x[:5], w[:5], bent(x[:5], w[:5]))
    fitted = fit_behaviour(SHAPE, x[:40], w[:40], bent(x[:40], w[:40]))
    with pytest.raises(ValueError, match="20 points of 1 devices: mismatch needs 32 or more"):
        fit_mismatch(fitted, x[:20], w[:20], bent(x[:20], w[:20]), {"a": np.zeros((20, 64))})


def test_mismatch_of_cells_and_columns_is_told_apart():
    x, w = pool(3000)
    fitted = fit_behaviour(SHAPE, x[:60], w[:60], bent(x[:60], w[:60]))
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, len(x), 64))
    k = (x * w * (1 + 0.05 * a - 0.02 * b + 0.004 * a**2)).sum(1)
    value = fitted.curve(k) * (1 + 0.2 * b.mean(1)) + 2.0 * a.mean(1) + fitted.patterns(x, w)
    found = fit_mismatch(fitted, x, w, value, {"a": a, "b": b}).mismatch
    off = fitted.model_copy(update={"pattern": ()})
    known = fit_mismatch(off, x, w, value, {"a": a, "b": b}, nominal=fitted.predict(x, w)).mismatch
    assert known.sensitivity == found.sensitivity  # what the model misses of a die without mismatch is no mismatch
    assert found.sensitivity["a"] == pytest.approx((0.05, 0.004), rel=0.05)
    assert found.sensitivity["b"][0] == pytest.approx(-0.02, rel=0.05)
    assert found.cell_sigma == pytest.approx(np.hypot(0.05, 0.02), rel=0.02)
    assert found.cell_mean == pytest.approx(0.004, rel=0.1)
    assert found.gain_sigma == pytest.approx(0.2 / 8, rel=0.1)
    assert found.offset_sigma == pytest.approx(2.0 / 8, rel=0.1)
    assert found.unexplained < 0.02


def repeated(dice: int, reads: int) -> dict[str, np.ndarray]:
    """Points of dies read again and again: cells off by 5 %, and noise of 0.2 counts that grows with the sum."""
    x, w = pool(dice)
    x, w = x[:dice], w[:dice]
    fitted = fit_behaviour(SHAPE, x[:60], w[:60], bent(x[:60], w[:60]))
    rng = np.random.default_rng(1)
    z = rng.standard_normal(x.shape)
    die = np.repeat(np.arange(len(x)), reads)
    sums = (x * w).sum(1)[die]
    still = fitted.curve((x * w * (1 + 0.05 * z)).sum(1)) + fitted.patterns(x, w)
    value = still[die] + np.sqrt(0.04 + 0.002 * sums) * rng.standard_normal(len(die))
    return {"x": x[die], "w": w[die], "z": z[die], "die": die, "sums": sums, "value": value, "model": fitted}


def test_fresh_and_frozen_spread_are_told_apart():
    some = repeated(400, 16)
    fresh = fit_fresh(some["sums"], some["value"], some["die"])
    sums = np.array([0.0, 50, 100, 180])
    assert fresh.at(sums) == pytest.approx(np.sqrt(0.04 + 0.002 * sums), rel=0.05)
    assert fresh.freedom == len(some["value"]) - len(np.unique(some["die"]))
    assert "NOT" not in fresh.sentence
    frozen = fit_mismatch(some["model"], some["x"], some["w"], some["value"], {"a": some["z"]}).mismatch
    assert frozen.cell_sigma == pytest.approx(0.05, rel=0.05)
    silent = fit_fresh(some["sums"], some["model"].predict(some["x"], some["w"]), some["die"])
    assert max(silent.sigma.value) < 1e-9
    once = np.unique(some["die"], return_index=True)[1]
    with pytest.raises(ValueError, match="reads, each of another point or die: fresh spread needs two or more of one"):
        fit_fresh(some["sums"][once], some["value"][once], some["die"][once])


def test_fresh_spread_that_does_not_go_by_the_sum_is_said_not_to():
    some = repeated(200, 16)
    noise = np.random.default_rng(3).standard_normal(len(some["die"])) * np.where(some["die"] % 2, 0.1, 0.4)
    found = fit_fresh(some["sums"], some["sums"] + noise, some["die"])
    assert found.excess > 10
    assert "it does NOT go by the sum alone" in found.sentence


@pytest.mark.usefixtures("without_shape_checks")
def test_the_macro_and_the_error_model_have_the_fresh_noise():
    some = repeated(300, 16)
    x, w = some["x"][::16], some["w"][::16]
    fresh = fit_fresh(some["sums"], 3 * some["value"], some["die"])
    spread = Mismatch(cell_sigma=0.1, sensitivity={}, unexplained=0.0, ratio=1.0, points=64)
    fitted = some["model"].model_copy(update={"fresh": fresh, "mismatch": spread})
    macro = fitted.macro("m", columns=2048)
    assert macro.column.sigma == fresh.sigma
    assert Macro.model_validate(yaml.safe_load(yaml.safe_dump(macro.dump()))) == macro
    table = error_model(fitted, x, w)
    assert np.abs(table.probability.sum(2) - 1).max() < 1e-9
    scale = Converters(torch.tensor(0.0, dtype=torch.float64), torch.tensor(SHAPE.step, dtype=torch.float64))
    for which in (fitted, fitted.model_copy(update={"mismatch": None})):
        own = which.macro("m", columns=2048)
        expected = law(which, Patterns.of(which, x, w), SHAPE.readout.edges)
        for i in np.argsort((x * w).sum(1))[[0, 150, 270]]:
            levels = torch.tensor(w[[i]], dtype=torch.float32).expand(1024, -1)
            column = program(levels, own, Chip(3, 0), Site("layer", 0))
            keys = Reads(0, Chip(3, 0), 0, torch.arange(16)).keys("layer")
            inputs = torch.tensor(x[[i]], dtype=torch.float32).expand(16, 1, -1)
            code = mac(inputs, column, Dense(), keys, scale).numpy().ravel() / SHAPE.step
            seen = np.bincount(np.round(code).astype(int), minlength=128) / len(code)
            assert 0.5 * np.abs(seen - expected[i]).sum() < 0.03
    alone = curve_alone(fitted, x, w)
    assert (
        alone.sigma.at(torch.tensor([20.0, 90.0], dtype=torch.float64), 1.0).numpy() > fresh.at(np.array([20.0, 90.0]))
    ).all()


def test_what_is_not_there_is_absent():
    x, w = pool(1000)
    fitted = fit_behaviour(SHAPE, x[:60], w[:60], bent(x[:60], w[:60]))
    a = np.random.default_rng(1).standard_normal((len(x), 64))
    noise = np.random.default_rng(2).normal(0, 0.01, len(x))
    value = fitted.curve((x * w * (1 + 0.05 * a)).sum(1)) + fitted.patterns(x, w) + noise
    found = fit_mismatch(fitted, x, w, value, {"a": a}).mismatch
    assert found.gain_sigma is None
    assert found.offset_sigma is None


# --------------------------------------------------------------------------------------------------------- sampling


def test_sampling_stops_where_the_tolerance_is_met():
    x, w = pool(3000)
    asked: list[int] = []

    def simulate(rows: np.ndarray) -> np.ndarray:
        asked.extend(rows)
        return bent(x[rows], w[rows])

    found = adapt(SHAPE, x, w, simulate, Tolerance(0.02, 0.05))
    assert found.met
    assert len(asked) == len(set(asked)) == len(found.fitted) + len(found.checked)
    assert not set(found.fitted) & set(found.checked)
    assert len(found.fitted) <= 40
    others = np.setdiff1d(np.arange(len(x)), asked)
    assert judge(found.behaviour, x[others], w[others], bent(x[others], w[others]))[0].largest < 0.05
    assert "NOT" not in found.sentence


def test_a_column_that_is_no_sum_over_rows_is_said_to_be_none():
    x, w = pool(3000)
    product = (x > 0).sum(1) * (w > 0).sum(1) / 400.0  # of two counts: no single row gives it
    found = adapt(SHAPE, x, w, lambda rows: bent(x[rows], w[rows]) + product[rows], Tolerance(0.02, 0.05))
    assert not found.met
    assert found.goodness.rms > 0.02
    assert "does NOT meet the tolerance of 0.02 LSB rms" in found.sentence
    assert "more points did not help" in found.sentence
    few = adapt(SHAPE, x, w, lambda rows: bent(x[rows], w[rows]) + product[rows], Tolerance(0.02, 0.05), most=24)
    assert "no more points were allowed" in few.sentence


def test_sampling_asks_the_same_points_again():
    x, w = pool(2000)
    first, again = (adapt(SHAPE, x, w, lambda rows: bent(x[rows], w[rows])) for _ in range(2))
    assert np.array_equal(first.fitted, again.fitted)
    assert np.array_equal(first.checked, again.checked)


def test_the_pool_fills_the_sums():
    for name in names():
        circuit = Circuit.load(name)
        x, w = spread_pool(circuit, 1000)
        share = np.histogram((x.astype(int) * w).sum(1), 8, (0, circuit.scale.counts))[0]
        assert share.min() > 60
        assert x.max() <= circuit.input_high
        assert w.max() < circuit.weight_levels
    with pytest.raises(ValueError, match="a pool of 20 points is too small"):
        adapt(SHAPE, x[:20], w[:20], lambda rows: rows.astype(float))


# ------------------------------------------------------------------------------------------- as a macro's column


def read(macro: Macro, x: np.ndarray, w: np.ndarray, chip: Chip) -> np.ndarray:
    """Codes of each point, each in a layer of one output."""
    adc = macro.converter
    low, step = adc.range.start(adc, *macro.value_range)
    scale = Converters(torch.tensor(low, dtype=torch.float64), torch.tensor(step, dtype=torch.float64))
    column = program(torch.as_tensor(w, dtype=torch.float32), macro, chip, Site("layer", 0))
    inputs = torch.as_tensor(x, dtype=torch.float32)
    counts = [mac(inputs[i].view(1, 1, -1), column, Dense(), None, scale)[0, 0, i] for i in range(len(x))]
    return np.round((np.array(counts) - low) / step).astype(int)


@pytest.mark.usefixtures("without_shape_checks")
def test_the_macro_reads_what_the_model_predicts():
    x, w = pool(400)
    fitted = fit_behaviour(SHAPE, x[:60], w[:60], bent(x[:60], w[:60]))
    macro = fitted.macro("m", columns=512)
    assert choose(macro).name == "reference"
    assert "pattern counts" in choose(macro).why
    place = fitted.predict(x, w) / SHAPE.step + 0.5
    near = np.abs(place - np.round(place)) < 1e-3  # where float32 may fall to either side
    expected = np.clip(np.floor(place), 0, 127)
    assert np.array_equal(read(macro, x, w, Chip(0, 0))[~near], expected[~near])
    again = Macro.model_validate(yaml.safe_load(yaml.safe_dump(macro.dump())))
    assert again == macro
    assert "inner" not in macro.model_dump_json()  # so that macros of before have the fingerprint of before


@pytest.mark.usefixtures("without_shape_checks")
def test_the_macro_reads_pattern_counts_inside_the_curve():
    x, w = pool(300)
    fitted = fit_inner(SHAPE, x[:80], w[:80], drained(x, w)[:80])
    spread = {"sensitivity": {}, "unexplained": 0.0, "ratio": 1.0, "points": 64}
    fitted = fitted.model_copy(update={"mismatch": Mismatch(cell_sigma=0.1, **spread)})
    still = fitted.model_copy(update={"mismatch": None})
    place = fitted.predict(x, w) / SHAPE.step + 0.5
    near = np.abs(place - np.round(place)) < 1e-3
    assert np.array_equal(
        read(still.macro("m", columns=4), x, w, Chip(0, 0))[~near], np.clip(np.floor(place), 0, 127)[~near]
    )
    macro = fitted.macro("m", columns=2048)
    assert Macro.model_validate(yaml.safe_load(yaml.safe_dump(macro.dump()))) == macro
    scale = Converters(torch.tensor(0.0, dtype=torch.float64), torch.tensor(SHAPE.step, dtype=torch.float64))
    expected = law(fitted, Patterns.of(fitted, x, w), SHAPE.readout.edges)
    for i in np.argsort((x * w).sum(1))[[60, 150, 240]]:
        column = program(
            torch.tensor(w[[i]], dtype=torch.float32).expand(8192, -1), macro, Chip(3, 0), Site("layer", 0)
        )
        code = (
            mac(torch.tensor(x[[i]], dtype=torch.float32)[None], column, Dense(), None, scale)[0, 0].numpy()
            / SHAPE.step
        )
        seen = np.bincount(np.round(code).astype(int), minlength=128) / 8192
        assert 0.5 * np.abs(seen - expected[i]).sum() < 0.05


def test_a_column_without_patterns_goes_to_the_kernel():
    from bitline.macro.fused import native

    if native.missing():
        pytest.skip("the kernel is not built")
    x, w = pool(400)
    k = (x * w).sum(1)
    fitted = fit_behaviour(SHAPE, x[:60], w[:60], (k - 0.2 * k**2 / 192)[:60])
    assert not fitted.pattern
    assert choose(fitted.macro("m", columns=4)).name == "fused"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ([{"digits": [0, 1], "levels": [0, 1]}], r"pattern\[0\]\.digits has 2 factors, the macro's digits are 16"),
        ([{"digits": [0.0] * 16, "levels": [0, 1, 2]}], r"pattern\[0\]\.levels has 3 factors, the macro's levels are"),
        ([{"digits": [0] * 16, "levels": [0, 1], "rows": [1]}], r"rows has 1 factors, the macro's rows are 64"),
        ([{"digits": [1.0] * 16, "levels": [1, 1]}], "counts rows that are off at level 0"),
    ],
)  # fmt: skip
def test_a_pattern_that_does_not_fit_names_itself(pattern, message):
    config = {"name": "m", "rows": 64, "columns": 4, "inputs": {"kind": "unsigned", "bits": 4, "digit_bits": 4},
              "weights": {"kind": "unsigned", "bits": 1, "cell_bits": 1}, "column": {"kind": "curve", "pattern": pattern}}  # fmt: skip # noqa: E501
    with pytest.raises(ValueError, match=message):
        Macro.model_validate(config)


def test_levels_that_are_no_power_of_two_are_refused():
    x, w = pool(200)
    fitted = fit_behaviour(SHAPE, x[:60], w[:60], bent(x[:60], w[:60]))
    odd = fitted.model_copy(update={"shape": SHAPE.model_copy(update={"levels": 3})})
    with pytest.raises(ValueError, match="16 digits and 3 levels: integers are cut into powers of two"):
        odd.macro("m", columns=4)


# --------------------------------------------------------------------------------------------- A0.1: shipped samples


@pytest.fixture(scope="module")
def still() -> Samples:
    return shipped(NAME)


@pytest.fixture(scope="module")
def dice() -> Samples:
    return shipped(DICE)


@pytest.fixture(scope="module")
def model(still, dice):
    """Fitted to points of its own, none of which are in the held-out table below."""
    return with_dice(behaviour_of(fitted_rows(still)), dice)


FITTED, FITTED_DICE = 48, 16


def fitted_rows(samples: Samples) -> Samples:
    """48 rows, evenly over the sums; the others are held out."""
    return rows_of(samples, picked(samples))


def picked(samples: Samples) -> np.ndarray:
    order = np.argsort(samples.ideal, kind="stable")
    return order[np.linspace(0, len(order) - 1, FITTED).astype(int)]


def rows_of(samples: Samples, rows: np.ndarray) -> Samples:
    columns = {name: values[rows] for name, values in samples.columns().items() if name not in samples.conditions}
    conditions = {name: values[rows] for name, values in samples.conditions.items()}
    return Samples(**columns, conditions=conditions, units=samples.units, provenance=samples.provenance)


def test_shipped_samples_are_small_and_say_where_they_come_from(still, dice):
    assert len(still) >= 10_048
    chips = [len(np.unique(dice.select(ideal=int(k)).chip)) for k in np.unique(dice.ideal)]
    assert len(chips) == 8
    assert min(chips) >= 1000
    for samples in (still, dice):
        assert samples.provenance["command"] == "python examples/sram_samples.py FOLDER"
        assert samples["x"].dtype == samples["w"].dtype == np.int8
        assert samples.units["vbl"] == "V"
        assert np.array_equal(samples.ideal, (samples["x"].astype(int) * samples["w"]).sum(1))
    counted = np.histogram(still.ideal, 24, (0, 192))[0]
    assert counted[:19].min() >= 500  # evenly over the sums, as far as a network makes them
    assert counted.min() >= 40


def test_behavioural_model_without_mismatch(still, model):
    """A0.1, first table: rms ≤ 0.2 LSB, largest ≤ 0.5 LSB on ≥ 10 000 points held out, far below a curve alone."""
    held = rows_of(still, np.setdiff1d(np.arange(len(still)), picked(still)))
    goodness, _, _ = judge(model, held["x"], held["w"], values_of(held))
    print(goodness)
    assert goodness.points >= 10_000
    assert goodness.rms <= 0.2
    assert goodness.largest <= 0.5
    assert goodness.rms < goodness.rms_alone / 5
    assert goodness.largest < goodness.largest_alone / 5


def test_a_grid_of_every_sum_takes_five_times_the_points(still):
    """At equal error on all other points; what a grid knows of the sum alone, it has no model for."""
    x, w, value, step = still["x"], still["w"], values_of(still), SHAPE.step
    order = np.random.default_rng(0).permutation(len(still))

    def grid(each: int) -> tuple[int, float]:
        """Points, and rms error, of a table of every sum from ``each`` points of it."""
        rows = [order[still.ideal[order] == k][:each] for k in range(192)]
        others = np.setdiff1d(np.arange(len(still)), np.concatenate(rows))
        mean = np.array([value[some].mean() for some in rows])
        return sum(map(len, rows)), float(np.std(value[others] - mean[still.ideal[others]]) / step)

    for each in (1, 4):
        points, error = grid(each)
        found = adapt(SHAPE, x, w, lambda rows: value[rows], Tolerance(error, 10 * error))
        others = np.setdiff1d(np.arange(len(still)), np.concatenate([found.fitted, found.checked]))
        assert judge(found.behaviour, x[others], w[others], value[others])[0].rms <= error
        assert points >= 5 * (len(found.fitted) + len(found.checked))
    assert grid(28)[1] > 0.3
    fine = adapt(SHAPE, x, w, lambda rows: value[rows], Tolerance(0.02, 0.1))
    assert fine.met
    assert len(fine.fitted) <= 16


@pytest.mark.usefixtures("without_shape_checks")
def test_behavioural_model_with_mismatch(still, dice):
    """A0.1, second table: mean and deviation of the macro's reads over fresh dies, fitted to 16 dies at 8 sums and held
    against the 1008 others at each."""
    seen_by_fit = dice.chip < FITTED_DICE
    model = with_dice(behaviour_of(fitted_rows(still)), dice.take(seen_by_fit))
    held = dice.take(~seen_by_fit)
    rest = values_of(held) - model.predict(*vectors_of(held), deviations_of(held))
    assert rest.var() < 0.01 * (values_of(held) - model.predict(*vectors_of(held))).var()
    macro = model.macro("m", columns=1024)
    adc = macro.converter.model_copy(update={"bits": 16})  # a fine converter: what the column itself does
    macro = macro.model_copy(update={"converter": adc})
    step = 0.01  # counts, and no clipping
    scale = Converters(torch.tensor(0.0, dtype=torch.float64), torch.tensor(step, dtype=torch.float64))
    for k in np.unique(held.ideal):
        some = held.select(ideal=int(k))
        seen = values_of(some)
        assert len(np.unique(some.chip)) == len(seen) >= 1000
        x, w = some["x"][:1], some["w"][:1]
        assert (some["x"] == x).all()
        column = program(torch.tensor(w, dtype=torch.float32).expand(1024, -1), macro, Chip(77, 0), Site("layer", 0))
        read = mac(torch.tensor(x, dtype=torch.float32)[None], column, Dense(), None, scale)[0, 0].numpy()
        n = len(seen)
        error = seen.std() / np.sqrt(n)
        assert abs(read.mean() - seen.mean()) <= 0.05 * seen.mean() + 2 * np.sqrt(2) * error
        assert abs(read.mean() - seen.mean()) <= 0.15 + 3 * np.sqrt(2) * error  # and to a tenth of an LSB
        assert abs(read.std() / seen.std() - 1) <= 0.05 + 2 * np.sqrt(2) / np.sqrt(2 * n)


def test_the_compact_column_needs_pattern_counts_inside_its_curve():
    """Of conversions of a network within the converter's swing: the plain model is beyond half an LSB, this is not."""
    still, dice = shipped("sram-8t-compact"), shipped("sram-8t-compact-dice")
    order = np.argsort(still.ideal, kind="stable")
    rows = order[np.linspace(0, len(order) - 1, 128).astype(int)]
    held = rows_of(still, np.setdiff1d(np.flatnonzero(still.ideal <= 128), rows))
    plain, inner = (behaviour_of(rows_of(still, rows), inner=inner) for inner in (False, True))
    before, after = (judge(model, held["x"], held["w"], values_of(held))[0] for model in (plain, inner))
    assert 0.15 < before.rms < 0.2
    assert before.largest > 1
    assert after.rms < 0.1
    assert after.largest <= 0.5
    assert sum(feature.inner is True for feature in inner.pattern) <= 4
    spread = with_dice(inner, dice).mismatch
    assert spread.unexplained < 0.01
    assert spread.ratio == pytest.approx(1, abs=0.05)
    assert spread.sentence.startswith("mismatch: σ between dies 1.0")
    assert "NOT" not in spread.sentence
    off = {"ratio": 1.2, "points": 32}, {"ratio": 1.2, "points": 2048}, {"unexplained": 0.06}
    assert ["NOT" in spread.model_copy(update=each).sentence for each in off] == [False, True, True]


def test_mismatch_is_linear_in_the_thresholds(model):
    assert model.mismatch.unexplained < 0.01
    assert model.mismatch.ratio == pytest.approx(1, abs=0.02)
    assert model.mismatch.sensitivity["access"][0] < 0  # a higher threshold conducts less


@needs_ngspice
@pytest.mark.parametrize("name", [NAME, DICE])
def test_rows_drawn_at_random_come_out_of_ngspice_again(name):
    samples, circuit = shipped(name), Circuit.load(NAME)
    rows = np.random.default_rng(len(samples)).choice(len(samples), 200, replace=False)
    mismatch = None
    if samples.chip is not None:
        mismatch = [circuit.drawn(samples.provenance["seed"], int(chip)) for chip in samples.chip[rows]]
    outcomes = measured(circuit, samples["x"][rows], samples["w"][rows], Simulator(), mismatch=mismatch)
    found = np.array([outcome.value for outcome in outcomes])
    lsb = abs(samples.provenance["lsb"])
    assert np.abs(found - samples["vbl"][rows]).max() < 0.02 * lsb


# ------------------------------------------------------------------------------------------------ A0.3: error model


@pytest.mark.usefixtures("without_shape_checks")
def test_error_model_against_the_behavioural_model(still, model):
    """A0.3: for each sum, total variation between P(e|k) and 1e5 reads of the model on fresh dies < 0.02.

    Each of all 192 sums, however few patterns it was seen in (3 at 191); each conducting cell is drawn by itself.
    """
    table = error_model(model, still["x"], still["w"])
    assert table.step == 0.5
    assert np.abs(table.probability.sum(2) - 1).max() < 1e-9
    rng = np.random.default_rng(0)
    cell = model.cell().errors[0]
    product, counts = (still["x"].astype(int) * still["w"]).astype(np.float32), model.patterns(still["x"], still["w"])
    away = {}
    for k in np.unique(still.ideal):
        rows = np.flatnonzero(still.ideal == k)
        each = -(-100_000 // len(rows))
        seen = np.zeros(table.codes)
        for row in rows:
            x = product[row][product[row] > 0]
            cells = cell.mean[1] + cell.sigma[1] * rng.standard_normal((each, len(x)), dtype=np.float32)
            value = model.curve((cells @ x).astype(float)) + counts[row]
            code = np.clip(np.floor(value / SHAPE.step + 0.5), 0, 127).astype(int)
            seen += np.bincount(code * 3, minlength=table.codes)
        away[int(k)] = 0.5 * np.abs(seen / seen.sum() - table.probability[0, 2 * k]).sum()
    assert list(away) == list(range(192))
    assert max(away.values()) < 0.02, max(away, key=away.get)


def test_a_sum_seen_in_few_patterns_borrows_those_near_it(still, model):
    """Eight patterns of a sum, and the nearest others, tell more of those left out than the eight alone."""
    pool, edges = Patterns.of(model, still["x"], still["w"]), SHAPE.readout.edges
    rng = np.random.default_rng(0)

    def taken(rows: np.ndarray) -> Patterns:
        return Patterns(pool.sums[rows], pool.squares[rows], pool.counts[rows], pool.inner[rows])

    def spread(patterns: Patterns) -> np.ndarray:
        return law(model, patterns, edges).mean(axis=0)

    alone, borrowed = [], []
    for k in range(16, 160, 6):
        own = rng.permutation(np.flatnonzero(pool.sums == k))
        few, wanted = own[:8], spread(taken(own[8:]))
        more = np.concatenate([few, np.flatnonzero(pool.sums != k)])
        alone.append(0.5 * np.abs(spread(taken(few)) - wanted).sum())
        borrowed.append(0.5 * np.abs(spread(taken(more).of_sum(k)) - wanted).sum())
    assert np.mean(borrowed) < 0.8 * np.mean(alone)
    assert len(pool.of_sum(2).sums) == 16  # none is like one row at 2 or two at 1: its own, twice
    assert pool.of_sum(2).squares.min() >= 2
    assert (taken(np.flatnonzero(pool.sums > 4)).of_sum(2).sums == 2).all()  # of another sum, where there is no other


def test_sums_beyond_the_last_code_have_rows_of_their_own():
    still = shipped("sram-8t-compact")
    model = with_dice(behaviour_of(still), shipped("sram-8t-compact-dice"))
    table = error_model(model, still["x"], still["w"])
    assert still.ideal.max() == 143
    assert table.probability.shape == (1, 144, 144)
    assert (table.probability[0, :, 128:] == 0).all()  # the converter's last code is 127
    assert table.probability[0, 127, 127] < 0.9
    assert table.probability[0, 143, 127] > 0.999
    low = still["x"].astype(int).cumsum(1) < 40
    assert error_model(model, still["x"] * low, still["w"]).codes == 128


@pytest.mark.usefixtures("without_shape_checks")
def test_error_model_against_reads_of_the_macro(still, model):
    """The same against the machine itself: cells drawn, quantised and summed by the reference plan."""
    table, macro = error_model(model, still["x"], still["w"]), model.macro("m", columns=1 << 14)
    last = SHAPE.step * 127
    scale = Converters(torch.tensor(0.0, dtype=torch.float64), torch.tensor(last / 127, dtype=torch.float64))
    for k in (24, 96):
        rows = np.flatnonzero(still.ideal == k)
        seen = np.zeros(table.codes)
        for i, row in enumerate(rows):
            w = torch.as_tensor(still["w"][[row]], dtype=torch.float32).expand(2048, -1)
            column = program(w, macro, Chip(5, i), Site("layer", 0))
            x = torch.as_tensor(still["x"][[row]], dtype=torch.float32)[None]
            read = mac(x, column, Dense(), None, scale)[0, 0].numpy()
            seen += np.bincount(np.round(read / table.step).astype(int), minlength=table.codes)
        assert seen.sum() > 1e5
        assert 0.5 * np.abs(seen / seen.sum() - table.probability[0, 2 * k]).sum() < 0.02


def test_error_model_trains_a_network_like_any_table(still, model):
    table = error_model(model, still["x"], still["w"])
    macro = model.macro("m", columns=16).model_copy(update={"column": table, "converter": None, "cell": None})
    macro = Macro.model_validate(macro.model_dump())
    chip = Chip(0, 0)
    column = program(torch.ones(8, 64), macro, chip, Site("layer", 0))
    x = torch.zeros(512, 1, 64)
    x[:, :, :32] = 3.0
    keys = Reads(0, chip, 0, torch.arange(512)).keys("layer")
    read = mac(x, column, Dense(), keys)
    expected = table.probability[0, 2 * 96] @ (np.arange(table.codes) * table.step)
    assert float(read.double().mean()) == pytest.approx(expected, abs=0.3)


def test_error_rates_of_circuit_and_models_agree(still, dice, model):
    """Reads of 1024 dies in ngspice beside both models, sum by sum."""
    table = error_model(model, still["x"], still["w"])
    rates = error_rates(dice, model, table)
    assert sum(r.n for r in rates) == len(dice)
    assert len(rates) == 8
    for r in rates:
        assert abs(r.circuit - r.model) < 0.02 + 3 * r.deviation
        assert abs(r.table - r.model) < 0.15  # the table pools patterns, the dice stand on one a sum
    exact = error_rates(still, model.model_copy(update={"mismatch": None}), table)
    assert max(abs(r.circuit - r.model) for r in exact) < 0.01
    with pytest.raises(ValueError, match="the samples are empty"):
        error_rates(still.select(ideal=-1), model, table)


def test_error_model_refuses_grids_too_fine(model, still):
    fine = model.model_copy(update={"shape": SHAPE.model_copy(update={"counts": 191, "bits": 7})})
    with pytest.raises(ValueError, match=r"191/128 counts a code need a table of \d+ × \d+ entries"):
        error_model(fine, still["x"][:10], still["w"][:10])
    falling = model.model_copy(update={"mean": Points(u=(0, 10, 20), value=(0, 10, 5))})
    with pytest.raises(ValueError, match="the mean curve falls at the sum 10"):
        error_model(falling, still["x"][:10], still["w"][:10])


# --------------------------------------------------------------------------------------------- picture and command


def test_the_picture_shows_each_point_and_both_bounds():
    svg = residual_picture([0, 5, 9], [0.1, -0.2, 0.0], [1.0, 2.0, -1.0], 0.5, "a <b> & c")
    assert svg.count("<circle") == 6
    assert svg.count('class="bound"') == 2
    assert "a &lt;b&gt; &amp; c" in svg
    assert "<b>" not in svg
    with pytest.raises(ValueError, match="3 sums, 2 and 3 residuals"):
        residual_picture([0, 5, 9], [0.1, -0.2], [1.0, 2.0, -1.0], 0.5, "t")


@needs_ngspice
def test_characterize_command(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    args = ["characterize", NAME, "--out", "s.parquet", "--model", "m.yaml", "--picture", "p.svg", "--points", "200"]
    done = CliRunner().invoke(app, [*args, "--dice", "64"])
    assert done.exit_code == 0, done.output
    samples, many = Samples.load("s.parquet"), Samples.load("s-dice.parquet")
    assert len(samples) == 40
    assert len(np.unique(many.chip)) == 64
    assert Macro.load("m.yaml").column.pattern
    assert (tmp_path / "p.svg").read_text().startswith("<svg")
    strict = CliRunner().invoke(app, [*args, "--tolerance", "1e-9"])
    assert strict.exit_code == 3
    assert "does NOT meet the tolerance" in " ".join(strict.output.split())
    assert "mismatch: σ between dies" in " ".join(done.output.split())
    hot = CliRunner().invoke(
        app, ["characterize", NAME, "--out", "hot.csv", "--points", "3", "--temperature", "85 degC"]
    )
    assert hot.exit_code == 0, hot.output
    assert Samples.load("hot.csv")["temperature"] == pytest.approx(358.15)


def test_characterize_command_says_what_is_wrong(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    for args, message in (
        (["dram"], "no circuit dram: neither a file nor shipped"),
        ([NAME, "--ngspice", "no-such-program"], "no-such-program is not installed"),
        ([NAME, "--supply", "1 A"], "'1 A' has the unit 'A'"),
        ([NAME, "--picture", "p.svg"], "--picture shows the residuals of a behavioural model"),
        ([NAME, "--points", "3", "--reads", "2"], "circuit sram-8t-pwm has no `noise`: all reads of a die would be"),
        ([NAME, "--inner"], "--inner is a form of the behavioural model: give --model too"),
    ):
        done = CliRunner().invoke(app, ["characterize", *args, "--out", "s.parquet"])
        assert done.exit_code == 2
        assert message in " ".join(done.output.split())


def test_feature_round_trip():
    feature = Feature(digits=(0, 1), levels=(0.5, 1), rows=(1.0, 2.0))
    assert Feature.model_validate_json(feature.model_dump_json()) == feature


def test_the_curve_alone_takes_patterns_as_noise(still, model):
    column = curve_alone(model, still["x"], still["w"])
    assert column.pattern is None
    sums = torch.tensor(still.ideal, dtype=torch.float64)
    rest = values_of(still) - column.mean.at(sums, 1.0).numpy()
    assert abs(rest.mean()) < 0.05
    sigma = column.sigma.at(sums, 1.0).numpy()
    assert 0.8 < np.sqrt(np.mean((rest / sigma) ** 2)) < 1.2


def test_a_macro_of_several_cells_a_weight(model):
    macro = model.macro("m", columns=64, weights=TwosComplementWeight(bits=4, cell_bits=1))
    assert macro.weights.bits == 4
    with pytest.raises(ValueError, match="takes digits 0 … 15 and levels 0 … 1; the schemes have digits 0 … 15"):
        model.macro("m", columns=64, weights=TwosComplementWeight(bits=4, cell_bits=2))


def test_the_preset_is_what_the_samples_give(still, model):
    """examples/sram_macro.py makes the preset: its typical corner comes out again."""
    macro, whole = presets.load("generic-spice-sram"), with_dice(behaviour_of(still), shipped(DICE))
    column = curve_alone(whole, still["x"], still["w"])
    for mine, theirs in ((macro.column.mean, column.mean), (macro.column.sigma, column.sigma)):
        assert np.allclose(mine.u, theirs.u, atol=1e-4)
        assert np.allclose(mine.value, theirs.value, atol=1e-4)
    assert np.allclose(macro.cell.errors[0].sigma, whole.cell().errors[0].sigma, atol=1e-4)
    assert macro.at("ff").column.mean.value[-1] > macro.column.mean.value[-1] > macro.at("ss").column.mean.value[-1]


@needs_ngspice
def test_the_example_of_a_netlist_of_one_s_own():
    circuit = Circuit.load(Path(__file__).parents[1] / "examples" / "current-column.yaml")
    x, w = spread_pool(circuit, 400)
    found = model_circuit(circuit, x, w, Simulator(), dice=64)
    assert found.adapted.met
    assert found.adapted.goodness.rms < found.adapted.goodness.rms_alone / 5
    assert 0.05 < found.behaviour.mismatch.unexplained < 0.4  # thresholds weigh on small inputs more here
    assert "the model does NOT follow the dies" in found.adapted.sentence
