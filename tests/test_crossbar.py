"""Arrays with wires, against ngspice, against sparse LU of all their nodes, and against themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from pydantic import ValidationError
from scipy.sparse.linalg import splu

from bitline.circuits import crossbar
from bitline.circuits.crossbar import (
    Gated,
    GatedArray,
    Linearised,
    NonlinearArray,
    NotConverged,
    Ohmic,
    Sinh,
    SinhArray,
    Wires,
    array_samples,
    netlist,
    operating_point,
    solve,
)
from bitline.macro.nonlinear import lower_array

USUAL = Wires(word_line=1.3, bit_line=0.7, driver=100.0, sense=50.0)
WIRES = [
    USUAL,
    USUAL.model_copy(update={"drive": "both_sides"}),
    Wires(word_line=1.0, bit_line=1.0),
    Wires(bit_line=3.0),
    Wires(word_line=2.0, drive="both_sides"),
    Wires(word_line=2.0, sense=10.0),
    Wires(driver=300.0, drive="both_sides"),
    Wires(driver=300.0, sense=200.0),
    Wires(word_line=1e-7, bit_line=1e-7, driver=1e-7),
    Wires(word_line=1e3, bit_line=2e3, driver=1e4, sense=1e4),
]
any_wires = pytest.mark.parametrize("wires", WIRES, ids=lambda w: f"{w.word_line:g}-{w.bit_line:g}-{w.drive}")


def cells(*shape: int, seed: int = 0) -> torch.Tensor:
    """Conductances from 1 to 100 µS, some of them 0."""
    generator = torch.Generator().manual_seed(seed)
    g = 1e-6 + 99e-6 * torch.rand(*shape, generator=generator, dtype=torch.float64)
    return g * (torch.rand(*shape, generator=generator) > 0.05)


def nodal(g: torch.Tensor, wires: Wires) -> np.ndarray:
    """M by sparse LU of all nodes, none of the solver's own code; no resistance may be 0 (both lines have segments)."""
    rows, columns = g.shape
    word = np.arange(rows * columns).reshape(rows, columns)
    bit = word + rows * columns
    a, b, y = [word.ravel()], [bit.ravel()], [g.numpy().ravel()]
    for one, other, ohms in ((word[:, :-1], word[:, 1:], wires.word_line), (bit[:-1], bit[1:], wires.bit_line)):
        a, b, y = [*a, one.ravel()], [*b, other.ravel()], [*y, np.full(one.size, 1 / ohms)]
    i, j, v = (np.concatenate(x) for x in (a, b, y))
    diagonal = np.bincount(np.r_[i, j], np.r_[v, v], 2 * rows * columns)
    drive, sense = 1 / (wires.driver + wires.word_line), 1 / (wires.sense + wires.bit_line)
    source = np.zeros((2 * rows * columns, rows))
    ends = (0, -1) if wires.drive == "both_sides" else (0,)
    for end in ends:
        np.add.at(diagonal, word[:, end], drive)
        source[word[:, end], np.arange(rows)] += drive
    diagonal[bit[-1]] += sense
    nodes = np.arange(2 * rows * columns)
    matrix = sp.csc_matrix((np.r_[-v, -v, diagonal], (np.r_[i, j, nodes], np.r_[j, i, nodes])))
    return (splu(matrix).solve(source)[bit[-1]] * sense).T


def spice(text: str, folder: Path) -> np.ndarray:
    """Sensed currents that ngspice prints; skipped where there is no ngspice."""
    program = shutil.which("ngspice")
    if program is None:
        pytest.skip("ngspice is not installed: the solver is not held against it")
    file = folder / "array.cir"
    file.write_text(text)
    run = subprocess.run([program, "-b", str(file)], capture_output=True, text=True, timeout=300, check=False)
    found = [float(line.split("=")[1]) for line in run.stdout.splitlines() if line.startswith("i(vsense")]
    assert found, run.stdout + run.stderr
    return np.array(found)


# ------------------------------------------------------------------------------------------------ oracles from outside


@any_wires
def test_against_ngspice(wires: Wires, tmp_path: Path) -> None:
    g, v = cells(8, 8), torch.rand(8, dtype=torch.float64)
    found = spice(netlist(g, wires, v), tmp_path)
    assert len(found) == 8
    np.testing.assert_allclose((v @ solve(g, wires)).numpy(), found, rtol=1e-9)


