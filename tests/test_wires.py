"""Wires in a macro: physical arrays solved at programming, read by the ordinary plans, followed in training."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import nn
from typer.testing import CliRunner

from bitline.circuits.crossbar import Wires, solve
from bitline.cli import app
from bitline.converters import Adc
from bitline.devices import Cell, GaussianCell, PowerLawDrift
from bitline.encode import (
    BinaryWeight,
    DifferentialWeight,
    OffsetWeight,
    TwosComplementWeight,
    UnsignedInput,
    UnsignedWeight,
)
from bitline.macro import Chip, Macro, Site, age, causes, choose, ideal, nominal, program, without
from bitline.macro.describe import describe
from bitline.macro.export import array_netlist, filled, row_volts
from bitline.macro.placement import Reload
from bitline.macro.wired import Arrays, linearised
from bitline.nn import calibrate, convert, layers, on_chip
from bitline.nn.wiring import Wiring
from contracts import CHIP, GROUPED, INPUTS_K, STORED, base, inputs_of, integers, programmed, read, weights_of
from test_experiment import config

RESISTANCES = Wires(word_line=4.0, bit_line=3.0, driver=150.0, sense=80.0)
CELL = Cell(g_min=2e-6, g_max=40e-6)
PAIRS = DifferentialWeight(bits=4, cell_bits=3)


def macro(**changes: Any) -> Macro:
    return base("wired", **({"weights": PAIRS, "cell": CELL, "wires": RESISTANCES} | changes))


def test_by_hand() -> None:
    """The layer's arrays laid out cell by cell, solved, and put back: two tiles and a ragged one, with row groups."""
    m = macro(columns=8)  # four outputs an array: two blocks, the second half empty
    w = weights_of(m)
    column = programmed(m, w=w)
    level = (CELL.g_max - CELL.g_min) / 7
    expected = torch.zeros(6, INPUTS_K, dtype=torch.float64)
    for tile, start in enumerate(range(0, INPUTS_K, 24)):
        for block, first in enumerate((0, 4)):
            g = torch.full((24, 8), CELL.g_min, dtype=torch.float64)
            for k in range(start, min(start + 24, INPUTS_K)):
                for n in range(first, min(first + 4, 6)):
                    value = float(w[n, k])
                    g[k - start, 2 * (n - first)] += max(value, 0.0) * level
                    g[k - start, 2 * (n - first) + 1] += max(-value, 0.0) * level
            assert torch.allclose(Arrays(m, column.layout).conductances(column.held)[2 * tile + block], g, rtol=1e-12)
            matrix = solve(g, RESISTANCES) / level
            for k in range(start, min(start + 24, INPUTS_K)):
                for n in range(first, min(first + 4, 6)):
                    expected[n, k] = matrix[k - start, 2 * (n - first)] - matrix[k - start, 2 * (n - first) + 1]
    assert column.unit < 2e-3
    torch.testing.assert_close(column.weight.double(), expected, rtol=0, atol=1.01 * column.unit)
    assert (expected - w.double()).abs().max() > 20 * column.unit


@pytest.mark.parametrize("scheme", STORED, ids=lambda s: f"{s.kind}{'-digital' if 'digital' in repr(s) else ''}")
@pytest.mark.parametrize("geometry", [None, GROUPED], ids=["dense", "grouped"])
def test_every_scheme_and_grouped_layers(scheme, geometry) -> None:
    """Without resistance, wires are not there; with it, every column of the array counts."""
    options = {} if geometry is None else {"geometry": geometry}
    plain, straight, wired = (
        programmed(macro(weights=scheme, wires=wires), **options) for wires in (None, Wires(), RESISTANCES)
    )
    there = straight.cells != 0  # rows that do not exist hold nothing
    assert torch.equal(straight.cells[there], plain.cells[there])
    assert torch.equal(straight.weight, plain.weight)
    shift = (wired.weight - plain.weight).abs()
    assert shift.max() > 0.01
    assert bool((wired.cells <= straight.cells * straight.unit / wired.unit + 1).all())  # wires only take away


