"""Measured cells: their moments, their place in macros, what is refused. No data are needed: tables are shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bitline import presets
from bitline.devices import Cell, Conductances, MeasuredCell, PowerLawDrift, join, shipped
from bitline.devices.conductances import NORMAL_SCORES, names
from bitline.macro import Chip, Macro, Site, age, causes, describe, program
from bitline.macro.chip import Effect
from contracts import EXACT, weights_of

N = 1_000_000
EFFECT = Effect(Chip(3, 1).stream("cell", "measured"), torch.arange(N))
STATES = [("rram-a", 0.0, 298.15), ("rram-a", 3e3, 295.0), ("rram-a", 5e3, 400.0), ("rram-a", 5e3, 533.15),
          ("rram-b", 0.0, 298.15), ("rram-b", 10.0, 298.15), ("rram-b", 1e4, 298.15)]  # fmt: skip


@pytest.mark.parametrize(("name", "seconds", "kelvin"), STATES)
def test_moments_are_those_of_the_closed_form(name: str, seconds: float, kelvin: float) -> None:
    """Within 1 % over a million draws, at levels measured and between them."""
    cell = MeasuredCell(table=name, seconds=seconds, kelvin=kelvin)
    for level, high in ((0, 7), (3, 7), (7, 7), (1, 1), (17, 31)):
        held = cell.apply(torch.full((N,), float(level), dtype=torch.float64), EFFECT, high)
        mean, sigma = (float(v) for v in cell.moments(torch.tensor(float(level), dtype=torch.float64), high))
        assert float(held.std()) == pytest.approx(sigma, rel=0.01)
        low, top = cell.span
        pedestal = high * low / (top - low)  # as conductance, from 0 S
        assert float(held.mean()) + pedestal == pytest.approx(mean + pedestal, rel=0.01)
        if level == 0:
            assert float(held.min()) >= -pedestal - 1e-9


def test_levels_between_measured_ones_lie_between() -> None:
    table = shipped("rram-b")
    cell = MeasuredCell(table="rram-b", g_min=table.low, g_max=table.high, seconds=100.0)
    fine = cell.quantiles(np.arange(63.0), 62)  # every other one was measured
    measured = table.at(100.0)
    assert np.allclose(fine[::2], measured, rtol=1e-9)
    assert np.allclose(fine[1::2], (measured[1:] + measured[:-1]) / 2, rtol=1e-9)


def test_ages_and_temperatures_in_between() -> None:
    table = shipped("rram-a")
    assert np.array_equal(table.at(1000.0), table.quantiles[table.seconds.index(1000.0)])
    middle = table.at(10.0**1.0)  # between 1 and 100 s, half way in log time
    assert np.allclose(middle, (table.at(1.0) + table.at(100.0)) / 2, rtol=1e-12)
    hot = table.bakes[3]
    assert np.allclose(table.at(5000.0, hot.kelvin), table.quantiles[len(table.seconds) + 3], rtol=1e-12)
    between = 2 / (1 / hot.kelvin + 1 / table.bakes[4].kelvin)  # half way in 1/T
    expected = (table.at(5000.0, hot.kelvin) + table.at(5000.0, table.bakes[4].kelvin)) / 2
    assert np.allclose(table.at(5000.0, between), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "seconds", "kelvin", "told"),
    [
        ("rram-a", 1e6, 298.15, r"1e\+06 s at 298.15 K was not measured; accepted at room temperature are 0 s "
                                r"\(as programmed\) and 0.01 … 100000 s"),
        ("rram-a", 1e-3, 298.15, "0.001 s at 298.15 K was not measured"),
        ("rram-a", 10.0, 373.15, "accepted are 298.15 … 533.15 K for 4493.81 … 7164.75 s, and room temperature"),
        ("rram-a", 5e3, 540.0, "5000 s at 540 K was not measured"),
        ("rram-a", 5e3, 250.0, "5000 s at 250 K was not measured"),
        ("rram-b", 1e5, 298.15, r"accepted at room temperature are 0 s \(as programmed\) and 0.01 … 10000 s"),
        ("rram-b", 100.0, 350.0, r"measured at room temperature only; accepted are room temperature \(288"),
    ],
)  # fmt: skip
def test_what_was_not_measured_is_refused(name: str, seconds: float, kelvin: float, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        MeasuredCell(table=name, seconds=seconds, kelvin=kelvin)
    with pytest.raises(ValueError, match=told):
        MeasuredCell(table=name).aged(seconds, kelvin)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"table": "rram-c"}, "no measured cells 'rram-c'; there are: rram-a, rram-b; or give a .parquet file"),
        ({"table": "rram-a@0123"}, "rram-a@0123 is another version of the measured cells rram-a"),
        ({"table": "none.parquet"}, "conductances none.parquet: "),
        ({"table": "rram-b", "g_max": "200 uS"}, "g_max = 200 µS; the levels of rram-b aim at 2 µS … 126 µS"),
        ({"table": "rram-b", "g_min": "0 S"}, "g_min = 0 S … g_max = 126 µS"),
        ({"table": "rram-b", "g_min": "50 uS", "g_max": "40 uS"}, "g_min = 50 µS … g_max = 40 µS"),
    ],
)
def test_bad_configurations(config: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        MeasuredCell.model_validate(config)


def test_a_cell_tells_its_conductances_once() -> None:
    with pytest.raises(
        ValidationError, match=r"g_min = 1 µS, g_max = 126 µS, but its measured cells aim at 2 µS … 126 µS"
    ):
        Cell(g_min=1e-6, g_max=126e-6, errors=(MeasuredCell(table="rram-b"),))
    with pytest.raises(ValidationError, match=r"measured cells hold what they drifted to: remove cell\.drift"):
        Cell(errors=(MeasuredCell(table="rram-b"),), drift=PowerLawDrift(nu=0.1))
    with pytest.raises(ValueError, match=r"measured cells hold the levels 0 … 7, not 7\.5"):
        MeasuredCell(table="rram-b").apply(torch.tensor([7.5], dtype=torch.float64), EFFECT, 7)


def test_configurations_come_back(tmp_path: Path) -> None:
    short = MeasuredCell(table="rram-a", seconds=10.0)
    written = short.model_dump(mode="json")
    assert written["table"] == f"rram-a@{shipped('rram-a').digest}"
    assert MeasuredCell.model_validate(written) == short
    own = MeasuredCell(table=EXACT)
    assert MeasuredCell.model_validate(own.model_dump(mode="json")) == own
    assert MeasuredCell.model_validate_json(own.model_dump_json()) == own
    EXACT.save(tmp_path / "own.parquet")
    assert Conductances.load(tmp_path / "own.parquet") == EXACT
    assert MeasuredCell(table=str(tmp_path / "own.parquet")) == own
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(ValueError, match=r"bad\.parquet holds no conductances"):
        Conductances.load(tmp_path / "bad.parquet")
    macro = presets.load("rram-b-128")
    assert Macro.model_validate(macro.dump()).fingerprint == macro.fingerprint
    assert macro.at("hour").fingerprint != macro.fingerprint


def test_shipped_tables_say_whose_they_are() -> None:
    assert names() == ["rram-a", "rram-b"]
    for name in names():
        table = shipped(name)
        assert "akashlevy/RRAM-Relaxation-Master-Model, MIT licence, Copyright (c) 2021 Akash Levy" in table.source
        assert (table.levels, table.quantiles.shape[2]) == (32, len(NORMAL_SCORES))
        macro = presets.load(f"{name}-128")
        assert ("measured cells", f"{name}: {table.source}") in describe(macro)


def test_bad_tables() -> None:
    whole = EXACT.model_dump()
    for change, told in (
        ({"seconds": (0.0, 1.0)}, "2 conditions .* but 1 of quantiles"),
        ({"quantiles": whole["quantiles"][0]}, "not of shape"),
        ({"quantiles": -np.array(whole["quantiles"])}, "finite and ≥ 0"),
        ({"quantiles": np.array(whole["quantiles"])[:, :, ::-1] * np.linspace(2, 1, 25)}, "level 0 fall"),
        ({"seconds": (-1.0,)}, "must rise, from 0 on"),
    ):
        with pytest.raises(ValidationError, match=told):
            Conductances.model_validate(whole | change)
    with pytest.raises(ValueError, match="exact has 4 levels from"):
        join("both", "", [shipped("rram-b"), EXACT.model_copy(update={"name": "exact"})])


def test_a_column_ages_as_its_cells_were_measured() -> None:
    macro = presets.load("rram-b-128")
    w = weights_of(macro)
    column = program(w, macro, Chip(0, 1), Site("layer"), n=2)
    later = age(column, 1e4, 298.15)
    assert later.seconds == 1e4
    direct = program(w, macro.model_copy(update={"cell": macro.cell.aged(1e4, 298.15)}), Chip(0, 1), Site("layer"), n=2)
    assert torch.equal(later.weight, direct.weight)
    assert not torch.equal(later.weight, column.weight)
    # the same draws: a cell keeps its rank, so that both ages go together
    together = torch.corrcoef(torch.stack([(later.weight - w).flatten(), (column.weight - w).flatten()]))[0, 1]
    assert together > 0.3
    with pytest.raises(ValueError, match="is 10000 s old already"):
        age(later, 2e4)
    with pytest.raises(ValueError, match="100000 s at 300 K was not measured"):
        age(column, 1e5)


def test_a_changed_table_is_another_one() -> None:
    """Also where the first one was compared before: both parts of the error are causes that explanations take out."""
    table = shipped("rram-a")
    assert table == shipped("rram-a")
    assert len({table.digest, table.centred().digest, table.typical().digest}) == 3
    assert set(causes(presets.load("rram-a-128"))) >= {"variation", "curve"}


def test_typical_and_centred_cells() -> None:
    cell = MeasuredCell(table="rram-a", seconds=5e3, kelvin=493.15)
    levels = torch.arange(8.0, dtype=torch.float64)
    mean, sigma = cell.moments(levels, 7)
    assert np.allclose(cell.typical().moments(levels, 7)[0], mean, atol=1e-4)
    assert np.allclose(cell.typical().moments(levels, 7)[1], 0, atol=1e-4)
    centred, spread = cell.centred().moments(levels, 7)
    assert (centred - levels).abs().max() < 1e-5 < 0.15 < (mean[3:] - levels[3:]).abs().max()
    assert np.allclose(spread[3:], sigma[3:], rtol=0.1)
