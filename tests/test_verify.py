"""S0's verification: a trained network on its circuit's behavioural model, and its own conversions in ngspice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from bitline import presets
from bitline.circuits.spice import Circuit, Simulator, measured
from bitline.cli import app
from bitline.data import SklearnDigits, batches
from bitline.evaluate import Verification, montecarlo
from bitline.experiment import load
from bitline.flows import Conversions, on_behaviour, verify
from bitline.flows.verify import verification_seed
from bitline.macro import Macro, behaviour_of, curve_alone, error_model, judge, shipped, simulate, values_of
from bitline.methods import ErrorAware, training_chip
from bitline.networks import Digits
from bitline.nn import calibrate, convert, layers, silicon, use
from bitline.train import TrainConfig, train

NAME, PRESET = "sram-8t-compact", "generic-spice-sram-compact"
STILL, DICE = shipped(NAME), shipped(f"{NAME}-dice")
needs_ngspice = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")


@pytest.fixture(scope="module")
def behaviour():
    return behaviour_of(STILL, DICE)


@pytest.fixture(scope="module")
def network():
    """A small network on the preset, calibrated; its second layer fills a tile and a ragged one."""
    torch.manual_seed(0)
    net = Digits(channels=(8, 8)).build(0).eval()
    return calibrate(convert(net, presets.load(PRESET), skip=["conv1", "fc"]), source()).eval()


def source():
    return batches(SklearnDigits().test()[:16], 8)


# ---------------------------------------------------------------------------------------------------- its conversions


def seen(network, each: int, images: int = 8) -> tuple[Conversions, torch.Tensor]:
    """Conversions of a network, and the inputs of its layer on the macro."""
    shape, given = behaviour_of(STILL).shape, []
    met = Conversions(shape, shape.readout, each)
    layer = layers(network)["conv2"]
    hook = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    layer.probe = met
    try:
        with torch.no_grad():
            network(next(iter(source()))[0][:images])
    finally:
        layer.probe = None
        hook.remove()
    return met, given[0]


def test_conversions_are_those_of_the_physical_tiles(network):
    """Against patches unfolded and weight bits cut by hand: 72 inputs are a tile of 64 rows and one of 8."""
    met, x = seen(network, each=10**6)
    layer = layers(network)["conv2"]
    with torch.no_grad():
        codes = layer.input_quantizer(x)[0]
        weights = layer.weight_quantizer(layer.weight)[0].long()
    patches = F.unfold(codes, 3, padding=1, stride=2)  # (B, C·9, positions), rows ordered (c, kh, kw)
    patches = patches.unflatten(1, (8, 9)).transpose(1, 2).flatten(1, 2).transpose(1, 2).reshape(-1, 72).long()
    rows = weights.permute(0, 2, 3, 1).reshape(8, 72)
    bits = (rows[None] >> torch.arange(4)[:, None, None]) & 1  # two's complement, least significant first
    tiles = (slice(0, 64), slice(64, 72))
    expected = [torch.einsum("mk,bnk->mbn", patches[:, t], bits[:, :, t]).flatten() for t in tiles]
    counted = torch.bincount(torch.cat(expected), minlength=len(met.total)).numpy()
    assert np.array_equal(met.total, counted)
    drawn_x, (drawn_w,) = met.vectors[0], met.vectors[1].swapaxes(0, 1)
    sums = (drawn_x.astype(int) * drawn_w).sum(1)
    assert np.array_equal(np.bincount(sums, minlength=len(counted)), counted)  # asked for all, each once
    ragged = np.flatnonzero((drawn_x[:, 8:] == 0).all(1) & (drawn_w[:, 8:] == 0).all(1))
    assert len(ragged) >= counted.sum() / 2  # rows beyond a ragged tile hold nothing


def test_conversions_are_drawn_evenly_and_at_random(network):
    few, _ = seen(network, each=4)
    x, w = few.vectors
    bands = few.band((x.astype(int) * w[:, 0]).sum(1))
    every = few.band(few.sums)
    for b in range(few.bands):
        assert (bands == b).sum() == min(4, few.total[every == b].sum())
    whole, _ = seen(network, each=10**6)
    assert np.array_equal(few.total, whole.total)
    again, _ = seen(network, each=4)
    assert all(np.array_equal(a, b) for a, b in zip(few.vectors, again.vectors, strict=True))


# ------------------------------------------------------------------------------------------------- A0.6: independence


def tally(network, monkeypatch) -> list[tuple[object, str, bool]]:
    """(die, kind of column, whether it has pattern counts) of each layer programmed from now on."""
    found = []
    original = type(layers(network)["conv2"]).program

    def program(layer):
        column, kind = original(layer), layer.macro.column
        found.append((column[0].chip, kind.kind if kind else "none", getattr(kind, "pattern", None) is not None))
        return column

    for kind in {type(layer) for layer in layers(network).values()}:
        monkeypatch.setattr(kind, "program", program)
    return found


@pytest.mark.parametrize("trained_on", ["curve", "table"])
def test_verification_is_independent(behaviour, monkeypatch, trained_on):
    """A0.6: on the behavioural model, never on the error model; on dies that neither training nor a test met."""
    macro = presets.load(PRESET)
    if trained_on == "table":
        table = error_model(behaviour, STILL["x"], STILL["w"])
        update = {"column": table.model_dump(), "converter": None, "cell": None, "corners": {}}
        macro = Macro.model_validate(macro.model_dump() | update)
    model = calibrate(convert(Digits(channels=(4, 4)).build(0), macro, skip=["fc"]), source())
    dies = tally(model, monkeypatch)
    config = TrainConfig(steps=6, lr=0.01)
    train(model, lambda epoch: source(), config=config, method=ErrorAware(seed=3), progress=False)
    met = {chip for chip, _, _ in dies}
    assert {training_chip(3, step) for step in range(6)} <= met
    dies.clear()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    where = silicon(model).chip
    found = verify(model, source, Circuit.load(NAME), STILL, DICE, chips=2, images=4, conversions=16, seed=3)
    fresh = {chip for chip, kind, patterned in dies if kind == "curve" and patterned}
    lot = {montecarlo.testing_chip(verification_seed(3), number) for number in range(2)}
    assert fresh - {where} == lot
    assert not fresh & met - {where}
    assert not lot & {montecarlo.testing_chip(3, number) for number in range(100)}
    assert [row.method for row in found.rows] == ["ideal macro", "macro", "behavioural model"]
    assert [row.chips for row in found.rows] == [1, 2, 2]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert silicon(model).chip == where
    assert all(layer.macro == layer.design for layer in layers(model).values())


def test_a_macro_of_other_columns_is_refused(behaviour, network):
    macro = presets.load(PRESET)
    assert on_behaviour(macro, behaviour).column.pattern == behaviour.pattern
    for name, message in (
        ("generic-spice-sram", "range kind='fixed' low=0.0 high=190.5, not kind='fixed' low=0.0 high=127.0"),
        ("generic-8t-sram", "largest digit 1, not 15"),
    ):
        with pytest.raises(ValueError, match=f"macro {name} is not one of this circuit's columns: {message}"):
            on_behaviour(presets.load(name), behaviour)
    with pytest.raises(ValueError, match="these samples are of sram-8t-pwm, or of other figures than"):
        verify(network, source, Circuit.load(NAME), shipped("sram-8t-pwm"), DICE)


# ------------------------------------------------------------------------------------------------- rates side by side


def test_rates_agree_between_network_and_models(network):
    """What the network's run on the behavioural model counts, its law says of conversions drawn from it."""
    found = verify(network, source, Circuit.load(NAME), STILL, DICE, chips=1, images=16, conversions=2048)
    assert sum(band.share for band in found.bands) == pytest.approx(1)
    assert found.simulator == "not asked for"
    for band in found.bands:
        assert band.circuit is None
        if band.n == 256:
            assert abs(band.network.rate - band.model.rate) < 0.12
            assert abs(band.network.error - band.model.error) < 0.6
        assert abs(band.table.error - band.model.error) < 1.0
    assert max(band.model.error for band in found.bands) > 5  # the curve is not straight


