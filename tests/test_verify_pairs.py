"""Verification where several columns meet before a conversion: pairs, and outputs beside a reference column."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F
from typer.testing import CliRunner

import bitline.flows.simulated
from bitline.circuits.spice import Circuit, Simulator, characterize
from bitline.cli import app
from bitline.data import SklearnDigits, batches
from bitline.encode import OffsetWeight
from bitline.evaluate import Verification
from bitline.experiment import load
from bitline.flows import Conversions, on_behaviour, verify
from bitline.macro import (
    Behaviour,
    Macro,
    Probe,
    Readout,
    behaviour_of,
    error_model,
    expected_errors,
    shipped,
    values_of,
)
from bitline.macro.characterised import deviations_of
from bitline.networks import Digits
from bitline.nn import calibrate, convert, layers, programmed, use

NAME = "sram-8t-compact"
STILL, DICE = shipped(NAME), shipped(f"{NAME}-dice")
EXAMPLE = Path(__file__).parents[1] / "examples" / "s0-resnet20.yaml"
(PAIRS,) = load(EXAMPLE).macros
BESIDE_A_REFERENCE = PAIRS.model_copy(update={"name": "reference", "weights": OffsetWeight(bits=4, cell_bits=1)})
READOUT = Readout((1, -1), -64.0, 1.0, 128)
needs_ngspice = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")


@pytest.fixture(scope="module")
def behaviour() -> Behaviour:
    return behaviour_of(STILL, DICE)


def source():
    return batches(SklearnDigits().test()[:16], 8)


def network(macro: Macro):
    """A small network, calibrated; its second layer fills a tile and a ragged one."""
    torch.manual_seed(0)
    net = Digits(channels=(8, 8)).build(0).eval()
    return calibrate(convert(net, macro, skip=["conv1", "fc"]), source()).eval()


@pytest.fixture(scope="module")
def pairs():
    return network(PAIRS)


def shown(model, probe: Probe) -> torch.Tensor:
    """Show a probe the conversions of the second layer for eight images; gives the layer's inputs."""
    given, layer = [], layers(model)["conv2"]
    hook = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    layer.probe = probe
    try:
        with torch.no_grad():
            model(next(iter(source()))[0])
    finally:
        layer.probe = None
        hook.remove()
    return given[0]


# ------------------------------------------------------------------------------------------ the network's conversions


class Values(Probe):
    """What meets in each row group, and what the converters see."""

    wants_codes = True

    def __init__(self) -> None:
        self.seen: list[list[torch.Tensor]] = []

    def values(self, v: torch.Tensor) -> None:
        self.seen.append([v])

    def columns(self, x: torch.Tensor, held: torch.Tensor) -> None:
        self.seen[-1] += [x, held]

    def codes(self, code: torch.Tensor, clipped: torch.Tensor, ideal: torch.Tensor) -> None:
        self.seen[-1] += [code, ideal]


def test_the_network_reads_what_its_legs_make(pairs, behaviour):
    """The machine's pairs by hand: each leg with its own cells through the model's curve and counts, then subtracted;
    and the ideal code is that of the sums' difference."""
    use(pairs, lambda design: on_behaviour(design, behaviour))
    probe = Values()
    try:
        shown(pairs, probe)
        column = programmed(pairs, "conv2")
    finally:
        use(pairs)
    assert len(probe.seen) == 2  # a tile and a ragged one
    for t, (place, x, held, code, ideal) in enumerate(probe.seen):
        rows = x.shape[2]
        cells = (column.cells[0, t, :rows] * column.unit).double().numpy()  # R C L N
        x, held = x[0].numpy().astype(int), held[0].numpy().astype(int)
        patterns = np.stack([behaviour.pattern[i].levels[1] * _on(f, x) for i, f in enumerate(behaviour.pattern)])
        zeros = np.stack([behaviour.pattern[i].levels[0] * _on(f, x) for i, f in enumerate(behaviour.pattern)])
        legs = behaviour.curve(np.einsum("mr,rcln->mcln", x, cells))
        legs += np.einsum("fmr,rcln->mcln", patterns, held) + np.einsum("fmr,rcln->mcln", zeros, 1 - held)
        value = legs[:, :, 0] - legs[:, :, 1]
        assert np.abs(place[0].numpy() + READOUT.low - value).max() < 0.1  # a curve is told at whole counts
        right = READOUT.code(value)
        assert (code[0].numpy() == right).mean() > 0.95
        sums = np.einsum("mr,rcln->mcln", x, held)
        assert np.array_equal(ideal[0].numpy(), READOUT.code((sums[:, :, 0] - sums[:, :, 1]).astype(float)))