@pytest.mark.parametrize("shape", [(8, 32), (33, 9), (1, 12), (12, 1), (64, 64), (64, 24)], ids=str)
def test_sizes_against_ngspice(shape: tuple[int, int], tmp_path: Path) -> None:
    g, v = cells(*shape), torch.rand(shape[0], dtype=torch.float64)
    found = spice(netlist(g, USUAL, v), tmp_path)
    np.testing.assert_allclose((v @ solve(g, USUAL)).numpy(), found, rtol=1e-9)


@any_wires
def test_cells_below_zero_against_ngspice(wires: Wires, tmp_path: Path) -> None:
    """An additive error makes them of cells that are off."""
    g, v = cells(8, 8), torch.rand(8, dtype=torch.float64)
    g[::3, ::2] = -0.3 * g[::3, ::2]
    text = netlist(g, wires, v)
    assert text.count("\ngcell") == 12
    np.testing.assert_allclose((v @ solve(g, wires)).numpy(), spice(text, tmp_path), rtol=1e-9)


@pytest.mark.parametrize("drive", ["one_side", "both_sides"])
@pytest.mark.parametrize("shape", [(256, 256), (100, 37), (19, 130)], ids=str)
def test_against_sparse_lu(shape: tuple[int, int], drive: str) -> None:
    wires = USUAL.model_copy(update={"drive": drive})
    g = cells(*shape)
    np.testing.assert_allclose(solve(g, wires).numpy(), nodal(g, wires), rtol=1e-10, atol=1e-22)


def test_gated_rows_against_ngspice(tmp_path: Path) -> None:
    """Transistors of ngspice's level 1, off, below and above saturation."""
    g, gate = cells(6, 5) + 1e-6, torch.tensor([1.2, 0.0, 0.7, 1.2, 0.0, 0.5], dtype=torch.float64)
    for read in (0.2, 1.5):
        sources = torch.full((6,), read, dtype=torch.float64)
        lines = netlist(g, USUAL, sources).splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith(".options"))
        for i, line in enumerate(lines):
            if line.startswith("rcell"):
                name, word, bit, ohms = line.split()
                row = name.removeprefix("rcell").split("_")[0]
                lines[i] = f"{name} {word} m{name} {ohms}\nm{name} m{name} gate{row} {bit} 0 gated L=1u W=1u"
        lines[at] = "\n".join(
            [f"vgate{r} gate{r} 0 dc {volts!r}" for r, volts in enumerate(gate.tolist())]
            + [".model gated nmos level=1 vto=0.4 kp=5e-4 gamma=0 lambda=0 phi=0.7 is=1e-30"]
            + [".options reltol=1e-9 abstol=1e-18 vntol=1e-12 gmin=1e-18"]
        )
        law = Gated(g[None], gate[None], threshold=0.4, beta=5e-4)
        point = operating_point(law, USUAL, sources[None], 5)
        np.testing.assert_allclose(point.current[0].numpy(), spice("\n".join(lines), tmp_path), rtol=1e-8)


def test_cells_of_a_sinh_law_against_ngspice(tmp_path: Path) -> None:
    g, sources = cells(7, 5) + 1e-6, torch.tensor([0.4, 0.0, 0.3, 0.4, 0.2, 0.0, 0.4], dtype=torch.float64)
    lines = netlist(g, USUAL, sources).splitlines()
    for i, line in enumerate(lines):
        if line.startswith("rcell"):
            name, word, bit, ohms = line.split()
            lines[i] = f"b{name} {word} {bit} i=0.15/({ohms})*sinh(v({word},{bit})/0.15)"
    at = next(i for i, line in enumerate(lines) if line.startswith(".options"))
    lines[at] = ".options reltol=1e-9 abstol=1e-18 vntol=1e-12 gmin=1e-18"
    point = operating_point(Sinh(g[None], 0.15), USUAL, sources[None], 5)
    np.testing.assert_allclose(point.current[0].numpy(), spice("\n".join(lines), tmp_path), rtol=1e-8)


# -------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("drive", ["one_side", "both_sides"])
def test_without_resistance_the_matrix_is_the_conductances(drive: str) -> None:
    g = cells(2, 19, 33)
    assert torch.equal(solve(g, Wires(drive=drive)), g)


