"""Deploy bundles: what they hold, what is refused, and networks they can and cannot describe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from torch import Tensor, nn
from typer.testing import CliRunner

from bitline import lab
from bitline.cli import app
from bitline.lab.bundle import Record
from bitline.macro import Chip, Macro
from bitline.nn import Mse, Pact, Xnor, calibrate, convert, layers
from bitline.samples import Samples
from test_experiment import TINY

SCHEMES: dict[str, dict[str, Any]] = {
    "two's complement": {"weights": {"kind": "twos_complement", "bits": 3}},
    "pair": {"weights": {"kind": "differential", "bits": 3}},
    "two columns": {"weights": {"kind": "differential", "bits": 3, "subtract": "digital"}},
    "reference column": {"weights": {"kind": "offset", "bits": 3, "cell_bits": 2}},
    "offset": {"weights": {"kind": "offset", "bits": 3, "subtract": "digital"}},
    "signed inputs": {"inputs": {"kind": "twos_complement", "bits": 3}},
    "offset inputs": {"inputs": {"kind": "offset", "bits": 3, "digit_bits": 2}},
    "two-phase inputs": {"inputs": {"kind": "two_phase", "bits": 4}},
    "cells with errors": {"cell": {"errors": [{"kind": "lognormal", "sigma": 0.1}]}},
    "noise": {"column": {"kind": "curve", "sigma": {"kind": "polynomial", "coefficients": [0.4]}}},
}


def macro(**changes: Any) -> Macro:
    """A small array, rows read in groups, so that layers take several tiles, row groups and blocks."""
    config: dict[str, Any] = {
        "name": "small",
        "rows": 12,
        "active_rows": 8,
        "columns": 16,
        "inputs": {"kind": "unsigned", "bits": 3},
        "weights": {"kind": "twos_complement", "bits": 3},
        "converter": {"kind": "adc", "bits": 8},
    }
    return Macro.model_validate(config | changes)


class Residual(nn.Module):
    """What a bundle must follow: branches, digital layers, norms, pooling, groups, uneven strides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Conv2d(4, 4, (3, 1), (1, 2), (1, 0), groups=2)
        self.side = nn.Conv2d(4, 4, 1, (1, 2))
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.stem(x)))
        y = self.pool(torch.relu(self.body(y) + self.side(y)))
        return self.head(y.mean((2, 3)))


def converted(on: Macro, net: nn.Module | None = None, **how: Any) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = (net or Residual()).eval()
    x = torch.rand(6, 2, 8, 8)
    signed = on.inputs is not None and on.inputs.low < 0
    model = convert(net, on, inputs=Mse(asymmetric=not signed), plan="reference", **how)
    return calibrate(model, [x], 1).eval(), x


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, x = converted(macro(), skip=["side"])
    folder = tmp_path_factory.mktemp("bundle") / "b"
    lab.save(lab.export(model, images=(x, torch.zeros(6))), folder)
    return folder


# ------------------------------------------------------------------------------------------------------------ exactness


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_bundle_computes_what_the_network_does(scheme: str, tmp_path: Path) -> None:
    """Converters of 8 bits cover every sum in steps of one, so that codes are exact where cells are."""
    on = macro(**SCHEMES[scheme], placement={"kind": "reload", "arrays": 9})
    model, x = converted(on, skip=["side"])
    lab.save(lab.export(model), tmp_path)
    bundle = lab.load(tmp_path)
    assert len(bundle.layers["stem"].tiles) > 1
    with torch.no_grad():
        wanted = model(x)
    found = lab.predict(bundle, x)
    if scheme == "noise":  # other draws
        assert torch.allclose(found, wanted, atol=1.0)
        assert not torch.equal(found, wanted)
    else:
        assert torch.allclose(found, wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))


def test_learned_bounds_of_inputs_are_in_the_bundle(tmp_path: Path) -> None:
    """A lower bound below zero, as E-PACT learns it; what is beyond the bounds is clipped to them."""
    torch.manual_seed(0)
    x = torch.randn(64, 8).clamp(min=-2.0)
    net = nn.Sequential(nn.Linear(8, 5))
    model = calibrate(convert(net, macro(), inputs=Pact(asymmetric=True), plan="reference"), [x], 1).eval()
    quantizer: Any = next(iter(layers(model).values())).input_quantizer
    alpha, beta = quantizer.alpha.item(), quantizer.beta.item()
    lab.save(lab.export(model), tmp_path)
    bundle = lab.load(tmp_path)
    (layer,) = bundle.record.layers
    held = json.loads((tmp_path / "bundle.json").read_text())["layers"][0]
    assert (held["input_lower"], held["input_upper"]) == (layer.input_lower, layer.input_upper)
    assert layer.input_lower is not None
    assert layer.input_upper is not None
    assert layer.input_lower < -1.5 * layer.input_scale
    assert layer.input_lower == pytest.approx(beta, abs=layer.input_scale / 2)
    assert layer.input_upper - layer.input_lower == pytest.approx(alpha - beta, rel=1e-6)
    assert torch.equal(
        lab.predict(bundle, 9 * x), lab.predict(bundle, (9 * x).clamp(layer.input_lower, layer.input_upper))
    )
    with torch.no_grad():
        assert torch.allclose(lab.predict(bundle, x), model(x), rtol=0, atol=1e-5)