def test_without_ngspice_the_rest_runs(network):
    simulator = Simulator("no-such-ngspice")
    found = verify(
        network, source, Circuit.load(NAME), STILL, DICE, simulator=simulator, chips=1, images=4, conversions=16
    )
    assert found.simulator.startswith("no-such-ngspice is not installed: apt-get install ngspice")
    assert "\n" not in found.simulator
    assert found.bands
    assert all(band.circuit is None and band.simulated == 0 for band in found.bands)
    assert len(found.rows) == 3


def test_points_that_fail_are_told_and_the_others_count(network, tmp_path):
    """A simulator that fails at every third point, and otherwise leaves the bit line full: code 0."""
    script = tmp_path / "ngspice"
    full = shipped(NAME).provenance["zero"]
    script.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo ngspice-fake; exit 0; fi\n'
        'n=$(basename "$2" .cir)\n'
        'if [ $((n % 3)) = 0 ]; then echo "Error: singular matrix"; exit 1; fi\n'
        f"echo 'vbl = {full}'\n"
    )
    script.chmod(0o755)
    found = verify(
        network,
        source,
        Circuit.load(NAME),
        STILL,
        DICE,
        simulator=Simulator(str(script)),
        chips=1,
        images=8,
        conversions=24,
    )
    total = sum(band.n for band in found.bands)
    assert sum(band.simulated for band in found.bands) == total - -(-total // 3)
    assert found.simulator.startswith("ngspice-fake; circuit sram-8t-compact: ")
    assert "singular matrix" in found.simulator
    for band in found.bands:
        if band.circuit is not None:
            assert -band.high <= band.circuit.error <= -band.low  # code 0 in the place of the sum


@needs_ngspice
def test_conversions_in_ngspice_agree_with_the_models(network):
    found = verify(
        network, source, Circuit.load(NAME), STILL, DICE, simulator=Simulator(), chips=1, images=16, conversions=96
    )
    assert found.simulator.startswith("ngspice-")
    for band in found.bands:
        assert band.simulated == band.n
        deviation = 4 / np.sqrt(band.n)  # LSB: dies scatter by three at most
        assert abs(band.circuit.error - band.model.error) < 3 * deviation
        assert band.residual < 3 * found.left_over


# ----------------------------------------------------------------------------------------------------- circuit, preset


def test_the_compact_column_bends(behaviour):
    """Errors of many LSB that depend on the sum, and beyond the curve little: what the preset says of itself."""
    sums = np.arange(0, 129)
    error = behaviour.curve(sums) - sums
    assert error.max() > 5
    assert 20 < sums[error.argmax()] < 110
    assert abs(error[0]) < 0.5
    assert behaviour.slope(np.array([4]))[0] > 1.15
    assert behaviour.slope(np.array([120]))[0] < 0.7


def test_the_preset_is_what_the_samples_give(behaviour):
    """examples/sram_macro.py makes the preset: its typical corner comes out again, and it says what it misses."""
    macro, column = presets.load(PRESET), curve_alone(behaviour, STILL["x"], STILL["w"])
    for mine, theirs in ((macro.column.mean, column.mean), (macro.column.sigma, column.sigma)):
        assert np.allclose(mine.u, theirs.u, atol=1e-4)
        assert np.allclose(mine.value, theirs.value, atol=1e-4)
    assert np.allclose(macro.cell.errors[0].sigma, behaviour.cell().errors[0].sigma, atol=1e-4)
    goodness, _, _ = judge(behaviour, STILL["x"], STILL["w"], values_of(STILL))
    assert f"within {goodness.rms:.3f} LSB rms and {goodness.largest:.3f} at most" in macro.source
    assert set(macro.corners) == {"ff", "ss", "hot", "cold", "low-supply"}
    for corner in macro.corners:
        assert np.diff(macro.at(corner).column.mean.value[:50]).min() > 0


@needs_ngspice
@pytest.mark.parametrize("name", [NAME, f"{NAME}-dice"])
def test_rows_drawn_at_random_come_out_of_ngspice_again(name):
    samples, circuit = shipped(name), Circuit.load(NAME)
    rows = np.random.default_rng(len(samples)).choice(len(samples), 40, replace=False)
    seed = samples.provenance["seed"]
    mismatch = None if samples.chip is None else [circuit.drawn(seed, int(chip)) for chip in samples.chip[rows]]
    outcomes = measured(circuit, samples["x"][rows], samples["w"][rows], Simulator(), mismatch=mismatch)
    found = np.array([outcome.value for outcome in outcomes])
    assert np.abs(found - samples["vbl"][rows]).max() < 0.02 * abs(samples.provenance["lsb"])


def test_the_falsifier_is_zero_mean_and_alike_for_all_sums():
    from benchmarks.s0 import RANDOM, falsifier

    macro = falsifier()
    drawn = simulate(macro, montecarlo.testing_chip(0, 0), 16, 512, [0, 60, 180])
    for k in (0, 60, 180):
        error = drawn.select(ideal=k).code - 64 - k
        assert abs(error.mean()) < 5 * RANDOM / np.sqrt(len(error))
        assert error.std() == pytest.approx(np.sqrt(RANDOM**2 + 1 / 12), rel=0.03)


@pytest.mark.parametrize("name", ["s0-resnet20", "s0-resnet20-gpu"])
def test_the_comparison_has_all_rows(name):
    experiment = load(Path(__file__).parents[1] / "examples" / f"{name}.yaml")
    titles = [method.title for method in experiment.methods]
    rows = ["untrained on chips", "gaussian-trained", "gaussian-trained (rms)", "error-aware"]
    assert titles == rows[:1] + [f"{name}, distilled" for name in rows[1:]]
    assert all(method.distil == experiment.methods[0].distil for method in experiment.methods)  # the same teacher
    assert experiment.test.recalibrate
    (pairs,), single = experiment.macros, presets.load(PRESET)
    assert (pairs.cell, pairs.column, pairs.rows, pairs.inputs) == (
        single.cell,
        single.column,
        single.rows,
        single.inputs,
    )
    assert pairs.leg_signs == (1, -1)


# ------------------------------------------------------------------------------------------------------------ command


def test_the_command(tmp_path):
    changes = ["data.train_images=96", "data.test_images=64", "float_training.epochs=1", "training.epochs=1"]
    options = [part for change in [*changes, "network.channels=[4, 8]"] for part in ("--set", change)]
    options += ["--chips", "2", "--images", "8", "--conversions", "16", "--ngspice", "no-such-ngspice"]
    call = ["verify", "demo", "--circuit", NAME, "--out", str(tmp_path), *options]
    done = CliRunner().invoke(app, [*call, "--json"])
    assert done.exit_code == 0, done.output
    found = Verification.model_validate(json.loads(done.stdout))
    assert found.method == "error-aware"
    assert found.rows[2].chips == 2
    assert Verification.load(tmp_path / "verify-error_aware.json") == found
    assert found.assumed in (tmp_path / "verify-error_aware.html").read_text()
    done = CliRunner().invoke(app, call)  # the network is there already
    assert done.exit_code == 0, done.output
    assert "ngspice: no-such-ngspice is not installed" in done.stdout.replace("\n", " ")
    assert "behavioural model" in done.stdout
    for wrong, message in (
        (["--circuit", "charge"], "no samples 'charge' come with Bitline"),
        (["--circuit", "sram-8t-pwm"], "macro generic-spice-sram-compact is not one of this circuit's columns"),
        (["--circuit", NAME, "--method", "plain"], "the experiment has no such method"),
    ):
        done = CliRunner().invoke(app, ["verify", "demo", "--out", str(tmp_path), *options, *wrong])
        assert done.exit_code == 2
        assert message in done.stderr


def test_the_network_is_left_on_its_design(network):
    use(network)
    assert all(layer.macro == presets.load(PRESET) for layer in layers(network).values())
