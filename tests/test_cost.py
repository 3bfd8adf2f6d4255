"""Counts against hand and against the reference plan; ADC laws, their ranges and the survey; prices, savings, files."""

from __future__ import annotations

import itertools
import json
import runpy
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from typer.testing import CliRunner

import bitline as bl
from bitline.cli import app
from bitline.compensate import Trim, attach
from bitline.configuration import from_yaml
from bitline.cost import (
    Activity,
    AnyAdcEnergy,
    Areas,
    Cost,
    Digital,
    LayerCounts,
    Murmann,
    OhmicCell,
    Sar,
    Schreier,
    SwitchedCell,
    Technology,
    Walden,
    accumulator_bits,
    adc_saving,
    brief,
    cost,
    count,
    measure_activity,
    price,
)
from bitline.cost.survey import BITS, RATES, YEARS, Converters, Survey, read_survey, residuals, shipped
from bitline.macro import Macro, Probe
from bitline.nn import calibrate, convert, layers
from bitline.report.costs import cost_tables

CYCLE = 20e-9
LAWS = [Walden(), Schreier(), Sar(), *(Murmann(level=level) for level in ("low", "median", "high"))]
each_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: f"{law.kind} {getattr(law, 'level', '')}".strip())


def macro(**changes: Any) -> Macro:
    config = {
        "name": "counted",
        "rows": 16,
        "active_rows": 8,
        "columns": 12,
        "columns_per_adc": 2,
        "inputs": {"kind": "unsigned", "bits": 3},
        "weights": {"kind": "twos_complement", "bits": 3},
        "converter": {"kind": "adc", "bits": 4},
    }
    return Macro.model_validate(config | changes)


