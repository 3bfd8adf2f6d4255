"""Columns fitted from samples behave as the columns that were sampled: mean, total, frozen and fresh spread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitline.converters import Adc, FixedRange
from bitline.devices import Cell, GaussianCell
from bitline.encode import (
    BinaryWeight,
    BipolarInput,
    DifferentialWeight,
    OffsetWeight,
    TwosComplementInput,
    TwosComplementWeight,
    UnsignedInput,
    UnsignedWeight,
)
from bitline.macro import Chip, Macro
from bitline.macro.components import Components, components
from bitline.macro.curves import Compressive, Polynomial
from bitline.macro.dmacem import coverage, fit_gaussian
from bitline.macro.fit import curve_errors, fit_curve
from bitline.macro.kinds import CurveColumn, TableColumn
from bitline.macro.placement import Reload
from bitline.macro.simulate import simulate
from bitline.macro.tables import falls, fit_table
from bitline.samples import Samples
from contracts import base, table


def rows(**columns: list[int]) -> Samples:
    return Samples(**{name: np.array(values, dtype=np.int64) for name, values in columns.items()})


COLUMNS, READS, SUMS = 1500, 1000, (3, 8, 20, 40, 64)
CHIP = Chip(seed=4, number=7)
LOW, STEP = -6.0, 1.0
TRUE = Macro(
    name="measured",
    rows=64,
    columns=COLUMNS,
    inputs=UnsignedInput(bits=4),
    weights=UnsignedWeight(bits=4),
    column=CurveColumn(
        mean=Compressive(compression=0.3, dead_zone=1.0, width=6.0),
        sigma=Polynomial(coefficients=(0.5, 0.5)),
        gain_sigma=0.02,
        offset_sigma=0.4,
    ),
    converter=Adc(bits=6, range=FixedRange(low=LOW, high=LOW + 63)),
)


@pytest.fixture(scope="module", autouse=True)
def _one_core() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return simulate(TRUE, CHIP, COLUMNS, READS, SUMS)


@pytest.fixture(scope="module")
def true(samples: Samples) -> Components:
    found = components(samples)
    print(f"\nthe column itself, {COLUMNS} columns × {READS} reads, LSB\n{found.table()}")
    return found


def again(column: CurveColumn | TableColumn, what: str) -> Components:
    """Components of the same die with the fitted column in place of the true one."""
    converter = None if isinstance(column, TableColumn) else TRUE.converter
    macro = Macro.model_validate(TRUE.model_copy(update={"column": column, "converter": converter}).model_dump())
    found = components(simulate(macro, CHIP, COLUMNS, READS, SUMS))
    print(f"\n{what}\n{found.table()}")
    return found


def assert_near(found: Components, true: Components, *names: str, share: float = 0.05) -> None:
    for name in names:
        ratio = getattr(found, name) / getattr(true, name)
        assert (np.abs(ratio - 1) < share).all(), f"{name}: ratios {ratio}"


def test_a_column_and_its_own_table(samples: Samples, true: Components) -> None:
    start = time.process_time()
    fitted = fit_table(samples, "column", low=LOW, step=STEP, codes=64, reach=64, assign="physical")
    found = again(fitted, "table a column")
    assert_near(found, true, "total", "frozen", "fresh")
    assert np.abs(found.mean - true.mean).max() < 0.02
    assert time.process_time() - start < 60


def test_a_column_and_its_fitted_curve(samples: Samples, true: Components) -> None:
    fitted = fit_curve(samples, low=LOW, step=STEP, codes=64, found=true)
    print(f"\ngain {fitted.gain_sigma} for 0.02, offset {fitted.offset_sigma} for 0.4 counts")
    found = again(fitted, "curve")
    assert_near(found, true, "total", "frozen", "fresh")
    assert np.abs(found.mean - true.mean).max() < 0.05
    assert fitted.gain_sigma == pytest.approx(0.02, rel=0.1)
    assert fitted.offset_sigma == pytest.approx(0.4, rel=0.1)
    assert fitted.sigma is not None
    for s in SUMS:
        known = 0.5 + 0.5 * s / 64
        assert fitted.sigma.at(torch.tensor([float(s)]), 64.0).item() == pytest.approx(known, rel=0.02)


def test_a_pooled_table_loses_the_frozen_part(samples: Samples, true: Components) -> None:
    fitted = fit_table(samples, low=LOW, step=STEP, codes=64, reach=64)
    found = again(fitted, "pooled table")
    assert_near(found, true, "total", share=0.02)
    assert (found.frozen < 0.05 * true.frozen).all()
    assert (found.fresh > 1.05 * true.fresh).all()  # it is counted as read noise

    # What a user sees: the mean of a column's reads differs from column to column, and so from chip to chip.
    def apart(of: Samples) -> float:
        return float(of.select(ideal=40).code.reshape(READS, COLUMNS).mean(0).std())

    macro = TRUE.model_copy(update={"column": fitted, "converter": None})
    assert apart(simulate(macro, CHIP, COLUMNS, READS, (40,))) < apart(samples) / 4


def test_frozen_means_are_those_of_the_same_columns(samples: Samples) -> None:
    fitted = fit_table(samples, "column", low=LOW, step=STEP, codes=64, reach=64, assign="physical")
    macro = TRUE.model_copy(update={"column": fitted, "converter": None})
    both = [
        of.select(ideal=40).code.reshape(READS, COLUMNS).mean(0)
        for of in (samples, simulate(macro, CHIP, COLUMNS, READS, (40,)))
    ]
    assert np.corrcoef(*both)[0, 1] > 0.98


# ------------------------------------------------------------------------------------------------------- simulation

WIDE = Adc(bits=12, range=FixedRange(low=-2048, high=2047))


@pytest.mark.parametrize(
    ("inputs", "weights", "sums"),
    [
        (UnsignedInput(bits=4, digit_bits=2), UnsignedWeight(bits=5, cell_bits=2), (0, 1, 5, 8, 17, 83, 90)),
        (TwosComplementInput(bits=4, digit_bits=3), TwosComplementWeight(bits=4), (0, 1, 6, 13, 69)),
        (UnsignedInput(bits=3, digit_bits=2), DifferentialWeight(bits=4, cell_bits=3), (-210, -17, 0, 5, 203, 210)),
        (UnsignedInput(bits=2), OffsetWeight(bits=4, cell_bits=2), (-20, -3, 0, 4, 10)),
        (UnsignedInput(bits=2), OffsetWeight(bits=4, cell_bits=2, subtract="digital"), (0, 7, 30)),
        (UnsignedInput(bits=7, digit_bits=7), BinaryWeight(), (0, 100, 128, 1270)),
        (BipolarInput(bits=2, digit_bits=2), UnsignedWeight(bits=1), (0, 1, 2, 28, 30)),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_ideal_columns_give_the_sum(inputs: object, weights: object, sums: tuple[int, ...]) -> None:
    macro = base("ideal", inputs=inputs, weights=weights, converter=WIDE)
    found = simulate(macro, [Chip(1, 0), Chip(1, 5)], 9, 3, sums)
    assert np.array_equal(found.code - 2048, found.ideal)
    assert set(found.ideal) == set(sums)
    assert len(found) == 2 * 9 * 3 * len(sums)
    assert sorted(set(found["chip"])) == [0, 5]
    assert len(set(found["column"])) == 9


def test_simulation_is_the_same_twice_and_its_parts_are_frozen_or_fresh() -> None:
    macro = TRUE.model_copy(update={"columns": 40})
    first = simulate(macro, CHIP, 40, 5, (20, 40))
    assert first == simulate(macro, CHIP, 40, 5, (20, 40))
    assert first.provenance["step"] == 1.0
    quiet = macro.model_copy(update={"column": CurveColumn(offset_sigma=2.0)})
    codes = simulate(quiet, [CHIP, Chip(4, 8)], 40, 5, (20,)).code.reshape(2, 5, 40)
    assert (codes == codes[:, :1]).all()
    assert (codes[0] != codes[1]).any()
    assert (codes[0] != codes[0, :, :1]).any()


def test_few_arrays_are_not_read_as_many() -> None:
    macro = TRUE.model_copy(update={"columns": 16, "placement": Reload(arrays=2)})
    assert len(simulate(macro, CHIP, 32, 1, (4,))) == 32
    with pytest.raises(ValueError, match="33 columns asked for, the chip's 2 arrays have 32"):
        simulate(macro, CHIP, 33, 1, (4,))


@pytest.mark.parametrize(
    ("changes", "sums", "message"),
    [
        ({"converter": None}, (1,), "no converter"),
        ({"weights": None, "column": None, "converter": None}, (1,), "needs `inputs` and `weights`"),
        ({}, (65,), "sums of this sign reach 64 counts"),
        ({}, (-1,), "column sums to -1"),
        ({}, (), "need one of each"),
    ],
)
def test_what_cannot_be_simulated(changes: dict, sums: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(TRUE.model_copy(update=changes), CHIP, 3, 2, sums)


def test_cell_errors_take_part() -> None:
    macro = TRUE.model_copy(update={"column": None, "cell": Cell(errors=(GaussianCell(sigma=0.1),))})
    fine = macro.model_copy(update={"converter": Adc(bits=12, range=FixedRange(low=0, high=80))})
    found = components(simulate(fine, CHIP, COLUMNS, 2, (10, 60)))
    assert found.frozen * 80 / 4095 == pytest.approx(0.8, rel=0.1)  # sqrt(64) · 0.1: every cell is on
    assert not found.fresh.any()


# ------------------------------------------------------------------------------------------------------- components


def synthetic(seed: int, columns: int, frozen: float, fresh: float) -> Samples:
    """Reads of unequal number, in steps too fine to matter."""
    generator = np.random.default_rng(seed)
    column = np.repeat(np.arange(columns), generator.integers(1, 7, columns))
    code = 1e4 + (frozen * generator.standard_normal(columns))[column] + fresh * generator.standard_normal(len(column))
    return Samples(ideal=np.full(len(column), 5), code=np.round(code).astype(np.int64), column=column)


def test_components_are_unbiased_and_know_their_error() -> None:
    many = [components(synthetic(seed, 60, 200.0, 500.0)) for seed in range(400)]
    for name, known in (("frozen", 200.0), ("fresh", 500.0)):
        variances = np.array([m.frozen_variance[0] if name == "frozen" else m.fresh[0] ** 2 for m in many])
        assert variances.mean() == pytest.approx(known**2, abs=4 * variances.std() / 20)
    for name in ("total", "frozen", "fresh"):
        values = np.array([getattr(m, name)[0] for m in many])
        errors = np.array([getattr(m, f"{name}_error")[0] for m in many])
        kept = values > 60
        assert np.median(errors[kept]) == pytest.approx(values[kept].std(), rel=0.25)


def test_no_frozen_part_is_zero_not_noise() -> None:
    found = components(synthetic(0, 4000, 0.0, 500.0))
    assert abs(found.frozen_variance[0]) < 0.05 * 500**2
    assert found.total[0] == pytest.approx(500, rel=0.02)


def test_chips_are_columns_of_their_own() -> None:
    one = rows(ideal=[1] * 8, code=[0, 0, 9, 9, 1, 1, 8, 8], column=[0, 0, 1, 1, 0, 0, 1, 1], chip=[0] * 4 + [1] * 4)
    assert components(one).columns[0] == 4
    assert not components(one).fresh.any()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"column": [0, 1, 2]}, "ideal sum 7 was read once in each of 3 columns: .* read each column at least twice"),
        ({"column": [4, 4, 4]}, "ideal sum 7 was read in 1 column only"),
        ({}, "do not tell columns apart"),
    ],
)
def test_frozen_and_fresh_cannot_be_separated(columns: dict, message: str) -> None:
    few = rows(ideal=[7, 7, 7], code=[6, 7, 8], **columns)
    for separate in (components, fit_curve):
        with pytest.raises(ValueError, match=message):
            separate(few)


# ------------------------------------------------------------------------------------------------------- tables


def test_a_known_table_comes_back() -> None:
    codes, pairs = 128, 4_000_000
    known = table(codes, 1.5)[0]
    generator = np.random.default_rng(3)
    ideal = generator.integers(0, codes, pairs)
    edges = (known.cumsum(1) + np.arange(codes)[:, None]).ravel()
    code = np.clip(np.searchsorted(edges, ideal + generator.random(pairs)) - ideal * codes, 0, codes - 1)
    fitted = fit_table(Samples(ideal=ideal, code=code), codes=codes)
    assert 0.5 * np.abs(fitted.probability[0] - known).sum(1).max() <= 0.02
    assert len(falls(fitted)) == 0


def test_rare_codes_borrow_their_neighbour_shifted() -> None:
    ideal = [2] * 4 + [3] + [5] * 4
    few = rows(ideal=ideal, code=[1, 2, 2, 3, 7, 4, 5, 5, 5])
    row = fit_table(few, codes=8, least=4, reach=2).probability[0]
    assert row[2].tolist() == [0, 0.25, 0.5, 0.25, 0, 0, 0, 0]
    assert row[3].tolist() == [0, 0, 0.25, 0.5, 0.25, 0, 0, 0]  # its one read of 7 is not trusted
    assert row[0].tolist() == [0.75, 0.25, 0, 0, 0, 0, 0, 0]  # what falls off stays at the end
    assert row[4].tolist() == [0, 0, 0, 0.25, 0.75, 0, 0, 0]
    assert row[7].tolist() == [0, 0, 0, 0, 0, 0, 0.25, 0.75]
    near = fit_table(few, codes=8, least=4, reach=2, smoothing=1.0).probability[0]
    assert near[2] == pytest.approx(np.array([0, 2, 3, 2, 0, 0, 0, 0]) / 7)
    assert near.sum(1) == pytest.approx(np.ones(8))
    assert near[0, 4] == 0


def test_a_table_in_its_own_scale() -> None:
    fitted = fit_table(rows(ideal=[-8, -7, -4, 0, 4], code=[0, 0, 1, 2, 3]), low=-8, step=4, least=1)
    assert np.array_equal(fitted.probability[0], np.eye(4))
    assert (fitted.low, fitted.step) == (-8, 4)


def test_falls_names_where_the_mean_is_not_monotone() -> None:
    fitted = fit_table(rows(ideal=[0, 1, 2, 3], code=[0, 2, 1, 3]), least=1)
    assert falls(fitted).tolist() == [[0, 1]]
    assert falls(fitted, tolerance=1.5).tolist() == []


SOME = {"ideal": [0, 1, 0, 0], "code": [0, 1, 0, 1], "column": [0, 0, 2, 2]}


@pytest.mark.parametrize(
    ("samples", "arguments", "message"),
    [
        (SOME, {"per": "column", "least": 1, "reach": 0}, "chip 0, column 2: ideal code 1 was read 0 times"),
        (SOME, {"least": 1, "codes": 8}, "^ideal code 6 was read 0 times"),
        (SOME, {"least": 5}, "ideal code 0 was read 3 times, fewer than least = 5"),
        (SOME | {"chip": [0, 0, 1, 1]}, {"per": "column", "assign": "physical"}, "the samples have 2 chips"),
        ({"ideal": [0, 1], "code": [0, 1]}, {"per": "column"}, "do not tell columns apart"),
        (SOME, {"codes": 1}, "code 1 in row 1 is outside 0 … 0"),
        ({"ideal": [0], "code": [-1]}, {}, "code -1 in row 0"),
        ({"ideal": [], "code": []}, {}, "empty"),
        (SOME, {"step": 0.0}, "step above 0"),
        (SOME, {"low": float("nan")}, "low = nan"),
        (SOME, {"smoothing": float("nan")}, "smoothing = nan"),
    ],
)
def test_tables_that_cannot_be_fitted(samples: dict, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_table(rows(**samples), **arguments)


def several(**changes: Any) -> Samples:
    """A column's reads at two temperatures, warmer ones a code higher; the supply is the same."""
    rng = np.random.default_rng(0)
    ideal, warm = rng.integers(0, 8, 4000), rng.integers(0, 2, 4000)
    conditions = {"temperature": np.where(warm, 358.15, 300.0), "supply": np.full(4000, 0.9)}
    units = {"temperature": "K", "supply": "V"}
    fields = {"ideal": ideal, "code": ideal + warm, "conditions": conditions, "units": units} | changes
    return Samples(**fields)