def test_wires_meet_the_cells_errors_and_the_chip() -> None:
    m = macro(cell=CELL.model_copy(update={"errors": (GaussianCell(sigma=0.05),)}))
    one, other, again = (programmed(m, chip=Chip(3, n)) for n in (0, 1, 0))
    assert torch.equal(one.cells, again.cells)
    assert not torch.equal(one.cells, other.cells)
    assert (one.held - programmed(m.model_copy(update={"wires": None}), chip=Chip(3, 0)).cells).abs().max() > 0


def test_layers_do_not_see_each_other() -> None:
    """Shared silicon is written for one layer after the other; the draws are shared, the wires' currents are not."""
    m = macro(placement=Reload(arrays=2))
    w = weights_of(m)
    first, moved = (program(w, m, CHIP, Site("a", start, 2)) for start in (0, 1))
    assert torch.equal(first.cells, moved.cells)


@pytest.mark.parametrize("changes", [{}, {"weights": OffsetWeight(bits=4, cell_bits=2)}, {"active_rows": 24}])
def test_fused_is_reference_bit_for_bit(changes) -> None:
    m = macro(converter=Adc(bits=6, noise=0.3), inputs=UnsignedInput(bits=4, digit_bits=1), **changes)
    assert choose(m).name == "fused"
    for geometry in ({}, {"geometry": GROUPED}):
        assert torch.equal(read(m, plan="fused", **geometry), read(m, plan="reference", **geometry))


def test_aged_cells_are_solved_again() -> None:
    m = macro(cell=CELL.model_copy(update={"drift": PowerLawDrift(nu=0.05)}))
    column = programmed(m)
    later = age(column, 2e4)
    factor = 1000**-0.05
    expected = solve(Arrays(m, column.layout).conductances(column.held * factor), RESISTANCES)
    levels = Arrays(m, column.layout).levels(expected)
    torch.testing.assert_close(later.cells.double() * later.unit, levels, rtol=0, atol=1.01 * later.unit)
    ratio = later.cells.sum() * later.unit / (column.cells.sum() * column.unit)
    assert ratio > factor  # less current, less drop


# ----------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize(
    "scheme",
    [PAIRS, DifferentialWeight(bits=4, cell_bits=1), DifferentialWeight(bits=4, cell_bits=2, subtract="digital"),
     OffsetWeight(bits=4, cell_bits=2), TwosComplementWeight(bits=4), UnsignedWeight(bits=4), BinaryWeight()],
    ids=lambda s: f"{s.kind}-{s.cell_bits}",
)  # fmt: skip
def test_slopes_of_digits_add_up_to_the_weight(scheme) -> None:
    w = integers(scheme, (200,), 4)
    slopes = scheme.slopes(w)
    assert slopes.shape == scheme.levels(w).shape
    total = sum(r * s * slopes[c, leg] for c, r in enumerate(scheme.radix) for leg, s in enumerate(scheme.signs))
    torch.testing.assert_close(total, torch.ones(200))


def test_gradient_is_that_of_the_solve() -> None:
    """Of weights in one cell each, against differences of the exact solve."""
    m = macro(rows=10, active_rows=10, columns=12, weights=UnsignedWeight(bits=4, cell_bits=4))
    w = integers(m.weights, (5, 17), 3).requires_grad_()
    up = torch.randn(5, 17, generator=torch.Generator().manual_seed(0))
    column = program(w, m, CHIP, Site("a"))
    (found,) = torch.autograd.grad(column.weight, w, up)
    arrays, held = Arrays(m, column.layout), column.held

    def effective(levels: torch.Tensor) -> torch.Tensor:
        solved = arrays.levels(solve(arrays.conductances(levels), RESISTANCES))
        return (column.layout.gather(solved[:, :, :, 0, 0]) * up).sum()

    for n, k in ((0, 0), (3, 9), (4, 16), (2, 12)):
        one = torch.zeros(5, 17)
        one[n, k] = 1e-3
        step = column.layout.scatter(one[None, None]).double()
        slope = (effective(held + step) - effective(held - step)) / 2e-3
        torch.testing.assert_close(found[n, k].double(), slope, rtol=1e-4, atol=1e-6)
    assert (found - up).abs().max() > 0.02  # not the identity


