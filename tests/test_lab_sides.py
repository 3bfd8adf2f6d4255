"""Side paths in deploy bundles: as the digital steps that they are, beside what the board reads."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
import yaml
from pydantic import BaseModel
from torch import Tensor, nn
from typer.testing import CliRunner

from bitline import lab
from bitline.cli import app
from bitline.compensate import (
    AnyPath,
    Centred,
    CorrectNet,
    LowRank,
    Patch,
    Sparse,
    Trim,
    Vectors,
    attach,
    centre,
    remove,
    sides,
)
from bitline.compensate import (
    Path as Kind,
)
from bitline.lab.graph import OPERATIONS, evaluate
from bitline.lab.lowered import Written
from bitline.lab.serve import Served
from bitline.macro import Chip, Macro, ideal
from bitline.nn import CimLayer, Read, SidePath, calibrate, convert, layers, use
from test_experiment import TINY
from test_lab_bundle import altered, change, converted, macro

KINDS: dict[str, Kind] = {
    "correctnet": CorrectNet(width=0.5),
    "low rank": LowRank(rank=2),
    "vectors": Vectors(rank=3),
    "sparse": Sparse(share=0.3),
    "mean": Centred(rank=0),
    "centred": Centred(rank=2),
    "trim": Trim(),
}
SIGNED: dict[str, Any] = {"inputs": {"kind": "twos_complement", "bits": 4}}
SCHEMES: dict[str, dict[str, Any]] = {
    "two's complement": SIGNED,
    "two-phase": {"inputs": {"kind": "two_phase", "bits": 4}, "weights": {"kind": "differential", "bits": 3}},
}
ERRING = SIGNED | {"cell": {"errors": [{"kind": "lognormal", "sigma": 0.3}]}}
LOGNORMAL = {"name": "m", "rows": 32, "columns": 32, "variation": {"kind": "lognormal", "sigma": 0.5}}


def dies(number: int) -> Chip:
    return Chip(3, number)


@torch.no_grad()
def beside(model: nn.Module, kind: Kind, x: Tensor) -> nn.Module:
    """The model with side paths of this kind that do something."""
    if isinstance(kind, Centred):
        return centre(model, [x], kind, chip=dies)
    attach(model, kind)
    draw = torch.Generator().manual_seed(7)
    for side in sides(model).values():
        for value in side.state_dict().values():
            if value.is_floating_point():
                value += 0.1 * torch.randn(value.shape, generator=draw)
    return calibrate(model, [x], 1).eval()


def with_paths(kind: Kind, on: Macro, net: nn.Module | None = None) -> tuple[nn.Module, Tensor]:
    model, x = converted(on, net, skip=["side"] if net is None else [])
    return beside(model, kind, x), x


# ------------------------------------------------------------------------------------------------------------ exactness


def test_each_kind_is_here() -> None:
    missing = set(get_args(get_args(AnyPath)[0])) - {type(kind) for kind in KINDS.values()} - {Patch}
    assert not missing, "a row for each in KINDS of this file, or a test that it is refused"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_computes_what_the_network_does(kind: str, scheme: str, tmp_path: Path) -> None:
    """As for networks without side paths: codes are exact, and outputs to the last bits of a float."""
    on = macro(**SCHEMES[scheme], placement={"kind": "reload", "arrays": 9})
    model, x = with_paths(KINDS[kind], on)
    lab.save(lab.export(model), tmp_path)
    bundle = lab.load(tmp_path)
    with torch.no_grad():
        wanted = model(x)
    found, most = lab.predict(bundle, x), float(wanted.abs().max())
    assert torch.allclose(found, wanted, rtol=0, atol=2e-5 * most)
    assert len(sides(model)) == 3
    without = lab.predict(lab.export(calibrate(remove(model), [x], 1).eval()), x)
    assert not torch.allclose(found, without, rtol=0, atol=2e-3 * most)  # they do something


torch.manual_seed(0)
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 5), (8, 6)),
    "tokens": (nn.Linear(6, 5), (4, 3, 6)),
    "conv1d, padded unevenly": (nn.Conv1d(6, 5, 4, padding="same", dilation=3), (4, 6, 9)),
    "conv2d": (nn.Conv2d(6, 5, 3, stride=2, padding=(1, 2)), (4, 6, 7, 8)),
    "groups": (nn.Conv2d(6, 8, 3, groups=2, padding=1, dilation=2), (4, 6, 5, 5)),
    "depthwise": (nn.Conv2d(6, 6, (2, 3), groups=6, padding="same", bias=False), (4, 6, 5, 5)),
    "conv3d": (nn.Conv3d(6, 5, 2), (2, 6, 3, 4, 3)),
}


def stepwise(layer: CimLayer, x: Tensor, read: Read) -> Tensor:
    """A layer's outputs by the steps of its side path."""
    written = Written()
    written.add("input")
    with torch.no_grad():
        written.layer(layer, 0)
        assert all(value.dtype == torch.float32 for value in written.tensors.values())
        held: Any = lab.Bundle.__new__(lab.Bundle)
        held.record, held.tensors = SimpleNamespace(nodes=written.nodes), written.tensors
        return evaluate(held, x, lambda name, inputs: read(inputs))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYERS)