class Net(nn.Module):
    """A grouped convolution, one that stays digital, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        self.head = nn.Conv2d(6, 5, 1)
        self.fc = nn.Linear(5 * 4 * 4, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.head(self.conv(x).relu()).relu().flatten(1))


X = torch.rand(3, 4, 4, 4, generator=torch.Generator().manual_seed(1))


def on(macro: Macro, *, skip: tuple[str, ...] = ("head",)) -> nn.Module:
    return convert(Net(), macro, skip=list(skip)).eval()


def by_name(model: nn.Module, **more: Any) -> dict[str, LayerCounts]:
    return {one.layer: one for one in count(model, X, **more)}


def technology(**changes: Any) -> Technology:
    return Technology.model_validate({"name": "test", "cycle": CYCLE, "adc": ["murmann", "sar"]} | changes)


# ------------------------------------------------------------------------------------------------------------- counts


def test_counts_by_hand() -> None:
    found = by_name(on(macro()))
    # 16 positions of 2 groups, 18 inputs each in tiles of 16 rows: groups of 8, 8 and 2 rows. 3 passes, 3 digits.
    conv = found["conv"]
    assert (conv.terms, conv.outputs, conv.macs) == (18, 16 * 6, 16 * 6 * 18)
    assert conv.conversions == 16 * 6 * 3 * 3 * 3  # row groups, passes, digits
    assert conv.drives == 16 * 2 * 18 * 3
    assert conv.cells == 16 * 2 * 18 * 3 * 3 * 3  # 3 outputs of 3 columns in a group
    assert conv.accumulations == 16 * 6 * 26
    assert conv.inputs == 16 * 2 * 18
    assert (conv.arrays, conv.converters) == (4, 4 * 6)  # 2 groups of 2 tiles
    # 9 columns on converters of 2: two conversions each, and the first tile has two row groups
    assert conv.cycles == 16 * 3 * 2 * 2
    assert (conv.adc_bits, conv.digit_bits, conv.input_sums, conv.cells_written) == (4, 1, 0, 0)
    # 80 inputs, 5 tiles; 7 outputs of 3 columns, 4 in an array: 2 arrays side by side share their drivers
    fc = found["fc"]
    assert (fc.conversions, fc.drives, fc.cells) == (7 * 10 * 3 * 3, 80 * 3, 80 * 3 * 21)
    assert (fc.arrays, fc.cycles) == (10, 3 * 2 * 2)
    assert found["head"].model_dump(exclude_defaults=True) == {
        "layer": "head", "macro": None, "terms": 6, "outputs": 80, "macs": 480, "parameters": 35, "inputs": 96
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "conversions", "cells", "digit_bits"),
    [
        ({"inputs": {"kind": "unsigned", "bits": 3, "digit_bits": 3}}, 1 * 3, 1 * 3, 3),
        ({"inputs": {"kind": "twos_complement", "bits": 4, "digit_bits": 2}}, 3 * 3, 3 * 3, 2),
        ({"inputs": {"kind": "two_phase", "bits": 4, "digit_bits": 3}}, 2 * 3, 2 * 3, 3),
        ({"weights": {"kind": "differential", "bits": 4, "cell_bits": 3}}, 3 * 1, 3 * 2, 1),
        ({"weights": {"kind": "differential", "bits": 4, "cell_bits": 3, "subtract": "digital"}}, 3 * 2, 3 * 2, 1),
        ({"weights": {"kind": "offset", "bits": 4, "cell_bits": 2}}, 3 * 2, 3 * 4, 1),
        ({"weights": {"kind": "binary"}}, 3 * 1, 3 * 1, 1),
    ],
)  # of one output and row group; of one output and input; bits of a digit
def test_counts_of_schemes(changes: dict[str, Any], conversions: int, cells: int, digit_bits: int) -> None:
    found = by_name(on(macro(**changes)))["conv"]
    assert found.conversions == 16 * 6 * 3 * conversions
    assert found.cells == 16 * 6 * 18 * cells
    assert found.digit_bits == digit_bits


def test_digital_offsets_sum_the_inputs() -> None:
    found = by_name(on(macro(weights={"kind": "offset", "bits": 3, "subtract": "digital"})))["fc"]
    assert found.input_sums == 79 + 7  # Σx once, then once to each output
    assert found.input_sum_bits == (80 * 7).bit_length()


class Codes(Probe):
    """Counts values as converters meet them."""

    def __init__(self) -> None:
        self.seen = 0

    def values(self, v: Tensor) -> None:
        self.seen += v.numel()


@pytest.mark.parametrize(
    "weights",
    [{"kind": "twos_complement", "bits": 3}, {"kind": "offset", "bits": 3}, {"kind": "differential", "bits": 4}],
    ids=lambda one: one["kind"],
)
def test_conversions_are_those_that_the_reference_plan_makes(weights: dict[str, Any]) -> None:
    model = calibrate(convert(Net(), macro(weights=weights), skip=["head"], plan="reference"), [X]).eval()
    probes = {name: Codes() for name in layers(model)}
    for name, layer in layers(model).items():
        layer.probe = probes[name]
    with torch.no_grad():
        model(X)
    found = by_name(model)
    assert {name: probe.seen / len(X) for name, probe in probes.items()} == {
        name: found[name].conversions for name in probes
    }
    assert all(found[name].conversions == layer.conversions for name, layer in layers(model).items())


def test_a_layer_called_twice_works_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.fc(x).relu())

    (found,) = count(convert(Twice(), macro()), torch.rand(2, 8))
    assert found.outputs == 16
    assert found.conversions == 2 * 8 * 1 * 3 * 3


def test_counting_leaves_a_model_as_it_was() -> None:
    model = on(macro(converter={"kind": "adc", "bits": 4, "range": "calibrated"})).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count(model, X)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("inputs", ["unsigned", "twos_complement", "two_phase"])
@pytest.mark.parametrize("weights", ["unsigned", "twos_complement", "differential"])
def test_accumulators_hold_every_sum_and_are_not_wider(inputs: str, weights: str) -> None:
    design = macro(inputs={"kind": inputs, "bits": 2}, weights={"kind": weights, "bits": 2}, converter={"bits": 2})
    layout = design.layout(12, 3)
    assert layout.reads == 2
    assert design.inputs is not None
    assert design.weights is not None
    radices = [p * c for p in design.inputs.radix for c in design.weights.radix] * layout.reads
    sums = [sum(map(int.__mul__, radices, codes)) for codes in itertools.product((0, 3), repeat=len(radices))]
    bits = accumulator_bits(design, layout, 4)

    def holds(bits: int) -> bool:
        low, high = (0, 2**bits - 1) if min(sums) >= 0 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return low <= min(sums) and max(sums) <= high

    assert holds(bits)
    assert not holds(bits - 1)


def test_reloaded_arrays_are_written_and_take_turns() -> None:
    design = macro(placement={"kind": "reload", "arrays": 3})
    found = by_name(on(design))
    # 4 arrays of conv and 10 of fc on 3: all of them are written anew
    assert found["conv"].rows_written == 2 * (16 + 2)
    assert found["conv"].cells_written == 2 * 18 * 9
    assert found["fc"].cells_written == 80 * 21
    assert found["conv"].arrays == 3
    # logical arrays 0 and 3 share one: 2 row groups of the one, 1 of the other's ragged tile, 2 turns each
    assert found["conv"].cycles == 16 * 3 * (2 + 1) * 2
    own = by_name(on(macro(placement={"kind": "reload", "arrays": 14})))
    assert own["fc"].cells_written == 0
    assert own["fc"].cycles == by_name(on(macro()))["fc"].cycles


def test_reference_columns_are_written_with_their_array() -> None:
    weights = {"kind": "offset", "bits": 4, "cell_bits": 2}
    found = by_name(on(macro(weights=weights, placement={"kind": "reload", "arrays": 1})))["conv"]
    assert found.cells_written == 2 * 18 * (3 * 2 + 2)


def test_zeros_skip_what_is_zero() -> None:
    model = calibrate(convert(nn.Sequential(nn.Linear(16, 4)), macro()), [torch.rand(8, 16) * 7 + 0.1]).eval()
    layer = layers(model)["0"]
    assert layer.input_quantizer is not None
    _, scale, _ = layer.input_quantizer(torch.zeros(1, 16))
    codes = torch.zeros(2, 16)
    codes[0, :8] = 1  # row group 0: the lowest bit of 8 inputs
    codes[1, 8:10] = 6  # row group 1: the two upper bits of 2 inputs
    found = measure_activity(model, codes * scale)["0"]
    assert found.reads == pytest.approx((1 + 2) / (2 * 2 * 3))
    assert found.drives == pytest.approx((8 + 4) / (2 * 16 * 3))
    sample, full = torch.zeros(1, 16), technology(array={"kind": "switched", "joules": 1e-15})
    all_of_it, skipping = cost(model, sample, full), cost(model, sample, full, activity={"0": found})
    for before, after in zip(all_of_it.estimates, skipping.estimates, strict=True):
        assert after.energy.adc == pytest.approx(before.energy.adc * found.reads)
        assert after.energy.array == pytest.approx(before.energy.array * found.drives)
    assert skipping.latency == all_of_it.latency


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: count(Net(), X), "no layer of this model sits on a macro"),
        (lambda: count(on(macro(converter=None)), X), "macro counted has no converter"),
        (lambda: count(on(macro()), X, {"fd": Activity()}), "activity of fd: the layers on the macro are conv, fc"),
        (lambda: cost(on(macro()), X, technology(adc=["murmann"], cycle=2e-6)), "conv: 500 kHz a converter; .* 1 MHz"),
        (lambda: cost(on(macro(converter={"bits": 3})), X), "conv: 3 bits; .*survey, median holds from 4 to 16"),
        (lambda: cost(on(macro(placement={"kind": "reload", "arrays": 3})), X, technology()), "give `write` of the te"),
        (lambda: cost(on(macro()), X, technology(array={"kind": "ohmic", "volts": 0.2, "pulse": 1e-8})), "give cell.g"),
        (lambda: cost(on(macro()), X, "horowitz"), "no technology 'horowitz'; did you mean horowitz-45nm"),
        (lambda: cost(on(macro()), X, batch=0), "batch = 0: one sample"),
    ],
)
def test_what_cannot_be_told_is_refused(made: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made()


# ---------------------------------------------------------------------------------------------------------- ADC laws


@each_law
def test_each_law_is_monotone_in_bits_and_refuses_others(law: Any) -> None:
    low, high = law.BITS
    for rate in (law.RATES[0], 1e7, law.RATES[1]):
        energies = [law.joules(bits, rate) for bits in range(low, high + 1)]
        assert all(b > a for a, b in itertools.pairwise(energies))
    for bits in (low - 1, high + 1):
        with pytest.raises(ValueError, match=rf"fc: {bits} bits; .* holds from {low} to {high}"):
            law.joules(bits, 1e7, "fc")
    for rate in (law.RATES[0] / 2, law.RATES[1] * 2):
        with pytest.raises(ValueError, match=r"Hz a converter; .* holds from"):
            law.joules(6, rate)


@each_law
def test_each_law_comes_back_from_a_file(law: Any) -> None:
    assert TypeAdapter(AnyAdcEnergy).validate_json(law.model_dump_json()) == law


def test_laws_have_the_figures_of_their_sources() -> None:
    assert {type(law) for law in LAWS} == set(get_args(get_args(AnyAdcEnergy)[0]))
    assert Walden(fom=10e-15).joules(8, 1e6) == pytest.approx(2.56e-12)
    assert Sar().joules(8, 1e6) == pytest.approx(8 * 100e-15 + 4**8 * 1e-18)
    power = 1e-3  # FoM = SNDR + 10 lg(rate / (2 P)): 74 dB at 50 MS/s
    law = Schreier(fom=74.0 + 10 * np.log10(50e6 / (2 * power)))
    assert law.joules(12, 50e6) * 50e6 == pytest.approx(power)
    with pytest.raises(ValidationError, match="fom"):
        Walden(fom=0)


def test_a_bound_is_told_to_be_one() -> None:
    """Wherever a figure of Schreier's line is shown, with its parameters or without."""
    assert Schreier(fom=180).title == "Schreier, 180 dB (a lower bound below 10 bits)"
    assert brief(Schreier().title) == "Schreier (a lower bound below 10 bits)"
    assert [brief(law.title) for law in (Walden(), Sar(), Murmann())] == ["Walden", "SAR", "Murmann's survey"]
    terms, _ = cost_tables(cost(on(macro()), X), "counted")
    assert "Schreier, 185 dB (a lower bound below 10 bits)" in [str(column.header) for column in terms.columns]