def test_between_solves_arrays_are_followed_to_first_order() -> None:
    m = macro()
    w = weights_of(m)
    around = linearised(w, m, m.layout(INPUTS_K, 6))
    exact = program(w, m, CHIP, Site("a"))
    near = program(w, m, CHIP, Site("a"), around=around)
    torch.testing.assert_close(near.cells, exact.cells, rtol=0, atol=1.0)  # the last bit of fixed point
    moved = w.clone()
    moved[::2, ::3] = (moved[::2, ::3] + 1).clamp(max=7)
    exact = program(moved, m, CHIP, Site("a"))
    near = program(moved, m, CHIP, Site("a"), around=around)
    plain = program(moved, macro(wires=None), CHIP, Site("a"))
    error, drop = (exact.weight - near.weight).abs().max(), (exact.weight - plain.weight).abs().max()
    assert error < 0.03 * drop
    v = moved.clone().requires_grad_()
    up = torch.randn(v.shape, generator=torch.Generator().manual_seed(0))
    grads = [torch.autograd.grad(program(v, m, CHIP, Site("a"), around=a).weight, v, up)[0] for a in (around, None)]
    torch.testing.assert_close(grads[0], grads[1], rtol=0.02, atol=0.02)


def network(m: Macro) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 4))
    model = convert(net, m)
    return calibrate(model, [torch.rand(8, 3, 6, 6)])


def trained(model: nn.Module, steps: int, start: int = 0) -> list[torch.Tensor]:
    """Weights after some steps, each on a fresh chip."""
    optimizer = torch.optim.SGD([p for n, p in model.named_parameters() if n.endswith("weight")], lr=0.05)
    model.train()
    for step in range(start, start + steps):
        on_chip(model, Chip(1, step))
        x = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def test_training_solves_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    import bitline.nn.wiring as wiring

    solved = []
    monkeypatch.setattr(wiring, "linearised", lambda *args: solved.append(0) or linearised(*args))
    m = macro(wires=RESISTANCES.model_copy(update={"refresh": 4}), converter=Adc(bits=8))
    model = network(m)
    assert len(layers(model)) == 2
    solved.clear()
    trained(model, 9)
    assert len(solved) == 2 * 3
    with torch.no_grad():
        model.eval()(torch.rand(2, 3, 6, 6))
    assert len(solved) == 2 * 3  # what is tested is solved exactly
    exact = network(macro(wires=RESISTANCES.model_copy(update={"refresh": 1}), converter=Adc(bits=8)))
    trained(exact, 2)
    assert len(solved) == 2 * 3


def test_a_run_goes_on_from_its_state() -> None:
    """Saved between two solves, the arrays are followed from where they were solved before."""
    m = macro(wires=RESISTANCES.model_copy(update={"refresh": 5}))
    whole = network(m)
    straight = trained(whole, 7)
    first = network(m)
    trained(first, 3)
    second = network(m)
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    for a, b in zip(trained(second, 4, start=3), straight, strict=True):
        assert torch.equal(a, b)


def test_wiring_of_another_device_or_type_is_solved_again() -> None:
    part, m = Wiring((6, INPUTS_K)), macro()
    layout = m.layout(INPUTS_K, 6)
    first = part.around(weights_of(m), m, layout)
    assert part.around(weights_of(m), m, layout) is first
    part.to(torch.float64)
    again = part.around(weights_of(m), m, layout)
    assert again is not first
    assert torch.equal(again.matrix, first.matrix)