def test_steps_are_the_path(name: str, kind: str) -> None:
    """Whatever the layer: kernels, strides, groups, padding; on a die of weights that grow by exp(σ²/2), with what a
    typical array makes of a product, and on the ideal macro without."""
    torch.manual_seed(1)
    net, shape = LAYERS[name]
    x = torch.randn(shape) + 0.5
    model = beside(convert(nn.Sequential(copy.deepcopy(net)), Macro.model_validate(LOGNORMAL)).eval(), KINDS[kind], x)
    layer = layers(model)["0"]
    for on in (None, ideal):
        use(model, on)
        with torch.no_grad():
            wanted = model(x)
        torch.testing.assert_close(stepwise(layer, x, layer._read), wanted, rtol=1e-5, atol=1e-5)
        if isinstance(KINDS[kind], Centred):
            made = float(layer.side.gain) * math.exp(0.125)
            assert float(layer.side.scale(layer)) == pytest.approx(1.0 if on else made, rel=1e-6)


def test_the_gain_of_a_typical_array_is_in_the_bundle() -> None:
    """What is digital goes with it. Cells that err, but less than any code shows."""
    little = {"cell": {"errors": [{"kind": "lognormal", "sigma": 1e-4}]}}
    model, x = with_paths(Centred(rank=2), macro(**SIGNED, **little))
    found = []
    for gain in (1.0, 1.07):
        for side in sides(model).values():
            side.gain.fill_(gain)
        with torch.no_grad():
            wanted = model(x)
        found.append(lab.predict(lab.export(model), x))
        assert torch.allclose(found[-1], wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))
    assert float((found[1] - found[0]).abs().max()) > 0.02 * float(found[0].abs().max())


def test_a_bundle_is_of_the_macro_as_designed() -> None:
    """Whichever the network computes with, which it goes on with."""
    model, x = with_paths(Centred(rank=2), macro(**ERRING))
    wanted = lab.predict(lab.export(model), x)
    use(model, ideal)
    assert torch.equal(lab.predict(lab.export(model), x), wanted)
    assert all(layer.macro == ideal(layer.design) for layer in layers(model).values())


def test_low_rank_stays_of_low_rank() -> None:
    """A bundle stores and multiplies what the path does, not a matrix as large as the layer's."""
    model, _ = with_paths(LowRank(rank=2), macro(**SIGNED), nn.Sequential(nn.Flatten(), nn.Linear(128, 40)))
    bundle = lab.export(model)
    numbers = sum(bundle.tensors[name].numel() for node in bundle.record.nodes for name in node.tensors.values())
    assert numbers == sides(model)["1"].size == 2 * (128 + 40)


# ---------------------------------------------------------------------------------------------------- what is refused


class Own(BaseModel):
    kind: str = "own"


class OwnPath(SidePath):
    """Of someone who has not said how it is lowered."""

    config = Own()

    def forward(self, layer: CimLayer, x: Tensor, read: Read) -> Tensor:
        return read(x).sin()


def test_a_kind_without_steps_is_named() -> None:
    model, _ = converted(macro(), skip=["side"])
    layers(model)["body"].side = OwnPath()
    with pytest.raises(ValueError, match=r"body: its side path of kind 'own' cannot be held by a bundle: nobody has"):
        lab.export(model)
    remove(model)
    lab.export(model)


def test_a_path_around_another_is_held_and_a_patch_is_not(tmp_path: Path) -> None:
    """A trim around centred inputs: each in its place."""
    model, x = with_paths(Centred(rank=1), macro(**SIGNED))
    attach(model, Trim())
    with torch.no_grad():
        for layer in layers(model).values():
            layer.side.outer.gain.mul_(1.3)
            layer.side.outer.offset.add_(0.2)
        wanted = model(x)
    lab.save(lab.export(model), tmp_path)
    found = lab.predict(lab.load(tmp_path), x)
    assert torch.allclose(found, wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))
    model, _ = with_paths(Centred(rank=1), macro(**SIGNED))
    attach(model, Patch(), at=["body"])
    with pytest.raises(
        ValueError, match=r"body: its side path of kind 'centred around patch' cannot be held .* quantised"
    ):
        lab.export(model)