def test_the_survey_grows_with_speed_beyond_its_corners() -> None:
    energies = [Murmann().joules(10, rate) for rate in np.geomspace(*RATES, 9)]
    assert all(b >= a for a, b in itertools.pairwise(energies))
    assert energies[-1] > 5 * energies[0]


@pytest.fixture(scope="module")
def converters(data_dir: Path) -> Converters:
    return read_survey(data_dir / "adc" / "ADCsurvey_latest.xlsx")


def test_the_survey_of_the_last_ten_years_is_bracketed(converters: Converters) -> None:
    last = converters.recent()
    assert last.year.min() == converters.year.max() - YEARS + 1
    assert last.bits.min() >= BITS[0]
    assert len(last.year) == shipped().converters
    low, median, high = (residuals(last, shipped().curves[level]) for level in ("low", "median", "high"))
    assert low.min() >= 0
    assert high.max() <= 0
    assert low.min() < 0.05  # and no further out than they must
    assert high.max() > -0.05
    assert np.mean(median > 0) == pytest.approx(0.5, abs=0.02)
    assert np.sqrt(np.mean(median**2)) == pytest.approx(shipped().rms, abs=2e-3)


def test_the_range_leaves_out_what_the_documentation_says(converters: Converters) -> None:
    """273 of ten years; most of those outside are slow."""
    recent = converters.year > converters.year.max() - YEARS
    slow, fast = (recent & (converters.rate < RATES[0]), recent & (converters.rate > RATES[1]))
    fine, coarse = (recent & (converters.bits > BITS[1]), recent & (converters.bits < BITS[0]))
    assert (recent.sum(), slow.sum(), fast.sum()) == (273, 77, 3)
    assert ((fine & slow).sum(), (fine & ~slow).sum(), coarse.sum()) == (23, 3, 1)
    assert recent.sum() - (slow | fast | fine | coarse).sum() == shipped().converters


