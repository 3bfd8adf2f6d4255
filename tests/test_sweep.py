"""Sweeps: networks on other macros than their own, the same chips at every point, and sweeps that were killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from bitline import presets
from bitline.data import SklearnDigits, batches
from bitline.devices import OffsetRow
from bitline.evaluate import Over, Sweep, answers, changed, evaluate, fingerprint, ledger, over_chips, sweep
from bitline.evaluate.swept import grid, sentence, told
from bitline.experiment import Run, SweepRun, load, parse
from bitline.macro import Macro
from bitline.networks import Digits
from bitline.nn import AnalogNorm, calibrate, calibrated, convert, layers, moved, parts, requantise, verify_writes
from bitline.nn.quantizers import Pact
from test_experiment import DIES, NAME, PLAIN, TINY, config, quiet

SET = SklearnDigits(test_images=100)
IMAGES = list(batches(SET.train()[:512], 64))
TEST = list(batches(SET.test(), 64))
SIGMA = "macro.variation.sigma"


@pytest.fixture(scope="module")
def net() -> nn.Module:
    made = Digits(channels=(4, 4, 8)).build(seed=1)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.02)
    for _ in range(8):
        for x, y, _ in IMAGES:
            optimizer.zero_grad()
            nn.functional.cross_entropy(made(x), y).backward()
            optimizer.step()
    return made.eval()


def analog(sigma: float = 0.05) -> Macro:
    return Macro.model_validate(
        {"name": "analog", "rows": 64, "columns": 64, "variation": {"kind": "range", "sigma": sigma}}
    )


@pytest.fixture(scope="module")
def sram(net: nn.Module) -> nn.Module:
    adc = {"bits": 6, "range": "calibrated"}
    design = Macro.model_validate(presets.load(NAME).dump() | {"converter": adc})
    return calibrate(convert(net, design), IMAGES).eval()


# ----------------------------------------------------------------------------------------------------- keys and values


def test_keys_and_values_are_read() -> None:
    assert Over.read("macro.variation.sigma=0.02, 1e-1,3") == Over(key=SIGMA, values=(0.02, 0.1, 3))
    assert Over.read("macro.converter={bits: 4},{bits: 5}").values == ({"bits": 4}, {"bits": 5})
    points = list(grid([Over(key="a.b", values=(1, 2)), Over(key="a.c", values=("x", "y"))]))
    assert points == [{"a.b": b, "a.c": c} for b in (1, 2) for c in ("x", "y")]
    assert (told(points[0]), told(points[0], short=True)) == ("a.b = 1, a.c = x", "b = 1, c = x")
    assert told({"a.b": 1, "c.b": 2}, short=True) == "a.b = 1, c.b = 2"


@pytest.mark.parametrize("text", ["sigma", "=1", "a=", "a=[1,2"])
def test_what_is_no_key_with_values_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"--train-over '.*': "):
        Over.read(text, "--train-over")


def test_a_key_or_a_value_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="a key is given twice: a, a"):
        list(grid([Over(key="a", values=(1,)), Over(key="a", values=(2,))]))
    with pytest.raises(ValueError, match="a takes a value twice: 1, 1"):
        list(grid([Over(key="a", values=(1, 1))]))


def test_a_macro_is_changed_by_key() -> None:
    macro = changed(analog(), {SIGMA: 0.2, "macro.rows": 32})
    assert (macro.variation.sigma, macro.rows, macro.name) == (0.2, 32, "analog")  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"analog with macro.variation.sigma = 7: variation.sigma: .*or equal to 1"):
        changed(analog(), {SIGMA: 7})
    with pytest.raises(ValueError, match=r"did you mean sigma\?"):
        changed(analog(), {"macro.variation.sigmaa": 0.1})
    with pytest.raises(ValueError, match=r"training.lr is no key of the macro.*--train-over"):
        changed(analog(), {"training.lr": 0.1})


# -------------------------------------------------------------------------------------------- moved to another macro


def right(model: nn.Module, chips: int = 2) -> torch.Tensor:
    return torch.stack([trial.right for trial in over_chips(model, lambda: TEST, chips)])


def test_a_network_moved_to_its_own_macro_is_the_same(sram: nn.Module) -> None:
    before = {name: value.clone() for name, value in sram.state_dict().items()}
    model = moved(sram, lambda macro: macro)
    assert calibrated(model)
    assert torch.equal(right(model), right(sram))
    assert model.fingerprint == sram.fingerprint
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in before.items())
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in sram.state_dict().items())


def test_what_a_network_is_made_of_moves_with_it(net: nn.Module) -> None:
    """Analog norms, and the choice of weights that are verified as cells are written."""
    design = analog().model_copy(update={"norm": OffsetRow()})
    model = convert(net, {"*": design}).eval()
    assert {name for name, part in parts(model).items() if isinstance(part, AnalogNorm)} == {"bn1", "bn2", "bn3"}
    assert torch.equal(right(moved(model, lambda macro: macro)), right(model))
    there = moved(model, lambda macro: changed(macro, {SIGMA: 0.3}))
    assert all(part.design.variation.sigma == 0.3 for part in parts(there).values())  # type: ignore[union-attr]

    cells = calibrate(convert(net, presets.load("generic-ctt-128"), skip=["fc"]), IMAGES).eval()
    verify_writes(cells, {"conv1": torch.rand_like(layers(cells)["conv1"].weight)}, 0.5)
    same = moved(cells, lambda macro: macro)
    chosen, kept = (layers(m)["conv1"].verified for m in (cells, same))
    assert chosen is not None
    assert torch.equal(chosen, kept)
    keys = {fingerprint(cells, "row")}
    verify_writes(cells, None)
    assert len(keys | {fingerprint(cells, "row")}) == 2
    with pytest.raises(ValueError, match="no layer of this model sits on a macro"):
        moved(net, lambda macro: macro)


def test_ranges_stay_where_codes_do_and_begin_anew_where_not(sram: nn.Module) -> None:
    old = layers(sram)["conv2"]
    noisy = layers(moved(sram, lambda macro: changed(macro, {"macro.converter.noise": 2.0})))["conv2"]
    assert noisy.design.converter.noise == 2.0  # type: ignore[union-attr]
    assert float(noisy.converters.step) == float(old.converters.step)  # type: ignore[union-attr]

    coarse = moved(sram, lambda macro: changed(macro, {"macro.converter.bits": 3}))
    assert not calibrated(coarse)
    layer = layers(coarse)["conv2"]
    assert layer.input_quantizer.calibrated  # type: ignore[union-attr]
    assert torch.equal(layer.input_quantizer.scale, old.input_quantizer.scale)  # type: ignore[union-attr]
    calibrate(coarse, IMAGES)
    assert float(layer.converters.step) > 3 * float(old.converters.step)  # type: ignore[union-attr]

    wide = layers(moved(sram, lambda macro: changed(macro, {"macro.inputs.bits": 6})))["conv2"]
    assert not wide.input_quantizer.calibrated  # type: ignore[union-attr]
    assert wide.weight_quantizer.calibrated  # type: ignore[union-attr]
    assert wide.input_quantizer.grid.high == 63  # type: ignore[union-attr]


def test_quantizers_that_a_method_put_in_stay(net: nn.Module) -> None:
    model = calibrate(convert(net, presets.load(NAME), skip=["fc"]), IMAGES).eval()
    requantise(model, Pact())
    assert torch.equal(right(moved(model, lambda macro: macro)), right(model))
    wide = moved(model, lambda macro: changed(macro, {"macro.inputs.bits": 6}))
    assert layers(wide)["conv1"].input_quantizer.config == Pact()  # type: ignore[union-attr]
    assert set(layers(wide)) == {"conv1", "conv2", "conv3"}


# ------------------------------------------------------------------------------------------------------- from Python


def test_a_point_is_the_evaluation_of_a_network_on_that_macro(net: nn.Module) -> None:
    model = convert(net, analog()).eval()
    found = sweep({"a": model, "float": net}, TEST, {SIGMA: [0.02, 0.3]}, chips=3)
    assert [point.settings for point in found.points] == [{SIGMA: 0.02}, {SIGMA: 0.3}]
    direct = evaluate(convert(net, analog(0.3)), TEST, chips=3, details=False)
    assert found.points[1].rows[1].per_chip == direct.rows[1].per_chip
    assert found.points[1].rows[0].method == "ideal macro"
    assert found.points[0].rows[1].mean > found.points[1].rows[1].mean + 5
    assert {one.layer for one in found.points[0].sensitivity} == set(layers(model))
    assert found.float_rows[0].mean == found.points[0].rows[0].mean  # weights without digits
    assert found.methods == ("a",)
    assert found.sentence == sentence(found.points)
    assert layers(model)["conv1"].design == analog()


def test_methods_meet_the_same_chips_at_every_point(net: nn.Module) -> None:
    model = convert(net, analog()).eval()
    twin = convert(net, analog(0.2)).eval()  # trained elsewhere: the point alone decides
    found = sweep({"one": model, "twin": twin}, TEST, {SIGMA: [0.1, 0.2]}, chips=2, details=False)
    for point in found.points:
        one, other = point.on_chips
        assert one.per_chip == other.per_chip
        assert (point.differences[0].mean, point.differences[0].ci95) == (0, (0, 0))


def test_ranges_a_point_leaves_open_need_data(sram: nn.Module) -> None:
    with pytest.raises(ValueError, match="calibration needs at least one batch"):
        sweep(sram, TEST, {"macro.converter.bits": [3]}, chips=1, details=False)
    found = sweep(sram, TEST, {"macro.converter.bits": [2, 6]}, chips=1, details=False, calibration=IMAGES)
    assert found.points[0].rows[0].mean < found.points[1].rows[0].mean


def test_impossible_sweeps_are_refused(net: nn.Module) -> None:
    model = convert(net, analog()).eval()
    with pytest.raises(ValueError, match="a sweep needs a key"):
        sweep(model, TEST, {}, chips=1)
    with pytest.raises(ValueError, match="no model is on a macro"):
        sweep(net, TEST, {SIGMA: [0.1]}, chips=1)
    with pytest.raises(ValueError, match="'ideal macro', which is a row of its own"):
        sweep({"ideal macro": model}, TEST, {SIGMA: [0.1]}, chips=1)


def test_a_sweep_that_was_interrupted_goes_on(net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = convert(net, analog()).eval()
    settings: dict[str, Any] = {"chips": 3, "details": False, "out": tmp_path}
    wanted = sweep(model, TEST, {SIGMA: [0.1, 0.2]}, chips=3, details=False)
    asked: list[int] = []
    append = ledger.append

    def dying(path: Path, trial: Any) -> None:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(trial.chip)
        append(path, trial)

    monkeypatch.setattr(ledger, "append", dying)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, TEST, {SIGMA: [0.1, 0.2]}, **settings)
    asked[:] = []
    monkeypatch.setattr(ledger, "append", lambda path, trial: (asked.append(trial.chip), append(path, trial)))
    assert sweep(model, TEST, {SIGMA: [0.1, 0.2]}, **settings) == wanted
    assert asked == [2, 0, 1, 2]  # of an ideal macro, the same at both points, and three chips a point
    assert sweep(model, TEST, {SIGMA: [0.1, 0.2]}, **settings) == wanted
    assert len(asked) == 4


def test_a_ledger_forgets_half_a_line_and_nothing_else(tmp_path: Path, net: nn.Module) -> None:
    model, file = convert(net, analog()).eval(), tmp_path / "row.jsonl"
    trials = list(over_chips(model, lambda: TEST, 3))
    for trial in trials[:2]:
        ledger.append(file, trial)
    whole = file.read_bytes()
    for cut in range(len(whole)):
        file.write_bytes(whole[:cut])
        kept = ledger.read(file)
        assert all(torch.equal(kept[number], trials[number].right) for number in kept)
        assert len(kept) >= whole[:cut].count(b"}\n")
    file.write_bytes(whole[:-5])
    ledger.append(file, trials[2])  # behind half a line
    assert set(ledger.read(file)) == {0, 2}
    assert torch.equal(ledger.read(file)[2], trials[2].right)
    assert ledger.read(tmp_path / "nothing") == {}


# ------------------------------------------------------------------------------------------------- of an experiment

ANALOG = {"name": "analog", "rows": 64, "columns": 64, "variation": {"kind": "range", "sigma": 0.1}}
SWEPT = TINY | {"macro": ANALOG, "methods": [{"kind": "error_aware"}]}
OVER = [Over(key=SIGMA, values=(0.1, 0.3))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that nobody interrupted."""
    out = tmp_path_factory.mktemp("sweep")
    SweepRun(parse(SWEPT, "test"), OVER, out, tell=quiet, progress=False)()
    return out