def test_a_bundle_without_bounds_is_read(made: Path, tmp_path: Path) -> None:
    """As those of earlier versions are."""
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    record = json.loads((tmp_path / "bundle.json").read_text())
    for layer in record["layers"]:
        del layer["input_lower"], layer["input_upper"]
    (tmp_path / "bundle.json").write_text(json.dumps(record))
    x = torch.rand(2, 2, 8, 8)
    assert torch.equal(lab.predict(lab.load(tmp_path), x), lab.predict(lab.load(made), x))


def test_tiles_that_share_an_array_take_turns(made: Path) -> None:
    model, x = converted(macro(), skip=["side"])
    one = lab.export(model, arrays=1)
    board = lab.Board(macro(), arrays=1)
    runner = lab.running.Runner(one, lab.Instrument(board))
    assert torch.equal(runner(x), lab.predict(lab.load(made), x))
    tiles = sum(len(layer.tiles) for layer in one.record.layers)
    assert board.writes == tiles == 5


def test_samples_come_along_as_counts(tmp_path: Path) -> None:
    on = macro(columns=16)
    samples = lab.characterize(lab.Instrument(lab.Board(on, arrays=2)), tmp_path / "s.csv", conversions=3000)
    bundle = lab.export(converted(on)[0], samples=samples)
    assert bundle.record.reference
    assert int(bundle.tensors["reference/count"].sum()) == len(samples)
    several = Samples.concat([samples, replace(samples, chip=np.ones(len(samples), int))])
    with pytest.raises(ValueError, match="several chips"):
        lab.export(converted(on)[0], samples=several)


# ---------------------------------------------------------------------------------------------- files, damaged or other


def test_a_bundle_validates_against_its_schema(made: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    done = CliRunner().invoke(app, ["schema", "bundle"])
    schema, record = json.loads(done.stdout), json.loads((made / "bundle.json").read_text())
    jsonschema.validate(record, schema)
    record["layers"][0]["step"] = 0
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record, schema)


def change(folder: Path, key: str, value: Any) -> None:
    """Set ``a.0.b`` in bundle.json."""
    file = folder / "bundle.json"
    record = json.loads(file.read_text())
    *path, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    place = record
    for part in path:
        place = place[part]
    place[last] = value
    file.write_text(json.dumps(record))


def shortened(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])