def test_the_shipped_curves_are_those_that_the_example_fits(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "adc_survey.py"))
    example["main"](data_dir / "adc" / "ADCsurvey_latest.xlsx", tmp_path / "survey.yaml")
    assert "over median: 5 %, 50 %, 95 %" in capsys.readouterr().out
    found, ours = Survey.model_validate(from_yaml((tmp_path / "survey.yaml").read_text())), shipped()
    assert (found.source, found.years, found.converters) == (ours.source, ours.years, ours.converters)
    assert found.rms == pytest.approx(ours.rms, abs=2e-3)
    assert found.curves.keys() == ours.curves.keys()
    bits, rates = (each.flatten() for each in np.meshgrid(np.arange(4.0, 17), np.geomspace(*RATES, 11)))
    for level, curve in found.curves.items():
        np.testing.assert_allclose(curve.joules(bits, rates), ours.curves[level].joules(bits, rates), rtol=0.01)


def test_the_median_is_nearer_to_the_survey_than_either_figure_of_merit(converters: Converters) -> None:
    last = converters.recent()
    ours = np.abs(residuals(last, shipped().curves["median"])).mean()
    for factor in (2.0, 4.0):  # FoM · 2^b, FoM · 4^b with the best FoM
        left = np.log10(last.joules / factor**last.bits)
        assert ours < np.abs(left - np.median(left)).mean() - 0.03


# ------------------------------------------------------------------------------------------------- prices and savings