def test_a_sweep_of_an_experiment(whole: Path) -> None:
    found = Sweep.load(whole / "sweep.json")
    names = [f"{title}{more}" for title in ("untrained on chips", "error-aware") for more in ("", " + BN recalibrated")]
    assert list(found.methods) == names
    assert all(len(point.rows) == 5 and len(point.differences) == 3 for point in found.points)
    assert {(one.method, one.layer) for one in found.points[1].sensitivity} == {
        (method, layer) for method in names[::2] for layer in ("conv1", "conv2", "conv3", "fc")
    }
    assert found.trained == (
        "Each method was trained once, on the macro as the experiment writes it, and tested as it was at every point."
    )
    assert "trained once" in (whole / "sweep.html").read_text()
    with (whole / "sweep.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 10
    text = (whole / "sweep.json").read_text()
    assert not any(secret in text for secret in (str(whole), "/tmp", "seconds"))


def test_a_run_in_the_same_folder_shares_training_and_answers(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (whole / "sweep.json").read_bytes()
    asked: list[int] = []
    monkeypatch.setattr(ledger, "append", lambda path, trial: asked.append(trial.chip))
    test = SWEPT["test"] | {"details": False}
    result = Run(parse(SWEPT | {"test": test}, "test"), whole, quiet, progress=False)()
    swept = Sweep.load(whole / "sweep.json").points[0]
    assert [row.per_chip for row in result.rows[2:]] == [row.per_chip for row in swept.on_chips]
    assert asked == []
    SweepRun(parse(SWEPT, "test"), OVER, whole, tell=quiet, progress=False)()
    assert (whole / "sweep.json").read_bytes() == before
    assert asked == []


def test_methods_are_trained_for_each_value_where_asked(tmp_path: Path) -> None:
    data = TINY | {"macro": ANALOG} | PLAIN
    trained = [Over(key=SIGMA, values=(0.1, 0.4)), Over(key="training.lr", values=(0.05,))]
    found = SweepRun(parse(data, "test"), OVER, tmp_path, trained, tell=quiet, progress=False)()
    assert list(found.methods) == [
        "untrained on chips",
        "error-aware, trained at macro.variation.sigma = 0.1, training.lr = 0.05",
        "error-aware, trained at macro.variation.sigma = 0.4, training.lr = 0.05",
    ]
    assert found.trained == (
        "Each method was trained once for every value of macro.variation.sigma (0.1, 0.4) and training.lr (0.05), and "
        "each network was tested at every point."
    )
    assert [row.method for row in found.float_rows] == ["float"]
    assert len(list((tmp_path / "train").iterdir())) == 1  # one float network for all
    files = list((tmp_path / "sweep").glob("*/train/*/latest.json"))
    assert len({json.loads(file.read_text())["blake2b"] for file in files}) == len(files) == 2  # two networks
    assert found.points[1].on_chips[1].condition == "macro.variation.sigma = 0.3"


@pytest.mark.parametrize(
    ("over", "train_over", "says"),
    [
        ("training.lr=0.1", None, "training.lr is no key of the macro"),
        ("macro.variation.sigma=0.1,7", None, r"variation.sigma: .*or equal to 1"),
        ("macro.variation.sigma=0.1", "training.lrr=0.1", r"no such key; did you mean lr\?"),
        ("macro.variation.sigma=0.1", "macro.rows=32,64", "give its values to --over macro.rows"),
        ("macro.variation.sigma=0.1", "methods.7.kind=qat", "'7' is no place in a list of 1"),
    ],
)
def test_what_cannot_be_swept_is_told_before_training(
    tmp_path: Path, over: str, train_over: str | None, says: str
) -> None:
    more = [Over.read(train_over)] if train_over else []
    with pytest.raises(ValueError, match=says):
        SweepRun(parse(SWEPT, "test"), [Over.read(over)], tmp_path, more, tell=quiet, progress=False)()
    assert not (tmp_path / "train").exists()


def test_several_macros_are_refused(tmp_path: Path) -> None:
    both = config(macro=[NAME, ANALOG])
    with pytest.raises(ValueError, match="several macros: choose one"):
        SweepRun(parse(both, "test"), OVER, tmp_path, tell=quiet, progress=False)()


def test_the_ideal_row_is_the_untrained_networks_wherever_its_method_stands(tmp_path: Path) -> None:
    data = TINY | {"macro": ANALOG, "methods": [{"kind": "error_aware", "distil": {}}, {"kind": "qat"}]}
    data["test"] = data["test"] | {"details": False, "recalibrate": False}
    found = SweepRun(parse(data, "test"), OVER[:1], tmp_path, tell=quiet, progress=False)()
    assert found.methods == ("untrained on chips", "error-aware, distilled")
    assert "error-aware, distilled is the best" in found.sentence or "chips is the best" in found.sentence


def test_a_killed_sweep_goes_on_as_if_nothing_had_happened(tmp_path: Path, whole: Path) -> None:
    file, out = tmp_path / "sweep.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(SWEPT))
    script = DIES.format(module="bitline.evaluate.ledger", function="append", after=7)
    arguments = ["sweep", str(file), "--over", f"{SIGMA}=0.1,0.3", "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (out / "sweep.json").exists()
    assert sum(len(ledger.read(one)) for one in (out / "answers").iterdir()) == 7
    SweepRun(load(file), OVER, out, tell=quiet, progress=False)()
    assert (out / "sweep.json").read_bytes() == (whole / "sweep.json").read_bytes()
    assert json.loads((out / "sweep.json").read_text())["over"] == [{"key": SIGMA, "values": [0.1, 0.3]}]


def test_a_float_network_has_answers(net: nn.Module) -> None:
    assert float(answers(net, TEST).double().mean()) > 0.7  # what the rest of this file stands on