@pytest.mark.parametrize("fit", [fit_table, fit_gaussian, fit_curve, coverage])
def test_reads_at_several_temperatures_are_not_mixed(fit: Callable[..., object]) -> None:
    told = (
        r"several conditions, temperature = 300, 358.15 K: fit those of one, samples.select\(temperature=300.0\), or "
        r"pool them with over=\('temperature',\)"
    )
    with pytest.raises(ValueError, match=told):
        fit(several(column=np.arange(4000) % 2))


def test_conditions_are_selected_or_pooled() -> None:
    samples = several()
    for kelvin, more in ((300.0, 0), (358.15, 1)):
        table = fit_table(samples.select(temperature=kelvin), codes=9)
        np.testing.assert_array_equal(table.mean[0], np.minimum(np.arange(9) + more, 8))
    pooled = fit_table(samples, codes=9, over=("temperature",))
    np.testing.assert_allclose(pooled.mean[0, :8], np.arange(8) + 0.5, atol=0.1)
    told = r"over names 'temp', which is no condition .*; conditions: temperature, supply"
    with pytest.raises(ValueError, match=told):
        fit_table(samples, over=("temp",))


def test_what_a_circuit_measured_is_no_condition() -> None:
    volts = np.linspace(0.2, 0.8, 4000)
    of_circuit = {"provenance": {"circuit": {"measure": {"name": "v_bl"}}}, "units": {}}
    fit_table(several(conditions={"v_bl": volts}, **of_circuit))
    with pytest.raises(ValueError, match=r"v_bl = 0.2, 0.20015, 0.2003, 0.20045, …: fit"):
        fit_table(several(conditions={"v_bl": volts}, units={}))