def test_prices_by_hand() -> None:
    given = technology(
        adc=[{"kind": "walden", "fom": "10 fJ"}],
        driver={"farads": "10 fF", "volts": 1.0},
        array={"kind": "switched", "joules": 2e-15},
        digital={"add": 4e-15, "multiply": 3e-15},
        buffer={"bit": 0.1e-12},
        areas={"cell": 1e-12, "converter": 100e-12},
    )
    digits = {"kind": "unsigned", "bits": 3, "digit_bits": 3}
    model = convert(nn.Sequential(nn.Linear(8, 2)), macro(inputs=digits))
    found = cost(model, torch.rand(1, 8), given)
    (energy,) = found.estimates[0].layers
    assert energy.adc == pytest.approx(2 * 3 * 16 * 10e-15)  # 2 outputs of 3 digits, 4 bits
    assert energy.driver == pytest.approx(8 * 3 * 10e-15)
    assert energy.array == pytest.approx(8 * 6 * 2e-15)
    # Σ radix · code from -4 · 15 to 3 · 15: 7 bits; two additions an output, a bias, a product by 16 bits
    assert found.layers[0].accumulator_bits == 7
    assert energy.digital == pytest.approx((2 * 2 + 2) * 7 * 4e-15 + 2 * 7 * 16 * 3e-15)
    assert energy.buffer == pytest.approx((8 + 2) * 3 * 0.1e-12)
    assert energy.write == 0
    assert found.latency == pytest.approx(2 * CYCLE)  # 6 columns in pairs
    assert found.area == pytest.approx(16 * 12 * 1e-12 + 6 * 100e-12)
    assert found.tops == pytest.approx(2 * 16 / (2 * CYCLE) / 1e12)
    assert found.one_bit_tops == pytest.approx(found.tops * 9)
    assert found.tops_per_mm2 == pytest.approx(found.tops / (found.area * 1e6))
    assert found.estimates[0].tops_per_watt == pytest.approx(2 * 16 / energy.total / 1e12)


def test_writes_are_shared_by_a_batch() -> None:
    given = technology(write={"cell": "1 pJ", "row": "10 ns"})
    model = on(macro(placement={"kind": "reload", "arrays": 3}))
    one, ten = cost(model, X, given), cost(model, X, given, batch=10)
    cells = sum(each.cells_written for each in one.layers)
    assert one.estimates[0].energy.write == pytest.approx(cells * 1e-12)
    assert ten.estimates[0].energy.write == pytest.approx(cells * 1e-13)
    rows = sum(each.rows_written for each in one.layers)
    assert one.latency - ten.latency == pytest.approx(rows * 10e-9 * 0.9)


def test_shared_arrays_take_area_once() -> None:
    given = technology(write={"cell": "1 pJ", "row": "10 ns"}, areas=Areas(cell=1e-12, converter=1e-10, row=1e-11))
    found = cost(on(macro(placement={"kind": "reload", "arrays": 3})), X, given)
    assert found.area == pytest.approx(3 * (16 * 12 * 1e-12 + 6 * 1e-10 + 16 * 1e-11))


def test_digital_layers_cost_their_products() -> None:
    found = cost(on(macro()), X, technology(digital={}))
    (energy,) = (e for one, e in zip(found.layers, found.estimates[0].layers, strict=True) if one.macro is None)
    assert energy.digital == pytest.approx(480 * Digital().mac(8, 8, 6))
    assert energy.adc == 0
    assert energy.buffer is None
    assert Digital().mac(8, 8, 6) == pytest.approx(0.2e-12 + 19 * 3.75e-15)  # a product of 8 bits, a sum of 16 + 3
    assert Digital(node=22.5e-9, volts=0.45).scale == pytest.approx(1 / 8)


def test_digital_layers_read_their_numbers_once_and_their_inputs_for_each_position() -> None:
    found = cost(on(macro()), X, technology(digital={}, buffer={"bit": 0.1e-12}))
    (energy,) = (e for one, e in zip(found.layers, found.estimates[0].layers, strict=True) if one.macro is None)
    assert energy.buffer == pytest.approx((5 * 6 + 5 + 16 * 6 + 16 * 5) * 8 * 0.1e-12)  # weights, biases, in, out
    assert energy.total == pytest.approx(480 * Digital().mac(8, 8, 6) + 211 * 8 * 0.1e-12)
    one, macs = found.estimates[0], 16 * 6 * 18 + 480 + 7 * 80
    assert one.network_tops_per_watt == pytest.approx(2 * macs / one.energy.total / 1e12)
    assert one.tops_per_watt == pytest.approx(2 * (macs - 480) / (one.energy.total - energy.total) / 1e12)
    grouped = convert(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(4, 2)), macro(), skip=["0"])
    assert count(grouped, torch.rand(1, 4, 3, 3))[0].inputs == 2 * 18