def altered(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


TILE = {"array": 0, "group": 0, "tile": 0, "block": 0, "levels": "x"}
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no file": (lambda f: (f / "bundle.json").unlink(), "bundle.json: No such file"),
    "no JSON": (lambda f: (f / "bundle.json").write_text("{") and None, "is not JSON"),
    "another format": (lambda f: change(f, "format", "onnx"), "is no deploy bundle"),
    "another version": (lambda f: change(f, "version", 2), "has version 2; this release reads 1"),
    "a wrong field": (lambda f: change(f, "layers.0.step", -1.0), "layers.0.step: Input should be greater than 0"),
    "an unknown field": (
        lambda f: change(f, "layers.0.steps", 1.0),
        r"layers.0.steps: no such key; did you mean step\?",
    ),
    "a file elsewhere": (lambda f: change(f, "tensors.file", "../x.safetensors"), "tensors.file: String should match"),
    "a missing file": (lambda f: next(f.glob("*.safetensors")).unlink(), "No such file"),
    "a short file": (shortened, "is truncated"),
    "an altered file": (altered, "was altered: its BLAKE2 hash"),
    "bounds that are none": (
        lambda f: change(f, "layers.0.input_lower", -9.0),
        "layer stem: input_lower = -9, but code 0 stands for ",
    ),
    "a missing tensor": (lambda f: change(f, "layers.0.scale", "x"), "layer stem: tensor 'x' is missing"),
    "an array too many": (lambda f: change(f, "layers.0.tiles.0.array", 99), "layer stem: array 99 of a bundle for"),
    "a missing tile": (lambda f: change(f, "layers.0.tiles", [TILE]), "layer stem: 1 tiles, where"),
    "a step back": (lambda f: change(f, "nodes.1.inputs", [3]), "step 1 .layer. does not follow"),
    "an unknown layer": (lambda f: change(f, "nodes.1.layer", "x"), "runs layer 'x'; there are: stem"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_refused_by_name(damage: str, made: Path, tmp_path: Path) -> None:
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    lab.load(tmp_path)
    spoil, told = DAMAGES[damage]
    spoil(tmp_path)
    with pytest.raises(lab.BundleError, match=told):
        lab.load(tmp_path)


def test_an_unknown_operation_is_named(made: Path, tmp_path: Path) -> None:
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change(tmp_path, "nodes.2.op", "softmax")
    with pytest.raises(lab.BundleError, match="step 2: no operation 'softmax'; there are: relu"):
        lab.predict(lab.load(tmp_path), torch.rand(1, 2, 8, 8))


def test_saving_again_leaves_one_file_and_levels_stay_integers(made: Path) -> None:
    bundle = lab.load(made)
    lab.save(bundle, made)
    (file,) = made.glob("*.safetensors")
    tensors = safetensors.torch.load_file(file)
    levels = [t for name, t in tensors.items() if name.startswith("layer/stem/") and t.dim() == 2]
    assert levels
    assert all(t.dtype == torch.uint8 and int(t.max()) <= 1 for t in levels)
    assert Record.model_validate_json((made / "bundle.json").read_text()).images == 6


# -------------------------------------------------------------------------------------- boards and networks that differ


@pytest.mark.parametrize(
    ("board", "told"),
    [
        (lab.Board(macro(), arrays=3), r"needs 5 arrays, the board has 3: export it with --arrays 3"),
        (lab.Board(macro(rows=16), arrays=30), "with rows = 12; board small has 16"),
        (lab.Board(macro(converter={"kind": "adc", "bits": 6}), arrays=30), "with codes = 256; board small has 64"),
    ],
)
def test_a_board_that_does_not_fit_is_refused(board: lab.Board, told: str, made: Path) -> None:
    with pytest.raises(lab.BundleError, match=told):
        lab.program(lab.load(made), lab.Instrument(board))


class Odd(nn.Module):
    def __init__(self, what: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.what = nn.Linear(8, 8), what

    def forward(self, x: Tensor) -> Tensor:
        return self.what(self.layer(x))


@pytest.mark.parametrize(
    ("net", "told"),
    [
        (Odd(lambda x: torch.softmax(x, -1)), "the network calls softmax .*, which a bundle cannot hold"),
        (Odd(lambda x: x * 2), "the network calls mul"),
        (Odd(nn.GELU()), "GELU.* cannot be held by a bundle"),
        (Odd(lambda x: x if x.sum() > 0 else -x), "cannot be traced"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")), "padding_mode 'reflect'"),
    ],
)
def test_what_a_bundle_cannot_hold_is_named(net: nn.Module, told: str) -> None:
    model, _ = converted(macro(), net)
    with pytest.raises(ValueError, match=told):
        lab.export(model)


def test_what_has_no_codes_is_refused() -> None:
    net = nn.Linear(8, 8)
    with pytest.raises(ValueError, match="not calibrated"):
        lab.export(convert(net, macro()))
    with pytest.raises(ValueError, match="has no converter"):
        lab.export(converted(macro(converter=None), nn.Linear(8, 8))[0])
    with pytest.raises(ValueError, match="no digits in cells"):
        lab.export(convert(net, Macro(name="free", rows=8, columns=8)))
    two = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with pytest.raises(ValueError, match="sit on 2"):
        lab.export(convert(two, {"0": macro(), "1": macro(rows=14)}))
    binary = macro(weights={"kind": "binary"}, inputs={"kind": "bipolar", "bits": 1})
    model = calibrate(convert(nn.Linear(8, 8), binary, inputs=Mse(), weights=Xnor()), [torch.rand(9, 8)], 1)
    with pytest.raises(ValueError, match="is no scale and zero point"):
        lab.export(model)


def test_codes_are_not_compared_where_the_die_is_unknown(tmp_path: Path) -> None:
    on = macro(column={"kind": "curve", "offset_sigma": 0.3})
    model, x = converted(on)
    bundle = lab.export(model, images=(x, torch.zeros(6)))
    found = lab.replay(bundle, lab.Instrument(lab.Board(on, Chip(0, 0), bundle.record.arrays)))
    assert found.agreement is None
    assert "not how this one is" in found.why
    assert found.accuracy == found.predicted
    known = lab.export(converted(macro())[0], images=(x, torch.zeros(6)))
    found = lab.replay(known, lab.Instrument(lab.Board(macro(), Chip(4, 4), known.record.arrays)))
    assert found.agreement is not None
    assert found.agreement.agrees


def test_export_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    arguments = ["export", tmp_path / "tiny.yaml", "--out", tmp_path / "out", "--images", 5, "--arrays", 2]
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    bundle = lab.load(tmp_path / "out" / "bundle")
    assert bundle.record.arrays == 2
    assert len(bundle.tensors["images"]) == 5
    assert "2 arrays" in done.output
    done = CliRunner().invoke(app, ["export", str(tmp_path / "tiny.yaml"), "nowhere"])
    assert done.exit_code == 2
    assert "name one of the experiment's" in done.stderr