def _on(feature, x):
    return np.asarray(feature.digits)[x]


def test_each_leg_has_mismatch_of_its_own(pairs, behaviour):
    use(pairs, lambda design: on_behaviour(design, behaviour))
    try:
        column = programmed(pairs, "conv2")
    finally:
        use(pairs)
    cells = (column.cells * column.unit).numpy()[0, 0, :64]  # R C L N, of the whole tile
    for leg in range(2):
        off = cells[:, :, leg][cells[:, :, leg] > 0.3] - 1
        assert off.std() == pytest.approx(behaviour.mismatch.cell_sigma, rel=0.2)


def test_conversions_of_pairs_are_those_of_the_physical_tiles(pairs, behaviour):
    """Against patches unfolded and the bits of either sign cut by hand."""
    met = Conversions(behaviour.shape, READOUT, each=10**6)
    x = shown(pairs, met)
    layer = layers(pairs)["conv2"]
    with torch.no_grad():
        codes = layer.input_quantizer(x)[0]
        weights = layer.weight_quantizer(layer.weight)[0].long()
    patches = F.unfold(codes, 3, padding=1, stride=2)  # (B, C·9, positions), rows ordered (c, kh, kw)
    patches = patches.unflatten(1, (8, 9)).transpose(1, 2).flatten(1, 2).transpose(1, 2).reshape(-1, 72).long()
    rows = weights.permute(0, 2, 3, 1).reshape(8, 72)
    assert (rows < 0).any()
    bits = torch.stack([(side * rows).clamp(min=0)[None] >> torch.arange(3)[:, None, None] & 1 for side in (1, -1)])
    tiles = (slice(0, 64), slice(64, 72))
    legs = torch.cat(
        [torch.einsum("mk,lbnk->lmbn", patches[:, t], bits[..., t]).reshape(2, -1) for t in tiles], dim=1
    ).numpy()
    assert np.array_equal(met.total, np.bincount(legs[0] - legs[1] + 960, minlength=2 * 960 + 1))
    assert np.array_equal(met.sums[[0, -1]], [-960, 960])
    drawn_x, drawn_w = met.vectors
    assert drawn_w.shape == (legs.shape[1], 2, 64)
    made = np.einsum("nr,nlr->nl", drawn_x.astype(int), drawn_w)
    assert sorted(map(tuple, made)) == sorted(map(tuple, legs.T))  # asked for all, each once, legs in their order
    bands = met.band(made[:, 0] - made[:, 1])
    assert (np.diff(bands) >= 0).all()
    assert met.band(np.array([-700, -64, -48, 0, 1, 63, 700])).tolist() == [0, 0, 0, 3, 4, 7, 7]


# ---------------------------------------------------------------------------------------------------- what models say