@pytest.mark.parametrize("field", ["word_line", "bit_line", "driver", "sense"])
def test_no_resistance_is_the_limit_of_a_small_one(field: str) -> None:
    g = cells(24, 20)
    without = USUAL.model_copy(update={field: 0.0})
    near = USUAL.model_copy(update={field: 1e-9})
    torch.testing.assert_close(solve(g, near), solve(g, without), rtol=1e-8, atol=0)
    assert (solve(g, without) - solve(g, USUAL)).abs().max() > 1e-8


def test_one_cell_is_ohms_law() -> None:
    g = torch.tensor([[1e-3]], dtype=torch.float64)
    ohms = 1e3 + USUAL.word_line + USUAL.bit_line + USUAL.driver + USUAL.sense
    torch.testing.assert_close(solve(g, USUAL)[0, 0].item(), 1 / ohms, rtol=1e-14, atol=0)


def test_reciprocity() -> None:
    """Rows and columns, drivers and senses change places: the transposed array has the transposed matrix."""
    g = cells(21, 40)
    turned = Wires(word_line=USUAL.bit_line, bit_line=USUAL.word_line, driver=USUAL.sense, sense=USUAL.driver)
    torch.testing.assert_close(solve(g.flip(0).t().flip(0), turned).flip(0).t().flip(0), solve(g, USUAL),
                               rtol=1e-12, atol=0)  # fmt: skip


def test_currents_are_conserved() -> None:
    """What is sensed is what the cells carry; both sides lose less than one."""
    g = cells(30, 26)
    one, both = (solve(g, USUAL.model_copy(update={"drive": drive})) for drive in ("one_side", "both_sides"))
    point = operating_point(Ohmic(g[None]), USUAL, torch.ones(1, 30, dtype=torch.float64), 26)
    carried = (g * (point.word - point.bit)[0]).sum(0)
    torch.testing.assert_close(one.sum(0), carried, rtol=1e-12, atol=0)
    assert (one.sum(0) < both.sum(0)).all()
    assert (both.sum(0) < g.sum(0)).all()


def test_batches_and_shapes() -> None:
    """A tile does not know its batch; leading axes stay; 32-bit conductances are solved in 64 bits."""
    g = cells(2, 3, 40, 17)
    whole = solve(g, USUAL)
    assert whole.shape == g.shape
    assert torch.equal(whole[1, 2], solve(g[1, 2], USUAL))
    assert solve(g.float(), USUAL).dtype == torch.float64
    assert solve(g[:, :0], USUAL).shape == (2, 0, 40, 17)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    g = cells(3, 50, 61)
    whole, around = solve(g, USUAL), Linearised.of(g, USUAL)
    monkeypatch.setattr(crossbar.network, "CHUNK", 256)
    torch.testing.assert_close(solve(g, USUAL), whole, rtol=1e-13, atol=0)
    again = Linearised.of(g, USUAL)
    torch.testing.assert_close(again.driven, around.driven, rtol=1e-11, atol=1e-14)


# ----------------------------------------------------------------------------------------------------------- gradients


SCALED = Wires(word_line=0.05, bit_line=0.03, driver=0.2, sense=0.1)  # ohms for cells of siemens


@pytest.mark.parametrize("wires", [SCALED, SCALED.model_copy(update={"drive": "both_sides"}), Wires(bit_line=0.05)])
def test_gradcheck(wires: Wires) -> None:
    g = torch.rand(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: solve(x, wires), g)
    around = Linearised.of(torch.rand(2, 5, 6, dtype=torch.float64), wires)
    assert torch.autograd.gradcheck(around.at, g)


def test_gradient_of_a_large_array_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    g, up = cells(1, 40, 30).requires_grad_(), torch.randn(1, 40, 30, dtype=torch.float64)
    (whole,) = torch.autograd.grad(solve(g, USUAL), g, up)
    monkeypatch.setitem(solve.__globals__, "SETS", 1 << 13)
    (parts,) = torch.autograd.grad(solve(g, USUAL), g, up)
    torch.testing.assert_close(parts, whole, rtol=1e-11, atol=1e-14)