def test_cells_cost_what_their_conductance_draws() -> None:
    cell = macro(cell={"g_min": "1 uS", "g_max": "99 uS"}).cell
    assert OhmicCell(volts=0.2, pulse=10e-9).read(cell, "fc") == pytest.approx(0.04 * 50e-6 * 10e-9)
    assert SwitchedCell(joules=3e-15).read(None, "fc") == 3e-15


def test_savings_are_told_against_a_declared_baseline() -> None:
    counted = count(on(macro(converter={"bits": 8})), X)
    laws = (Walden(), Murmann())
    by_walden, by_survey = adc_saving(counted, 7, 8, laws, CYCLE)
    assert by_walden.saved == pytest.approx(0.5)
    assert by_survey.joules < by_survey.baseline
    conversions = {one.layer: one.conversions for one in counted}
    one, _ = adc_saving(counted, {"fc": 6}, 8, laws, CYCLE)
    assert one.joules == pytest.approx((conversions["conv"] * 256 + conversions["fc"] * 64) * 1e-15)
    assert adc_saving(counted, {}, {}, laws, CYCLE)[0].saved == 0
    with pytest.raises(ValueError, match="bits of head: the layers on the macro are conv, fc"):
        adc_saving(counted, {"head": 6}, 8, laws, CYCLE)
    with pytest.raises(ValueError, match="conv: 11 bits"):
        adc_saving(counted, 11, 8, laws, CYCLE)


# ---------------------------------------------------------------------------------------------- files, tables, command


def test_a_technology_is_read_and_told(tmp_path: Path) -> None:
    shipped_one = Technology.load("horowitz-45nm")
    assert shipped_one.source
    assert len(shipped_one.adc) >= 2
    assert Technology.model_validate(shipped_one.model_dump(mode="json")) == shipped_one
    path = tmp_path / "own.yaml"
    path.write_text("name: own\ncycle: 10 parsecs\nadc: [{kind: murmann, level: best}]\n")
    with pytest.raises(ValueError, match=r"cycle: .*'parsecs'") as told:
        Technology.load(path)
    assert "adc.0.level" in str(told.value)


def test_what_a_technology_does_not_give_is_said() -> None:
    found = cost(on(macro()), X, technology())
    assert found.absent == ("driver", "array", "digital", "buffer")
    assert found.area is None
    assert Cost.model_validate_json(found.model_dump_json()) == found
    terms, work = cost_tables(found, "counted")
    assert "not counted: driver, array, digital, buffer" in str(terms.caption)
    assert [str(cell) for cell in work.columns[0].cells] == ["conv", "head", "fc"]


def test_what_latency_and_area_leave_out_is_said_beside_them() -> None:
    beside = attach(on(macro()), Trim(), ["fc"])
    found = cost(beside, X, technology(areas=Areas(cell=1e-12, converter=1e-10)))
    off = "latency of digital layers, latency of side paths, area of all but arrays, converters and drivers"
    assert ", ".join(found.uncounted) == off
    assert f"TOPS/mm² · not counted: {off}" in str(cost_tables(found, "counted")[1].caption)
    assert cost(on(macro(), skip=()), X, technology()).uncounted == ()


def test_the_verb_and_the_package_are_one() -> None:
    found = bl.cost(on(macro()), X)
    assert isinstance(found, Cost)
    macros = {name: layer.design for name, layer in layers(on(macro())).items()}
    assert price(found.layers, macros, found.technology) == found


def test_the_command_prints_the_cost(tmp_path: Path) -> None:
    path = tmp_path / "technology.yaml"
    path.write_text("{name: own, cycle: 10 ns, adc: [sar, walden]}")
    arguments = ["cost", "demo", "--technology", str(path)]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "TOPS/W" in shown.output
    assert "TOPS/W, network" in shown.output
    told = CliRunner().invoke(app, [*arguments, "--json"])
    (found,) = json.loads(told.stdout)
    assert [one["adc"] for one in found["estimates"]] == [law.title for law in (Sar(), Walden())]
    assert all(one["network_tops_per_watt"] > 0 for one in found["estimates"])