# ------------------------------------------------------------------------------------------------------- configuration


def test_causes_and_variants() -> None:
    m = macro(converter=Adc(bits=6))
    assert "wires" in causes(m)
    assert "wires" not in causes(macro(wires=None))
    assert without(m, "wires") == m.model_copy(update={"wires": None})
    assert ideal(m).wires is None
    assert nominal(m).wires == RESISTANCES
    curve = without(m, "curve")
    assert curve.cell.pedestal(7) == 0
    level = (CELL.g_max - CELL.g_min) / 7
    assert Arrays(curve, curve.layout(1, 1)).siemens == pytest.approx(level)
    programmed(curve)


def test_corner_and_round_trip(tmp_path: Path) -> None:
    m = macro(corners={"hot": {"wires": {"word_line": "6 Ohm", "bit_line": 4.5}}})
    hot = m.at("hot").wires
    assert (hot.word_line, hot.bit_line, hot.driver) == (6.0, 4.5, 150.0)
    assert m.at("hot").fingerprint != m.fingerprint != macro(wires=None).fingerprint
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(m.dump()))
    assert Macro.load(tmp_path / "m.yaml") == m


def test_described() -> None:
    facts = dict(describe(macro()))
    assert facts["wires"] == ("word line 4 Ω, bit line 3 Ω a cell; driver 150 Ω, sense 80 Ω; rows driven from one side")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": None}, "give `weights`, cell.g_min and cell.g_max"),
        ({"cell": Cell()}, "give `weights`, cell.g_min and cell.g_max"),
        ({"cell": None, "variation": {"kind": "lognormal", "sigma": 0.1}}, "give `weights`, cell.g_min"),
        ({"wires": {"word_line": "2 S"}}, "10 kOhm"),
        ({"wires": {"word_lines": 2}}, "word_lines"),
        ({"wires": {"refresh": 0}}, "greater than or equal to 1"),
    ],
)
def test_what_wires_need(changes, message) -> None:
    with pytest.raises(ValidationError, match=message):
        macro(**changes)


def test_export_spice(tmp_path: Path) -> None:
    """The command's netlist, run in ngspice, gives the sums of the array's matrix."""
    import shutil

    m = macro(columns=10)
    file, out = tmp_path / "m.yaml", tmp_path / "tile.cir"
    file.write_text(yaml.safe_dump(m.dump()))
    result = CliRunner().invoke(app, ["export-spice", str(file), "--out", str(out), "--volts", "0.5", "--seed", "3"])
    assert result.exit_code == 0, result.output
    text = out.read_text()
    assert text.count("\nrcell") == 24 * 10
    assert text.count("print i(vsense") == 10
    for options, message in (["--array", "1"], "has no array 1"), (["--layer", "x"], "known: convert, data"):
        failed = CliRunner().invoke(app, ["export-spice", str(file), *options])
        assert failed.exit_code == 2
        assert message in failed.output + failed.stderr
    if shutil.which("ngspice") is None:
        pytest.skip("ngspice is not installed: the exported netlist is not run")
    run = subprocess.run(["ngspice", "-b", str(out)], capture_output=True, text=True, timeout=100, check=True)
    printed = [float(line.split("=")[1]) for line in run.stdout.splitlines() if line.startswith("i(vsense")]
    from bitline.macro.export import filled

    column = filled(m, 3)
    matrix = solve(Arrays(m, column.layout).conductances(column.held)[0], RESISTANCES)
    torch.testing.assert_close(torch.tensor(printed, dtype=torch.float64), 0.5 * matrix.sum(0), rtol=1e-9, atol=0)