def test_first_order_is_of_second_order() -> None:
    """A tenth of the change leaves a hundredth of the error, and the same gradient at the array that was solved."""
    g = cells(2, 48, 40)
    change = 2e-5 * torch.randn(g.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    around = Linearised.of(g, USUAL)
    moved = [g + size * change for size in (1.0, 0.1, 0.01)]
    errors = [float((around.at(near) - solve(near, USUAL)).abs().max()) for near in moved]
    assert 80 < errors[0] / errors[1] < 120
    assert 80 < errors[1] / errors[2] < 120
    assert errors[0] < 0.1 * float((solve(g + change, USUAL) - around.matrix - change).abs().max())
    x, up = g.clone().requires_grad_(), torch.randn(g.shape, dtype=torch.float64)
    for a, b in zip(*(torch.autograd.grad(f(x), x, up) for f in (around.at, lambda y: solve(y, USUAL))), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_linearised_is_not_changed_by_its_input() -> None:
    g = cells(1, 9, 9)
    around = Linearised.of(g, USUAL)
    g += 1e-5
    assert not torch.equal(around.conductances, g)
    single = Linearised.of(around.conductances, USUAL, torch.float32)
    torch.testing.assert_close(single.at(g), around.at(g), rtol=1e-6, atol=0)


# -------------------------------------------------------------------------------------------------- gates and nonlinear


def test_newton_is_the_matrix_for_ohmic_cells() -> None:
    g, v = cells(3, 17, 23), torch.rand(3, 17, dtype=torch.float64)
    for wires in WIRES:
        point = operating_point(Ohmic(g), wires, v, 23)
        assert point.iterations == 1
        torch.testing.assert_close(point.current, torch.einsum("tr,trc->tc", v, solve(g, wires)), rtol=1e-10, atol=0)


def test_sinh_cells_obey_their_law_and_kirchhoff() -> None:
    g, v = cells(2, 20, 15) + 1e-6, torch.rand(2, 20, dtype=torch.float64)
    point = operating_point(Sinh(g, 0.1), USUAL, v, 15)
    assert 1 < point.iterations < 25
    assert point.residual <= 1e-11
    current = g * 0.1 * torch.sinh((point.word - point.bit) / 0.1)
    torch.testing.assert_close(current.sum(1), point.current, rtol=1e-9, atol=0)
    along = (point.word[:, :, :-1] - point.word[:, :, 1:]) / USUAL.word_line
    beyond = current.flip(2).cumsum(2).flip(2)[:, :, 1:]
    torch.testing.assert_close(along, beyond, rtol=1e-6, atol=1e-10)
    low = operating_point(Sinh(g, 0.1), USUAL, 1e-6 * v, 15).current
    torch.testing.assert_close(low, operating_point(Ohmic(g), USUAL, 1e-6 * v, 15).current, rtol=1e-8, atol=0)


@pytest.mark.parametrize("law", ["gated", "sinh"])
def test_slopes_of_laws(law: str) -> None:
    g = cells(1, 5, 6) + 1e-6
    gate = torch.tensor([[1.2, 0.9, 0.3, 0.5, 0.45]], dtype=torch.float64)
    cell = Gated(g, gate, 0.4, 5e-4) if law == "gated" else Sinh(g, 0.2)
    bit = 0.04 * torch.rand(1, 5, 6, dtype=torch.float64)
    word = bit + 0.6 * torch.rand(1, 5, 6, dtype=torch.float64)
    _, by_word, by_bit = cell.at(word, bit)
    h = 1e-7
    for slope, sign, dw, db in ((by_word, 1, h, 0), (by_bit, -1, 0, h)):
        found = sign * (cell.at(word + dw, bit + db)[0] - cell.at(word - dw, bit - db)[0]) / (2 * h)
        torch.testing.assert_close(found, slope, rtol=1e-5, atol=1e-5 * float(slope.abs().max()))


GATED = GatedArray(
    wires=Wires(word_line=2.0, bit_line=2.0, driver=50.0),
    read=0.2, gate=1.2, threshold=0.4, beta=2e-3, g_min=1e-6, g_max=100e-6,
)  # fmt: skip


def test_superposition_fails_for_gated_rows_and_holds_for_driven_ones() -> None:
    levels = (torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(2)) > 0.5).double()
    first = torch.zeros(1, 1, 32, dtype=torch.float64)
    first[..., ::2] = 1
    both = torch.cat([first, 1 - first, torch.ones_like(first)], 1)
    even, odd, all_rows = GATED.currents(levels, both)[0]
    assert ((even + odd - all_rows) / all_rows).abs().max() > 1e-3
    g = GATED.g_min + (GATED.g_max - GATED.g_min) * levels
    driven = 0.2 * both[0] @ solve(g, GATED.wires)[0]
    torch.testing.assert_close(driven[0] + driven[1], driven[2], rtol=1e-12, atol=0)


SINH = SinhArray(wires=Wires(word_line=2.0, bit_line=2.0, driver=50.0), read=0.3, scale=0.15, g_min=1e-6, g_max=100e-6)


@pytest.mark.parametrize("array", [GATED, SINH], ids=["gated", "sinh"])
def test_arrays_that_are_not_linear_are_lowered_by_fit(array: NonlinearArray) -> None:
    """Samples of the truth give a curve; what the curve leaves is stated by its spread and found on other reads."""
    random = np.random.default_rng(0)
    levels = random.integers(0, 2, (3, 24, 12))
    on = random.random((3, 60, 1)) * 0.8 + 0.1
    inputs = (random.random((3, 60, 24)) < on).astype(np.int64)
    samples = array_samples(array, levels, inputs, step=1 / 64)
    assert samples.provenance["array"]["read"] == array.read
    row = 17 * 12 + 5  # chip 0, read 17, column 5
    assert samples.ideal[row] == (inputs[0, 17] * levels[0, :, 5]).sum() == (samples.x[row] * samples.w[row]).sum()
    assert (samples.read[row], samples.column[row], samples.chip[row]) == (17, 5, 0)
    column, left = lower_array(array, levels, inputs, tolerance=0.5)
    assert left.rms < 0.4 * left.ideal_rms  # most of what the wires take is the curve's
    assert left.reads > 200
    mean = column.mean.at(torch.from_numpy(samples.ideal.astype(float)), 24.0).numpy()
    often = np.isin(samples.ideal, [s for s in range(1, 24) if (samples.ideal == s).sum() > 150])
    assert (samples.code / 64 - mean)[often].std() == pytest.approx(left.rms, rel=0.3)
    with pytest.raises(ValueError, match=rf"leaves {left.rms:.3g} counts rms .* above tolerance = 0.001"):
        lower_array(array, levels, inputs, tolerance=0.001)
    with pytest.raises(ValueError, match="give more inputs"):
        lower_array(array, levels, inputs[:, :2], tolerance=0.5)


@pytest.mark.parametrize("array", [GATED, SINH], ids=["gated", "sinh"])
def test_without_resistance_such_arrays_give_their_sums(array: NonlinearArray) -> None:
    """Of ideal wires, and transistors far stronger than cells: counts are sums."""
    changes = {"wires": Wires()} | ({"beta": 1e3} if isinstance(array, GatedArray) else {})
    random = np.random.default_rng(1)
    levels, inputs = random.integers(0, 4, (2, 9, 5)), random.integers(0, 2, (2, 7, 9))
    samples = array_samples(array.model_copy(update={**changes, "level_high": 3}), levels, inputs, step=1 / 64)
    assert np.array_equal(samples.code, 64 * samples.ideal)


def test_not_converging_is_said() -> None:
    with pytest.raises(NotConverged, match=r"array 0: after 2 steps .* tolerance = 1e-11"):
        operating_point(Sinh(cells(1, 6, 6), 0.05), USUAL, torch.ones(1, 6, dtype=torch.float64), 6, most=2)


# -------------------------------------------------------------------------------------------------------------- errors


def test_what_is_wrong_is_named() -> None:
    g = cells(3, 4)
    g[1, 2] = float("nan")
    with pytest.raises(ValueError, match=r"conductance\[1, 2\] = nan S"):
        solve(g, USUAL)
    with pytest.raises(ValueError, match=r"need .* GiB to be linearised"):
        Linearised.of(torch.ones(64, 256, 256, dtype=torch.float64), USUAL)
    with pytest.raises(ValueError, match="were solved"):
        Linearised.of(cells(1, 4, 4), USUAL).at(cells(1, 4, 5))
    with pytest.raises(ValidationError, match="kOhm"):
        Wires(word_line="3 V")
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Wires(driver=-1.0)
    with pytest.raises(ValidationError, match="opens no row"):
        GatedArray.model_validate(GATED.model_dump() | {"gate": 0.3})
    with pytest.raises(ValueError, match=r"inputs\[0, 0, 1\] = 2 is outside"):
        array_samples(GATED, np.ones((1, 2, 2), int), np.array([[[0, 2]]]))


def test_units() -> None:
    assert Wires(word_line="1.5 Ohm", driver="1 kOhm") == Wires(word_line=1.5, driver=1000.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    g = cells(2, 70, 50)
    torch.testing.assert_close(solve(g.cuda(), USUAL).cpu(), solve(g, USUAL), rtol=1e-10, atol=0)