def some_pairs(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(x, w) of pairs made of shipped patterns: a row is held by one leg or the other."""
    rng = np.random.default_rng(seed)
    first, second = rng.choice(len(STILL), (2, n))
    x, plus = STILL["x"][first], STILL["w"][first]
    return x, np.stack([plus, STILL["w"][second] * (1 - plus)], axis=1)


def test_expected_errors_of_pairs_are_those_of_many_dies(behaviour):
    x, w = some_pairs(24)
    model, table = expected_errors(x, w, behaviour, READOUT, (STILL["x"], STILL["w"]))
    rng, dies = np.random.default_rng(1), 4000
    right = READOUT.code(READOUT.met(np.einsum("nr,nlr->nl", x.astype(int), w)))
    for i in range(len(x)):
        legs = []
        for leg in range(2):
            off = {name: rng.standard_normal((dies, 64)) for name in behaviour.mismatch.sensitivity}
            many = (np.repeat(values[None], dies, axis=0) for values in (x[i], w[i, leg]))
            legs.append(behaviour.predict(*many, off))
        error = READOUT.code(READOUT.met(np.stack(legs, axis=1))) - right[i]
        assert abs(model.error[i] - error.mean()) < 0.01 + 4 * error.std() / np.sqrt(dies)
        assert abs(model.rate[i] - (error != 0).mean()) < 0.01 + 2 / np.sqrt(dies)
    assert np.abs(table.error - model.error).mean() < 0.7  # patterns pooled
    assert np.ptp(model.error) > 5


def test_a_column_alone_is_expected_what_its_table_says(behaviour):
    x, w = STILL["x"][::16], STILL["w"][::16]
    few = (x.astype(int) * w).sum(1) < 128
    _, pooled = expected_errors(x[few], w[few][:, None], behaviour, behaviour.shape.readout, (STILL["x"], STILL["w"]))
    sums = (x[few].astype(int) * w[few]).sum(1)
    p = error_model(behaviour, STILL["x"], STILL["w"]).probability[0, sums]
    assert np.allclose(pooled.rate, 1 - p[np.arange(len(p)), sums], atol=1e-12)
    assert np.allclose(pooled.error, p @ np.arange(p.shape[1]) - sums, atol=1e-9)


def test_the_model_of_a_die_is_that_die(behaviour):
    """With the devices' own deviations little is left of what mismatch did."""
    off, typical = (
        values_of(DICE) - behaviour.predict(DICE["x"], DICE["w"], each) for each in (deviations_of(DICE), None)
    )
    assert off.std() < 0.1 * typical.std()
    assert off.std() < 0.25


# ------------------------------------------------------------------------------------------------- rates side by side


@pytest.mark.parametrize(("macro", "off"), [(PAIRS, 1.0), (BESIDE_A_REFERENCE, 3.0)], ids=["pairs", "reference"])
def test_rates_of_legs_agree_between_network_and_models(macro, off):
    """``off``, LSB: all outputs of an array share a reference column, and two dies have not many."""
    found = verify(network(macro), source, Circuit.load(NAME), STILL, DICE, chips=1, images=16, conversions=2048)
    assert sum(band.share for band in found.bands) == pytest.approx(1)
    assert "2 columns, solved apart" in found.assumed
    assert found.bands[0].low < 0 < found.bands[-1].high
    for band in found.bands:
        assert band.residual is None
        if band.n == 256:
            assert abs(band.network.rate - band.model.rate) < 0.12
            assert abs(band.network.error - band.model.error) < off


# ------------------------------------------------------------------------------------------------------------ ngspice


def in_ngspice(model, tmp_path: Path, conversions: int) -> Verification:
    simulator = Simulator(cache=tmp_path)
    return verify(
        model, source, Circuit.load(NAME), STILL, DICE, simulator=simulator, chips=1, images=8, conversions=conversions
    )


def residual(found: Verification) -> float:
    """Of all simulated conversions, in what the model's fit leaves."""
    return float(np.sqrt(np.mean([band.residual**2 for band in found.bands]))) / found.left_over


@needs_ngspice
def test_pairs_in_ngspice_agree_with_the_models(pairs, tmp_path):
    found = in_ngspice(pairs, tmp_path, 48)
    assert 0.2 < found.left_over < 0.4  # LSB: two legs
    assert 0.2 < residual(found) < 2
    for band in found.bands:
        assert band.simulated == band.n
        assert abs(band.circuit.error - band.model.error) < 3 * 5 / np.sqrt(band.n)  # LSB: dies scatter by five at most
    assert found.bands[0].circuit.error < -3 < 3 < found.bands[-2].circuit.error  # either leg bends
    assert len(list(tmp_path.glob("*/*.json"))) == 2 * sum(band.n for band in found.bands)


@needs_ngspice
@pytest.mark.parametrize("fault", ["legs swapped", "mismatch of one leg ignored", "one mismatch for both legs"])
def test_faults_are_caught(pairs, tmp_path, monkeypatch, fault):
    drawn = Circuit.drawn

    def swapped(circuit, x, w, *rest, **named):
        return characterize(circuit, x, w.reshape(-1, 2, 64)[:, ::-1].reshape(-1, 64), *rest, **named)

    def one_ideal(circuit, seed, chip, column=0):
        return {name: z * (column == 0) for name, z in drawn(circuit, seed, chip, column).items()}

    if fault == "legs swapped":
        monkeypatch.setattr(bitline.flows.simulated, "characterize", swapped)
    else:
        same = lambda circuit, seed, chip, column=0: drawn(circuit, seed, chip)  # noqa: E731
        monkeypatch.setattr(Circuit, "drawn", one_ideal if "ignored" in fault else same)
    assert residual(in_ngspice(pairs, tmp_path, 16)) > 4


def test_a_conversion_counts_where_all_its_legs_were_simulated(pairs, tmp_path):
    """A simulator that fails at every third point and otherwise leaves the bit lines full: no count on either."""
    script = tmp_path / "ngspice"
    script.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo ngspice-fake; exit 0; fi\n'
        'n=$(basename "$2" .cir)\n'
        'if [ $((n % 3)) = 0 ]; then echo "Error: singular matrix"; exit 1; fi\n'
        f"echo 'vbl = {STILL.provenance['zero']}'\n"
    )
    script.chmod(0o755)
    simulator = Simulator(str(script))
    found = verify(
        pairs, source, Circuit.load(NAME), STILL, DICE, simulator=simulator, chips=1, images=8, conversions=24
    )
    total = sum(band.n for band in found.bands)
    whole = sum(all(point % 3 for point in (2 * i, 2 * i + 1)) for i in range(total))
    assert sum(band.simulated for band in found.bands) == whole
    for band in found.bands:
        if band.circuit is not None:
            assert -band.high <= band.circuit.error <= -band.low  # the code of no count in the place of the sum