def test_export_of_a_layer() -> None:
    """An experiment's layer, by name; the names there are where it is not."""
    file = Path(__file__).parents[1] / "src/bitline/experiment/demo.yaml"
    data = yaml.safe_load(file.read_text())
    wired = f"macro={yaml.safe_dump(macro(rows=32, columns=32).dump(), default_flow_style=True, width=10**6).strip()}"
    runner = CliRunner()
    missing = runner.invoke(app, ["export-spice", str(file), "--layer", "nowhere", "--set", wired])
    assert missing.exit_code == 2
    assert "there are:" in missing.output + missing.stderr
    assert data["macro"]
    name = (missing.output + missing.stderr).split("there are:")[1].split(",")[0].strip()
    result = runner.invoke(app, ["export-spice", str(file), "--layer", name, "--set", wired])
    assert result.exit_code == 0, result.output
    assert f"{name}, array 0" in result.output.splitlines()[0]


def test_export_of_a_trained_layer(tmp_path: Path) -> None:
    """The array holds what the method has trained, each row driven with a voltage of its own."""
    file = tmp_path / "tiny.yaml"
    m = macro(rows=32, columns=32, converter=Adc(bits=6))
    file.write_text(yaml.safe_dump(config(macro=m.dump())))
    args = ["export-spice", str(file), "--layer", "fc", "--folder", str(tmp_path)]
    volts = np.linspace(0.1, 0.7, 32)
    np.save(tmp_path / "v.npy", volts)
    (tmp_path / "v.csv").write_text("".join(f"{v!r}\n" for v in volts.tolist()))
    texts = []
    for options in ([], ["--method", "error_aware"], ["--method", "error_aware", "--volts", "v.csv"]):
        out = tmp_path / f"{len(texts)}.cir"
        options = [str(tmp_path / o) if o == "v.csv" else o for o in options]
        done = CliRunner().invoke(app, [*args, *options, "--out", str(out)])
        assert done.exit_code == 0, done.output + done.stderr
        texts.append(out.read_text().splitlines())
    cells = [[line for line in text if line.startswith("rcell")] for text in texts]
    assert cells[0] != cells[1] == cells[2]
    sources = [line.split() for line in texts[2] if line.startswith("vrow")]
    assert [float(line[-1]) for line in sources] == volts.tolist()
    assert row_volts(str(tmp_path / "v.npy")).tolist() == volts.tolist()


def test_row_voltages_that_cannot_be(tmp_path: Path) -> None:
    assert row_volts("200 mV") == 0.2
    np.save(tmp_path / "two.npy", np.ones((2, 2)))
    (tmp_path / "no.csv").write_text("0.1\nnan\n")
    (tmp_path / "word.csv").write_text("0.1\nhigh\n")
    for said, message in (
        ("1 A", r"'1 A' has the unit 'A'; expected volts, .*; or a \.csv or \.npy file of one a row"),
        (tmp_path / "two.npy", r"two\.npy holds float64 of shape \(2, 2\); expected volts, one a row"),
        (tmp_path / "no.csv", r"no\.csv, row 1: nan is not finite"),
        (tmp_path / "word.csv", r"word\.csv: could not convert string 'high'.*; expected volts, one a row"),
    ):
        with pytest.raises(ValueError, match=message):
            row_volts(str(said))
    m = macro(columns=10)
    with pytest.raises(ValueError, match="random weights: 2 row voltages for an array of 24 rows"):
        array_netlist(filled(m), volts=torch.ones(2))
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(m.dump()))
    alone = CliRunner().invoke(app, ["export-spice", str(tmp_path / "m.yaml"), "--method", "error_aware"])
    assert alone.exit_code == 2
    assert "--method error_aware trains the network of an experiment: give --layer too" in alone.output + alone.stderr


def test_reads_of_one_die_are_the_same_in_any_batch() -> None:
    m = macro(converter=Adc(bits=6))
    column, x = programmed(m), inputs_of(m, batch=6)
    whole = read(m, column=column, x=x)
    assert torch.equal(whole[2:4], read(m, column=column, x=x[2:4], samples=torch.arange(2, 4)))