@pytest.mark.parametrize("kind", [CorrectNet(weights="analog"), LowRank(weights="analog"), Sparse(weights="analog")])
def test_weights_on_the_macro_are_refused(kind: Kind) -> None:
    model, _ = converted(macro(), skip=["side"])
    layers(model)["stem"].side = kind.build(layers(model)["stem"])
    told = rf"stem: its side path of kind '{kind.kind}' cannot be held by a bundle: .*weights: analog"
    with pytest.raises(ValueError, match=told):
        lab.export(model)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs centred, and trims of a layer beside."""
    torch.manual_seed(0)
    x = torch.rand(6, 2, 8, 8)
    model, _ = converted(macro(**SIGNED), skip=["side"])
    centre(model, [x], Centred(rank=1), at=["stem", "body"])
    attach(model, Trim(), at=["head"])
    folder = tmp_path_factory.mktemp("bundle") / "b"
    lab.save(lab.export(model, images=(x, torch.zeros(6))), folder)
    return folder


def rewritten(spoil: Callable[[dict[str, Tensor], str], None]) -> Callable[[Path], None]:
    """Another tensor in place of one of the steps', the files whole again."""

    def act(folder: Path) -> None:
        bundle = lab.load(folder)
        name = next(n.tensors["shift"] for n in bundle.record.nodes if n.op == "affine")
        spoil(bundle.tensors, name)
        lab.save(bundle, folder)

    return act


def step(folder: Path, op: str, which: int = 0) -> str:
    nodes = json.loads((folder / "bundle.json").read_text())["nodes"]
    return f"nodes.{[i for i, node in enumerate(nodes) if node['op'] == op][which]}"


def weights_of(folder: Path, number: int, value: Callable[[Tensor], Tensor]) -> None:
    """Change the weight of a convolution: 0, to coordinates; 1, back; 2, of the product."""
    bundle = lab.load(folder)
    node = [n for n in bundle.record.nodes if n.op == "conv"][number]
    bundle.tensors[node.tensors["weight"]] = value(bundle.tensors[node.tensors["weight"]]).contiguous()
    lab.save(bundle, folder)


def replaced(tensors: dict[str, Tensor], name: str, value: Tensor) -> None:
    tensors[name] = value


AT_LOAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "an altered file": (altered, "was altered: its BLAKE2 hash"),
    "a missing tensor": (rewritten(lambda t, name: t.__delitem__(name)), r"step 1 \(affine\): tensor '.*' is missing"),
    "another tensor's name": (lambda f: change(f, step(f, "affine") + ".tensors.shift", "x"), "tensor 'x' is missing"),
    "a step ahead": (lambda f: change(f, step(f, "add") + ".inputs", [1, 99]), "does not follow from earlier steps"),
    "a wrong setting": (lambda f: change(f, step(f, "affine") + ".settings.axis", "last"), "settings.axis"),
    "an unknown field": (lambda f: change(f, step(f, "layer") + ".side", "centred"), "side: no such key"),
}
AT_RUN: dict[str, tuple[Callable[[Path], None], str]] = {
    "a mean too short": (
        rewritten(lambda t, name: replaced(t, name, t[name][:1].clone())),
        r"step 1 \(affine\) of the bundle cannot be run: shift has the shape \(1,\), \(2,\) is needed",
    ),
    "a mean of two axes": (rewritten(lambda t, name: replaced(t, name, t[name][:, None].clone())), r"\(2,\) is needed"),
    "no such axis": (lambda f: change(f, step(f, "affine") + ".settings.axis", -9), r"\(affine\) .* cannot be run"),
    "no axis": (lambda f: change(f, step(f, "affine") + ".settings", {}), "cannot be run: 'axis'"),
    "no weight": (lambda f: change(f, step(f, "conv") + ".tensors", {}), "cannot be run: 'weight'"),
    "other directions": (lambda f: weights_of(f, 0, lambda w: w[:, :1]), r"\(conv\) of the bundle cannot be run"),
    "a rest of one channel": (lambda f: weights_of(f, 1, lambda w: w[:1]), r"are to be of one shape"),
    "a product of one output": (lambda f: weights_of(f, 2, lambda w: w[:1]), r"are to be of one shape"),
    "a layer of other channels": (
        lambda f: change(f, step(f, "layer", 1) + ".inputs", [0]),
        r"layer body of 4 input channels is given \(6, 2, 8, 8\)",
    ),
    "a layer of no positions": (
        lambda f: change(f, step(f, "layer", 2) + ".layer", "stem"),
        r"layer stem of 2 input channels is given \(6, 4\)",
    ),
    "one result too few": (lambda f: change(f, step(f, "add") + ".inputs", [1]), r"\(add\) .* cannot be run"),
}


