"""Presets: they load, say what they are, and hold the figures of the sources they quote."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bitline import presets
from bitline.converters import CalibratedRange, FixedRange
from bitline.devices import GaussianCell
from bitline.macro import Chip, Dense, Macro, Plan, Reads, Site, ideal, mac, program
from bitline.macro.curves import Compressive, Polynomial
from bitline.macro.kinds import CurveColumn, TableColumn
from contracts import converters_of, integers

NAMES = presets.names()
MEASURED = {"neurram-core"}  # errors beyond the cells', compared with their source in test_measured_neurram.py
TABLE = [name for name in NAMES if "Benchmarking_Data.csv" in presets.load(name).source]


def test_names_and_functions_agree() -> None:
    assert {"dnat-sram", "generic-8t-sram", "generic-rram-128"} < set(NAMES)
    assert presets.generic_8t_sram() == presets.load("generic-8t-sram")
    assert "generic_8t_sram" in dir(presets)
    with pytest.raises(
        ValueError, match=r"no preset 'generic-8t-sran'; did you mean generic-8t-sram\? there are: dct-"
    ):
        presets.load("generic-8t-sran")
    with pytest.raises(AttributeError, match=r"no preset 'generic-9t-sram'; did you mean generic-8t-sram\?"):
        presets.generic_9t_sram  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_loads_and_comes_back(name: str) -> None:
    macro = presets.load(name)
    assert macro.name == name
    assert macro.source
    assert Macro.model_validate(macro.dump()) == macro
    assert Macro.model_validate(macro.dump()).fingerprint == macro.fingerprint
    text = presets.find(name).read_text()
    bare = [line for line in text.splitlines() if re.match(r"\s*(- )?\w+: [-\d\[]", line) and "#" not in line]
    assert not bare, f"figures without a comment: {bare}"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_published_is_called_generic(name: str) -> None:
    macro = presets.load(name)
    if name.startswith("generic-"):
        assert macro.source.startswith("Generic; no chip.")
    else:
        assert "absent" in macro.source
    if not name.startswith("generic-") and name not in MEASURED:
        remedy = {"cell", "compensation"}
        assert ideal(macro).model_dump(exclude=remedy) == macro.model_dump(exclude=remedy)  # no error is made up


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plan", ["folded", "reference"])
def test_the_ideal_array_is_exact(name: str, plan: str) -> None:
    macro = ideal(presets.load(name)).model_copy(update={"converter": None})
    k = macro.rows + macro.on // 2 + 1  # a second tile, ragged
    x, w = integers(macro.inputs, (3, 2, k), 1), integers(macro.weights, (5, k), 2)
    column = program(w, macro, Chip(0, 0), Site("layer", 0, getattr(macro.placement, "arrays", None)))
    y = mac(x, column, Dense(), plan=Plan(plan))
    assert torch.equal(y.double(), x.double() @ w.double().t())


@pytest.mark.parametrize("name", ["generic-skewed-sram", "generic-pedestal-sram"])
def test_a_skewed_table_is_its_law(name: str) -> None:
    script = Path(__file__).parents[1] / "examples" / "skewed_table.py"
    made = subprocess.run([sys.executable, script, name], capture_output=True, text=True, encoding="utf-8", check=True)
    assert made.stdout == presets.find(name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_reads_a_layer_at_every_corner(name: str) -> None:
    macro = presets.load(name)
    for each in (macro, *(macro.at(corner) for corner in macro.corners)):
        x, w = integers(each.inputs, (4, 1, 70), 1), integers(each.weights, (32, 70), 2)
        if isinstance(each.column, TableColumn) and each.column.codes * each.column.step < each.full_scale:
            x = (x * each.column.codes * each.column.step / each.full_scale).round()  # sums that the table spans
        column = program(w, each, Chip(0, 1), Site("layer", 0, getattr(each.placement, "arrays", None)))
        y = mac(x, column, Dense(), Reads(0, column.chip, 0, torch.arange(4)).keys("layer"), converters_of(each))
        wanted = x.double() @ w.double().t()
        assert y.isfinite().all()
        together = torch.corrcoef(torch.stack([y.double().flatten(), wanted.flatten()]))[0, 1]
        assert together > 0.25  # four bits over full scale are few


def test_the_dnat_macro_is_the_published_one() -> None:
    macro = presets.dnat_sram()  # 64 DACs of 7 bits, 16 × 16 columns of 64 cells, 16 ADCs of 7 bits, 1-bit weights
    assert (macro.rows, macro.on, macro.columns, macro.columns // macro.columns_per_adc) == (64, 64, 16 * 16, 16)
    assert macro.inputs is not None
    assert (macro.inputs.bits, len(macro.inputs.radix)) == (7, 1)
    assert macro.weights is not None
    assert (macro.weights.bits, macro.level_high) == (1, 1)
    assert macro.converter is not None
    assert macro.converter.bits == 7
    assert macro.converter.range.start(macro.converter, *macro.value_range) == (0, 64)
    assert macro.full_scale == 8128


def test_the_8t_macro_is_the_one_the_benchmarks_use() -> None:
    macro = presets.generic_8t_sram()
    column = macro.column
    assert isinstance(column, CurveColumn)
    assert isinstance(column.mean, Compressive)
    assert column.mean.dead_zone == 2.5  # fixed before anything was trained for it: the demo compares on it
    assert (column.mean.compression, column.mean.width) == (0.4, 6.0)
    assert isinstance(column.sigma, Polynomial)
    u = torch.tensor([0.0, 32.0, 64.0])
    assert column.sigma.at(u, macro.full_scale).tolist() == pytest.approx([0.045, 0.12, 0.195])
    assert (column.gain_sigma, column.offset_sigma) == (0.003, 0.02)
    assert macro.converter is not None
    assert macro.converter.range == FixedRange(low=0, high=63)
    assert set(macro.corners) == {"hot", "cold", "low-supply"}
    assert macro.volts_per_count == pytest.approx(8e-3)


def test_the_rram_macro() -> None:
    macro = presets.generic_rram_128()
    assert macro.cell is not None
    assert (macro.cell.g_min, macro.cell.g_max) == pytest.approx((1e-6, 100e-6))
    assert isinstance(macro.cell.errors[0], GaussianCell)
    assert (macro.rows, macro.columns, macro.level_high, macro.leg_signs) == (128, 128, 7, (1, -1))
    assert macro.converter is not None
    assert isinstance(macro.converter.range, CalibratedRange)


@pytest.mark.parametrize("name", TABLE)
def test_figures_are_those_of_the_published_row(name: str, data_dir: Path) -> None:
    macro = presets.load(name)
    source = " ".join(macro.source.split())
    index = re.search(r"Index (\d+)", source)
    assert index is not None
    with (data_dir / "measured" / "Benchmarking_Data.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["Index"] == index[1]]
    assert macro.inputs is not None
    assert macro.weights is not None
    assert macro.converter is not None
    found = {
        "N_row": macro.rows,
        "R": macro.rows,
        "R_C": macro.on,
        "N_col": macro.columns,
        "C": macro.columns_per_adc,
        "B_x": macro.inputs.digit_bits,
        "alpha": macro.inputs.bits // macro.inputs.digit_bits,
        "B_w": macro.weights.bits,
        "B_ADC": macro.converter.bits,
    }
    matching = [row for row in rows if all(float(row[key]) == value for key, value in found.items())]
    assert matching, f"{name}: {found} is not in {rows}"
    row = next(row for row in matching if f"{row['Supply V(V)']} V" in source)
    for quoted in (" ".join(row["Paper Title"].split()), row["Authors"].removesuffix(" et al."), f" {row['Year']}"):
        assert quoted in source
    assert f"{row['Tech (nm)']} nm" in source
    if row["N_core"] != "1" and hasattr(macro.placement, "arrays"):
        assert macro.placement.arrays == int(row["N_core"])