def test_nan_never_becomes_a_sample(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("ideal,code\n0,0\n1,nan\n")
    with pytest.raises(ValueError, match=r"log.csv: column 'code' row 1: nan is not finite"):
        Samples.load(path)


# ------------------------------------------------------------------------------------------------------- curves


def test_a_noiseless_curve_has_no_noise() -> None:
    column = CurveColumn(mean=Compressive(compression=0.2), gain_sigma=0.03)
    fine = Adc(bits=12, range=FixedRange(low=-1, high=79))
    macro = TRUE.model_copy(update={"column": column, "converter": fine})
    found = simulate(macro, CHIP, COLUMNS, 2, (8, 24, 40, 64))
    fitted = fit_curve(found, low=-1, step=80 / 4095)
    assert fitted.sigma is None
    assert fitted.gain_sigma == pytest.approx(0.03, rel=0.06)
    assert (fitted.offset_sigma or 0) < 0.05


def test_standard_errors_are_the_scatter_of_fits() -> None:
    """Over 16 dice: errors of mean, noise, gain and offset, each the scatter that it foretells."""
    fits, errors = [], []
    for number in range(16):
        found = simulate(TRUE, Chip(9, number), 120, 40, (8, 24, 40, 64))
        fitted, error = fit_curve(found, low=LOW), curve_errors(found, low=LOW)
        assert error.ideal.tolist() == [8, 24, 40, 64]
        at = torch.tensor(error.ideal, dtype=torch.float64)
        assert fitted.mean is not None
        assert fitted.sigma is not None
        curves = [curve.at(at, 64.0).numpy() for curve in (fitted.mean, fitted.sigma)]
        fits.append(np.concatenate([[fitted.gain_sigma, fitted.offset_sigma], *curves]))
        errors.append(np.concatenate([[error.gain_sigma, error.offset_sigma], error.mean, error.sigma]))
    ratio = np.sqrt((np.array(errors) ** 2).mean(0)) / np.std(fits, axis=0, ddof=1)
    assert ((ratio > 0.6) & (ratio < 1.6)).all(), ratio
    with pytest.raises(ValueError, match="groups = 121: 2 to 120, the number of columns"):
        curve_errors(found, low=LOW, groups=121)


def test_curves_that_cannot_be_fitted() -> None:
    quiet = TRUE.model_copy(update={"column": CurveColumn(sigma=Polynomial(coefficients=(0.25,)), offset_sigma=0.1)})
    with pytest.raises(ValueError, match=r"ideal sum 8: .* steps hide .* finer step"):
        fit_curve(simulate(quiet, CHIP, 50, 50, (8, 40)), low=LOW)
    loud = TRUE.model_copy(update={"column": CurveColumn(sigma=Polynomial(coefficients=(3.0,)))})
    clipped = simulate(loud, CHIP, 50, 50, (0, 30, 55))
    with pytest.raises(ValueError, match=r"ideal sum 0: .* end of the converter"):
        fit_curve(clipped, low=LOW)
    with pytest.raises(ValueError, match=r"ideal sum 55: .* end of the converter"):
        fit_curve(clipped.select(ideal=[30, 55]), low=LOW, codes=64)
    with pytest.raises(ValueError, match="two ideal sums"):
        fit_curve(clipped.select(ideal=30), low=LOW)
    with pytest.raises(ValueError, match="ideal sum -1 is negative"):
        fit_curve(rows(ideal=[-1] * 4 + [2] * 4, code=[3, 4] * 4, column=[0, 0, 1, 1] * 2))