def spoiled(made: Path, folder: Path, damage: Callable[[Path], None]) -> Path:
    for file in made.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    lab.load(folder)
    damage(folder)
    return folder


@pytest.mark.parametrize("damage", AT_LOAD)
def test_damaged_steps_are_refused_by_name(damage: str, made: Path, tmp_path: Path) -> None:
    spoil, told = AT_LOAD[damage]
    spoiled(made, tmp_path, spoil)
    with pytest.raises(lab.BundleError, match=told):
        lab.load(tmp_path)


@pytest.mark.parametrize("damage", AT_RUN)
def test_steps_that_do_not_fit_are_refused_by_name(damage: str, made: Path, tmp_path: Path) -> None:
    """None of them computes something else."""
    spoil, told = AT_RUN[damage]
    bundle = lab.load(spoiled(made, tmp_path, spoil))
    with pytest.raises(lab.BundleError, match=told):
        lab.predict(bundle, bundle.tensors["images"])


def test_an_older_host_names_what_it_cannot_do(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has the operations of the first release alone."""
    for op in ("affine", "pad", "avg_pool_like"):
        monkeypatch.delitem(OPERATIONS, op)
    bundle = lab.load(made)
    assert bundle.record.version == 1
    with pytest.raises(lab.BundleError, match="step 1: no operation 'affine'; there are: relu"):
        lab.predict(bundle, bundle.tensors["images"])


# ------------------------------------------------------------------------------------------------------- the whole loop


def test_from_an_experiment_with_centred_inputs_to_a_board(tmp_path: Path) -> None:
    """`bitline export`, `lab program` and `lab replay` over TCP: codes and accuracy are as predicted, and a column that
    moves is found."""
    noisy = {"kind": "curve", "sigma": {"kind": "polynomial", "coefficients": [0.4]}}
    parts = {"inputs": {"kind": "twos_complement", "bits": 4}, "weights": {"kind": "twos_complement", "bits": 4}}
    on = {
        "name": "signed",
        "rows": 64,
        "columns": 64,
        **parts,
        "column": noisy,
        "converter": {"kind": "adc", "bits": 6},
    }
    method = {"kind": "error_aware", "centre": {"rank": 2}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"macro": on, "methods": [method]}))
    arguments = ["export", tmp_path / "tiny.yaml", "--out", tmp_path / "out", "--images", 40, "--arrays", 2]
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "out" / "bundle"
    bundle = lab.load(folder)
    assert "affine" in {node.op for node in bundle.record.nodes}
    assert bundle.record.version == 1
    done = CliRunner().invoke(app, [*map(str, arguments), "--recalibrate", "--bundle", str(tmp_path / "other")])
    assert done.exit_code == 0, done.output
    other = lab.load(tmp_path / "other")
    assert other.record.provenance["norms"] == "recalibrated"
    differ = {name for name, value in bundle.tensors.items() if not torch.equal(value, other.tensors[name])}
    norms = [node.tensors for node in bundle.record.nodes if node.op == "batch_norm"]
    assert differ == {names[key] for names in norms for key in ("mean", "variance")}

    def replayed(**how: Any) -> tuple[int, dict[str, Any]]:
        here = Served(lab.Board(bundle.macro, arrays=2, **how))
        address = f"tcp://127.0.0.1:{here.listen('frames')}"
        for name, options in (("program", ()), ("replay", ("--out", str(tmp_path / "found.json"), "--alpha", "1e-4"))):
            done = CliRunner().invoke(app, ["lab", name, str(folder), address, *options])
            assert done.exit_code in (0, 3), done.output
        here.close()
        return done.exit_code, json.loads((tmp_path / "found.json").read_text())

    status, found = replayed()
    assert status == 0, found
    assert found["images"] == 40
    assert found["agreement"]["columns"] > 60
    assert len(found["agreement"]["layers"]) == len(bundle.record.layers)
    assert all(line["covered"] > 0.9 for line in found["agreement"]["layers"])
    status, found = replayed(drifted={3: 2.0})
    assert status == 3
    assert [line["name"] for line in found["agreement"]["drifted"]] == ["array 0 column 3"]


def test_replay_of_centred_inputs_compares_codes(made: Path) -> None:
    bundle = lab.load(made)
    board = lab.Board(bundle.macro, arrays=bundle.record.arrays)
    found = lab.replay(bundle, lab.Instrument(board))
    assert found.agreement is not None
    assert found.agreement.agrees
    assert {line.name for line in found.agreement.layers} == {"stem", "body", "head"}
    assert found.accuracy == found.predicted
