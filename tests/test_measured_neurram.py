"""NeuRRAM's column calibration: the file, a die's own converters, and the preset's figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bitline import presets
from bitline.converters import Adc
from bitline.macro import Chip, Dense, Macro, Reads, Site, causes, describe, mac, nominal, program, without
from bitline.macro.neurram import Calibration, read_calibration
from contracts import converters_of, integers


@pytest.fixture(scope="module")
def chip(data_dir: Path) -> Calibration:
    return read_calibration(data_dir / "measured" / "neurram" / "calibrate_forward_0.npz")


def small() -> dict[str, np.ndarray]:
    """One core, one pass, two voltages, three columns, the last one not read."""
    slope = np.array([[[[2.0, -2.0, 0.0], [3.0, -1.0, 0.0]]]])
    return {
        "slope": slope,
        "intercept": np.array([[[[1.0, -3.0, 0.0], [5.0, 5.0, 0.0]]]]),
        "errors": np.array([[[[3.0, 4.0, 0.0], [1.0, 1.0, 0.0]]]]),
        "vpos_list": np.array([0.7, 0.8]),
    }


def test_the_preset_holds_the_measured_figures(chip: Calibration) -> None:
    macro = presets.load("neurram-core")
    adc = macro.converter
    assert adc is not None
    assert chip.balanced() == pytest.approx(0.76)
    figures = (adc.gain_sigma, adc.offset_sigma)
    assert figures == pytest.approx(chip.summary(0.76), rel=5e-3)
    assert int(chip.read[:, 0, 0].sum()) == 1588
    assert chip.slope.shape == (8, 2, 21, 200)


def test_a_line_a_column(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", **small())
    chip = read_calibration(tmp_path / "c.npz")
    gain, offset, error = chip.lines(0.7, 0, 0)
    assert gain.tolist() == [1.0, 1.0]
    assert offset.tolist() == [1.0, 3.0]  # the sign of the weights taken out
    assert error.tolist() == [3.0, 4.0]
    assert chip.converter(0.7, 0, 0).noise is None
    assert chip.converter(0.7, 0, 0, errors="square").noise == pytest.approx(3.5**0.5)
    assert chip.converter(0.7, 0, 0, errors="rms").noise == pytest.approx(12.5**0.5)
    adc = chip.converter(0.8, 0, 0, errors="rms")
    assert adc == Adc(bits=8, gain_about="zero", gains=(1.5, 0.5), offsets=(5.0, -5.0), noise=1.0)
    assert chip.balanced() == 0.7
    for at, told in (
        (0.75, "0.75 V was not measured; there are 0.7, 0.8"),
        (0.7, "core 3, pass 0: there are cores 0 … 0"),
    ):
        with pytest.raises(ValueError, match=told):
            chip.lines(at, 3 if at == 0.7 else 0, 0)


def test_columns_are_this_dies_own(chip: Calibration) -> None:
    """Every die has the measured columns, and reads of a column have its line."""
    adc = chip.converter(0.76, 1, 0, errors="rms")
    columns = len(adc.gains or ())
    design = presets.load("neurram-core").dump() | {"columns": 2 * columns, "inputs": {"kind": "unsigned", "bits": 1}}
    macro = Macro.model_validate(
        design | {"converter": {**adc.model_dump(), "range": {"kind": "fixed", "low": -128, "high": 127}}}
    )
    assert Macro.model_validate(macro.dump()) == macro
    w = integers(macro.weights, (columns, 12), 1)
    column = program(w, macro, Chip(0, 1), Site("layer"))
    other = program(w, macro, Chip(0, 2), Site("layer"))
    assert column.code is not None
    assert other.code is not None
    assert torch.equal(column.code.gain, other.code.gain)
    assert column.code.gain.flatten().tolist() == pytest.approx(adc.gains)
    assert column.code.offset.flatten().tolist() == pytest.approx(adc.offsets)
    x = integers(macro.inputs, (4000, 1, 12), 2)
    y = mac(
        x, column, Dense(), Reads(0, Chip(0, 1), 0, torch.arange(4000)).keys("layer"), converters_of(macro)
    ).double()
    wanted = x.double() @ w.double().t()
    inside = wanted.abs().amax((0, 1)) * max(adc.gains) < 60  # clear of the ends, noise included
    read, sums = y[:, 0, inside], wanted[:, 0, inside]
    slope = ((read - read.mean(0)) * (sums - sums.mean(0))).sum(0) / (sums - sums.mean(0)).square().sum(0)
    offset = read.mean(0) - slope * sums.mean(0)
    left = (read - offset - slope * sums).std()
    gains, offsets = (torch.tensor(v, dtype=torch.float64)[inside] for v in (adc.gains, adc.offsets))
    assert int(inside.sum()) > 20
    assert float(torch.corrcoef(torch.stack([slope, gains]))[0, 1]) > 0.95
    assert float((offset - offsets).mean()) == pytest.approx(0, abs=0.2)
    assert float((offset - offsets).std()) < 1.0  # 0.25 codes of it from counting
    assert float(left) == pytest.approx(adc.noise, rel=0.05)


def test_own_converters_are_a_cause_of_error() -> None:
    macro = Macro.model_validate(presets.load("neurram-core").dump())
    adc = Adc(bits=8, gains=(0.9, 1.1), offsets=(1.0, 2.0), range=macro.converter.range)
    own = macro.model_copy(update={"converter": adc})
    assert "variation" in causes(own)
    assert without(own, "variation").converter == Adc(bits=8, range=adc.range) == nominal(own).converter
    assert ("converters of this die", "gain 0.9 … 1.1, offset 1 … 2") in describe(own)
    for wrong, told in (
        ({"gains": (1.0,), "gain_sigma": 0.1}, "converter.gains tell this die's converters, gain_sigma draws others"),
        ({"offsets": (1.0,), "offset_sigma": 0.1}, "converter.offsets tell this die's"),
        ({"gains": (1.0, -1.0)}, "converter.gains must be above 0, not -1"),
    ):
        with pytest.raises(ValidationError, match=told):
            Adc(bits=8, **wrong)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"slope": None}, r"c\.npz is no calibration .*slope is missing"),
        (
            {"errors": np.zeros((1, 1, 2, 4))},
            r"c\.npz: errors has the shape \(1, 1, 2, 4\) .* accepted is \(cores, passes",
        ),
        ({"vpos_list": np.zeros(3)}, r"for \(3,\) voltages; accepted is"),
        ({"intercept": np.full((1, 1, 2, 3), np.nan)}, r"intercept\[0, 0, 0, 0\] = nan is not a finite number"),
        ({"errors": np.full((1, 1, 2, 3), -1.0)}, "errors down to -1 codes; accepted are 0 or more"),
        ({"slope": np.zeros((1, 1, 2, 3))}, "a core without any column read"),
    ],
)
def test_bad_files(change: dict[str, np.ndarray | None], told: str, tmp_path: Path) -> None:
    arrays = {name: array for name, array in (small() | change).items() if array is not None}
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(ValueError, match=told):
        read_calibration(tmp_path / "c.npz")
    (tmp_path / "text.npz").write_text("no")
    with pytest.raises(ValueError, match=r"text\.npz is no calibration"):
        read_calibration(tmp_path / "text.npz")
    with pytest.raises(ValueError, match=r"none\.npz is no calibration"):
        read_calibration(tmp_path / "none.npz")