# ------------------------------------------------------------------------------------------------ what does not verify


def test_how_a_macro_is_read():
    assert Readout.of(PAIRS) == READOUT
    assert READOUT.code(np.array([-70.0, -64.5, -0.5, 0.0, 0.5, 63.4, 99.0])).tolist() == [0, 0, 64, 64, 65, 127, 127]
    assert np.array_equal(READOUT.code(READOUT.edges), np.arange(1, 128))
    for range_, message in (("calibrated", "a calibrated converter range"), (None, "no converter")):
        converter = {"bits": 7, "range": {"kind": range_}} if range_ else None
        macro = Macro.model_validate(PAIRS.dump() | {"converter": converter, "corners": {}})
        with pytest.raises(ValueError, match=f"macro {PAIRS.name} has {message}"):
            Readout.of(macro)


def test_layers_that_are_read_in_other_ways_are_refused():
    other = PAIRS.model_copy(update={"converter": PAIRS.converter.model_copy(update={"bits": 6})})
    torch.manual_seed(0)
    net = Digits(channels=(8, 8, 8)).build(0).eval()
    model = calibrate(convert(net, {"conv2": PAIRS, "conv3": other}, skip=["conv1", "fc"]), source()).eval()
    with pytest.raises(ValueError, match=r"the layers' conversions are not alike.*conv2: .*conv3: "):
        verify(model, source, Circuit.load(NAME), STILL, DICE)


def test_pairs_trained_on_a_table_are_read_on_its_grid(behaviour):
    """Their model is the circuit's all the same, never the table."""
    table = {"kind": "table", "probability": np.eye(128)[None].tolist(), "low": -64.0, "step": 1.0}
    gone = {"column": table, "converter": None, "cell": None, "corners": {}}
    macro = on_behaviour(Macro.model_validate(PAIRS.dump() | gone), behaviour)
    assert macro.column == behaviour.column()
    assert Readout.of(macro) == READOUT


# ------------------------------------------------------------------------------------------------------------ command


def test_the_command_takes_pairs(tmp_path):
    file = tmp_path / "pairs.yaml"
    written = {
        "title": "Pairs",
        "data": {"set": {"kind": "sklearn_digits"}, "normalise": False, "train_images": 96, "test_images": 64},
        "network": {"kind": "digits", "channels": [4, 8]},
        "float_training": {"epochs": 1},
        "macro": yaml.safe_load(EXAMPLE.read_text())["macro"],
        "training": {"steps": 2},
        "methods": [{"kind": "qat"}, {"kind": "error_aware"}],
        "test": {"chips": 2},
    }
    file.write_text(yaml.safe_dump(written))
    options = ["--chips", "2", "--images", "8", "--conversions", "8", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, ["verify", str(file), "--circuit", NAME, *options])
    assert done.exit_code == 0, done.output
    assert "each conversion is 2 columns, solved apart" in done.stdout
    found = Verification.load(tmp_path / "verify-error_aware.json")
    assert found.bands[0].low < 0
    page = (tmp_path / "verify-error_aware.html").read_text()
    assert found.assumed in page
    assert "−" in page
    assert found.bands[0].simulated == (found.bands[0].n if shutil.which("ngspice") else 0)
