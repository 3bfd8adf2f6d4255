"""Inputs centred: what they have in common is digital, and a chip's errors act on the rest alone."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from typer.testing import CliRunner

import bitline as bl
from bitline.cli import app
from bitline.compensate import Centred, centre, remove, sides
from bitline.compensate.centre import fit
from bitline.cost import measure_activity
from bitline.experiment import Run, parse
from bitline.macro import Chip, Macro, ideal
from bitline.methods import ErrorAware, Qat
from bitline.nn import CimLayer, calibrate, convert, input_ranges, layers, moved, on_chip, walk
from test_experiment import TINY, quiet

MIX = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
LOGNORMAL = {"variation": {"kind": "lognormal", "sigma": 0.5}}


@pytest.fixture(autouse=True)
def _the_same_numbers() -> None:
    """Whichever tests run before."""
    torch.manual_seed(1)


def inputs(*shape: int) -> Tensor:
    """(B, 6, …), channels that go together and have means."""
    x = torch.randn(shape).movedim(1, -1) @ MIX
    return (x + torch.linspace(-1, 3, 6)).movedim(-1, 1)


def macro(**changes: Any) -> Macro:
    return Macro.model_validate({"name": "m", "rows": 64, "columns": 64} | changes)


torch.manual_seed(0)
KINDS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 5), (40, 6)),
    "tokens": (nn.Linear(6, 5), (10, 4, 6)),
    "conv1d": (nn.Conv1d(6, 5, 3, padding=2, dilation=2), (10, 6, 9)),
    "conv2d": (nn.Conv2d(6, 5, 3, stride=2, padding=1), (10, 6, 7, 8)),
    "groups": (nn.Conv2d(6, 8, 3, groups=2, padding=1), (10, 6, 5, 5)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6, padding="same", bias=False), (10, 6, 5, 5)),
    "reflected": (nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect"), (10, 6, 5, 5)),
    "conv3d": (nn.Conv3d(6, 5, 2), (4, 6, 3, 4, 3)),
}


def made(kind: str) -> tuple[nn.Module, Tensor]:
    layer, shape = KINDS[kind]
    x = inputs(*shape) if kind != "tokens" else inputs(10, 6, 4).movedim(1, -1)
    return layer, x


def layer_of(net: nn.Module, design: Macro, x: Tensor) -> nn.Module:
    return calibrate(convert(nn.Sequential(copy.deepcopy(net)), design), [x]).eval()


def dies(number: int) -> Chip:
    return Chip(3, number)


@pytest.mark.parametrize("rank", [0, 2, 9])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_product_in_two_parts_is_the_product(kind: str, rank: int) -> None:
    """Whatever the layer, at its edges too, and with weights that it came to have later."""
    net, x = made(kind)
    found = centre(layer_of(net, macro(), x), [x], Centred(rank=rank))
    (path,) = sides(found).values()
    assert path.directions.shape == (6, min(rank, 5))
    torch.testing.assert_close(path.directions.T @ path.directions, torch.eye(min(rank, 5)), atol=1e-5, rtol=0)
    torch.testing.assert_close(found(x), net(x), atol=1e-5, rtol=1e-5)
    found[0].weight.mul_(-1.5)
    other = copy.deepcopy(net)
    other.weight.mul_(-1.5)
    torch.testing.assert_close(found(x + 0.3), other(x + 0.3), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0].exact(x), other(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "tokens", "conv2d", "groups"])
@torch.no_grad()
def test_a_chip_shifts_no_output(kind: str) -> None:
    """Over the inputs that means were found on, outputs have on every chip the mean of a typical array's, where nothing
    is padded; they would be off by their own spread."""
    net, x = made(kind)
    if hasattr(net, "padding"):
        net = copy.deepcopy(net)
        net.padding, net._reversed_padding_repeated_twice = (0, 0), [0] * 4
        x = x.mean((2, 3), keepdim=True).expand_as(x).contiguous()  # wherever the kernel is, inputs have one mean
    plain = layer_of(net, macro(**LOGNORMAL), x)
    found = centre(copy.deepcopy(plain), [x], Centred(rank=0), chip=dies)
    at = 1 if x.dim() == 4 else -1
    gain = math.exp(0.125) * float(next(iter(sides(found).values())).gain)

    def means(model: nn.Module) -> Tensor:
        y = model(x).movedim(at, -1).flatten(0, -2)
        return y.mean(0)

    wanted = (means(net) - (net.bias if net.bias is not None else 0)) * gain + (net.bias if net.bias is not None else 0)
    for number in range(5):
        for model in (plain, found):
            on_chip(model, Chip(0, number))
        spread = net(x).movedim(at, -1).flatten(0, -2).std(0).mean()
        torch.testing.assert_close(means(found), wanted, atol=1e-4, rtol=1e-4)
        assert (means(plain) - wanted).abs().max() > 0.3 * spread


@pytest.mark.parametrize("rank", [0, 1, 3])
@torch.no_grad()
def test_errors_have_the_power_of_what_is_left(rank: int) -> None:
    """E e² = Var(exp θ) · Σ_i w_i² E r_i² over chips and inputs, r the rest; and of all subspaces the principal one
    leaves least."""
    net, x = nn.Linear(6, 40, bias=False), inputs(200, 6)
    nn.init.normal_(net.weight, generator=torch.Generator().manual_seed(1))
    found = centre(layer_of(net, macro(**LOGNORMAL), x), [x], Centred(rank=rank), chip=dies)
    path = found[0].side
    path.gain.fill_(1.0)
    _, rest = path.parts(found[0], x)
    mean = x.mean(0)
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    assert float(rest.square().sum(1).mean()) == pytest.approx(float(values[rank:].sum()), rel=1e-4)
    assert float(rest.square().sum()) < float((x - mean).square().sum()) or rank == 0
    power = []
    for number in range(400):
        on_chip(found, Chip(0, number))
        power.append((found(x) - math.exp(0.125) * net(x)).square().mean())
    wanted = (math.exp(0.25) - 1) * math.exp(0.25) * (net.weight.square() @ rest.square().mean(0)).mean()
    assert float(torch.stack(power).mean()) == pytest.approx(float(wanted), rel=0.05)


@torch.no_grad()
def test_the_digital_part_has_the_arrays_gain() -> None:
    """But for how weights grow, which the variation in use tells: any sigma of it, and the ideal macro."""
    x = inputs(100, 6)
    wide = torch.cat([x] * 20, 1) + torch.randn(100, 120)
    net = nn.Linear(120, 60)
    found = centre(layer_of(net, macro(**LOGNORMAL), wide), [wide], chip=dies)
    path = found[0].side
    assert float(path.gain) == pytest.approx(1, rel=0.06)
    assert float(path.scale(found[0])) == pytest.approx(math.exp(0.125), rel=0.06)
    bl.nn.use(found, lambda macro: macro.model_copy(update={"variation": macro.variation.at(2.0)}))
    assert float(path.scale(found[0])) == pytest.approx(math.exp(0.5), rel=0.06)
    torch.testing.assert_close(found[0].exact(wide), net(wide), atol=1e-4, rtol=1e-4)
    bl.nn.use(found, ideal)
    torch.testing.assert_close(found(wide), net(wide), atol=1e-4, rtol=1e-4)
    seen: list[Tensor] = []
    walk(found, [wide], lambda layer, x, y: seen.append(y))
    torch.testing.assert_close(seen[0], net(wide), atol=1e-4, rtol=1e-4)
    bl.nn.use(found, ideal)
    again = fit(copy.deepcopy(found), [wide], dies)  # of the macro as designed, whichever is in use
    assert torch.equal(again[0].side.gain, path.gain)
    assert again[0].macro == ideal(found[0].design)
    other = moved(found, lambda macro: macro.model_copy(update={"variation": macro.variation.at(2.0)}))
    assert float(other[0].side.scale(other[0])) == pytest.approx(math.exp(0.5), rel=0.06)
    found = centre(layer_of(net, macro(variation={"kind": "range", "sigma": 0.1}), wide), [wide], chip=dies)
    assert float(found[0].side.gain) == pytest.approx(1, rel=0.06)
    silent = centre(layer_of(net, macro(), wide), [torch.ones(4, 120)])
    assert float(silent[0].side.gain) == 1  # nothing is left to measure it by


CONVERTING = {
    "inputs": {"kind": "twos_complement", "bits": 6, "digit_bits": 1},
    "weights": {"kind": "differential", "bits": 5, "cell_bits": 4},
    "converter": {"bits": 7, "range": "calibrated"},
}


@pytest.mark.parametrize("scheme", ["twos_complement", "two_phase"])
@torch.no_grad()
def test_ranges_suit_what_is_left(scheme: str) -> None:
    """Smaller numbers, finer steps: of inputs and of converters, and an output that is nearer to the float layer's."""
    net, x = nn.Conv2d(6, 8, 3, padding=1), inputs(20, 6, 8, 8) + 4
    plain = layer_of(net, macro(**CONVERTING | {"inputs": {"kind": scheme, "bits": 6, "digit_bits": 1}}), x)
    found = centre(copy.deepcopy(plain), [x], Centred(rank=3))
    before, after = plain[0], found[0]
    assert isinstance(before, CimLayer)
    assert isinstance(after, CimLayer)
    assert float(after.input_quantizer.scale) < 0.6 * float(before.input_quantizer.scale)
    assert after.converters.calibrated
    errors = [(model(x) - net(x)).square().mean() for model in (plain, found)]
    assert errors[1] < 0.7 * errors[0]
    assert (found[0].exact(x) - found(x)).square().mean() < 0.01 * found(x).var()  # converters' steps
    again = centre(copy.deepcopy(plain), [x + 1], Centred(rank=3))
    again.load_state_dict(found.state_dict())
    assert torch.equal(again(x), found(x))


@torch.no_grad()
def test_a_coarse_converter_does_not_mute_what_is_digital() -> None:
    """The gain is of the array: a converter that has hardly a step for a layer's sums says nothing of it."""
    net, x = nn.Linear(6, 30), inputs(200, 6)
    coarse = macro(**CONVERTING | {"converter": {"bits": 3}})
    found = centre(layer_of(net, coarse, x), [x], Centred(rank=3))
    assert float(found[0].side.gain) == pytest.approx(1, rel=0.02)
    assert (found(x) - net(x)).square().mean() < 0.1 * net(x).var()


@torch.no_grad()
def test_what_is_left_is_what_is_measured_and_ranges_are_found_anew_without_it() -> None:
    net, x = nn.Linear(6, 30), inputs(200, 6).relu() + 1
    plain = layer_of(net, macro(**CONVERTING), x)
    found = centre(copy.deepcopy(plain), [x], Centred(rank=2))
    active = {name: measure_activity(model, x)["0"] for name, model in (("plain", plain), ("found", found))}
    layer = found[0]
    codes, _, _ = layer.input_quantizer(layer.driven(x))
    digits = layer.design.inputs.digits(codes)
    assert active["found"].drives == pytest.approx(float((digits != 0).double().mean()))
    assert active["found"].drives != active["plain"].drives
    (row,) = input_ranges(found, [x])
    assert row.own is not None
    assert row.own.clipping < 1e-3 * float(layer.driven(x).square().mean())
    remove(found)
    with pytest.raises(RuntimeError, match="not calibrated"):
        found(x)
    torch.testing.assert_close(calibrate(found, [x])(x), plain(x))


@torch.no_grad()
def test_the_digital_part_is_exact_in_mixed_precision() -> None:
    net, x = nn.Linear(6, 30), inputs(200, 6) + 30
    plain = layer_of(net, macro(), x)
    found = centre(copy.deepcopy(plain), [x], Centred(rank=5))
    wanted = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        errors = [float((model(x) - wanted).square().mean()) for model in (plain, found)]
    assert errors[1] < 1.2 * errors[0]  # outputs are rounded, as they were
    half = copy.deepcopy(found).to(torch.bfloat16)
    assert half(x.bfloat16()).dtype == torch.bfloat16
    assert found(x[:0]).shape == (0, 30)


def test_gradients_pass_both_parts() -> None:
    net, x = nn.Conv2d(6, 5, 3, padding=1), inputs(4, 6, 5, 5)
    found = centre(layer_of(net, macro(), x), [x], Centred(rank=2))
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found(mine).square().sum().backward()
    net(theirs).square().sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found[0].weight.grad, net.weight.grad, atol=1e-2, rtol=1e-4)
    net.zero_grad()


def test_a_method_trains_on_centred_inputs_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    x = inputs(64, 6)
    y = (x[:, 0] > x.mean(0)[0]).long()
    batches = lambda epoch: [(x[i], y[i], i) for i in torch.arange(64).split(16)]  # noqa: E731
    start = calibrate(convert(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)), macro(**LOGNORMAL)), [x])
    method, config = ErrorAware(centre=Centred(rank=1)), bl.TrainConfig(steps=12, lr=0.05, checkpoint_every=5)
    assert method.title == "error-aware, inputs centred, 1 direction digital"
    whole, part = copy.deepcopy(start), copy.deepcopy(start)
    bl.train(whole, batches, config=config, method=method, progress=False)
    assert list(sides(whole)) == ["0", "2"]
    assert float(whole[0].side.gain) != 1
    assert Qat(centre=Centred()).title == "without errors, inputs centred, 1 direction digital"

    def broken(epoch: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        if epoch == 2:
            raise RuntimeError("stopped")
        return batches(epoch)

    with pytest.raises(RuntimeError, match="stopped"):
        bl.train(part, broken, config=config, method=method, out=tmp_path, progress=False)
    for _ in range(2):  # goes on; then is read as it was
        part = copy.deepcopy(start)
        bl.train(part, batches, config=config, method=method, out=tmp_path, progress=False)
        assert all(torch.equal(part.state_dict()[name], value) for name, value in whole.state_dict().items())


def test_rows_of_a_test(tmp_path: Path) -> None:
    data = TINY | {
        "macro": {"name": "memory", "rows": 64, "columns": 64} | LOGNORMAL,
        "methods": [{"kind": "error_aware", "centre": {"rank": 2}}],
        "test": TINY["test"] | {"centre": [{"rank": 0}, {"rank": 3}], "details": False},
    }
    result = Run(parse(data, "test"), tmp_path, quiet, progress=False)()
    names = [row.method for row in result.rows if row.chips > 1]
    assert [name for name in names if "centred" in name] == [
        "untrained on chips + inputs centred",
        "untrained on chips + inputs centred, BN recalibrated",
        "untrained on chips + inputs centred, 3 directions digital",
        "untrained on chips + inputs centred, 3 directions digital, BN recalibrated",
        "error-aware, inputs centred, 2 directions digital",
        "error-aware, inputs centred, 2 directions digital + BN recalibrated",
    ]
    assert list(result.overheads) == ["error-aware, inputs centred, 2 directions digital"]


@pytest.mark.parametrize("scheme", ["unsigned", "offset", "bipolar"])
def test_inputs_without_a_sign_are_refused(scheme: str, tmp_path: Path) -> None:
    codes = {"kind": scheme, "bits": 4, "digit_bits": 4 if scheme == "bipolar" else 1}
    design = macro(**CONVERTING | {"inputs": codes})
    told = f"inputs of kind '{scheme}' have no such codes; use twos_complement or two_phase"
    with pytest.raises(ValueError, match=told):
        centre(convert(nn.Linear(6, 5), design), [inputs(8, 6)])
    assert told in (ErrorAware(centre=Centred()).refuses(design) or "")
    for where in ({"methods": [{"kind": "qat", "centre": {}}]}, {"test": TINY["test"] | {"centre": {}}}):
        data = TINY | {"macro": design.dump()} | where
        with pytest.raises(ValueError, match=told):
            Run(parse(data, "test"), tmp_path / "run", quiet, progress=False)


def test_without_inputs_nothing_is_found() -> None:
    with pytest.raises(ValueError, match="centring needs at least one batch of inputs"):
        centre(convert(nn.Linear(6, 5), macro()), [])
    x = inputs(8, 6)
    x[3, 2] = math.nan
    with pytest.raises(ValueError, match=r"batch 0: input\[3, 2\] = nan is not a finite number"):
        centre(convert(nn.Linear(6, 5), macro()), [x])
    signed = centre(layer_of(nn.Linear(6, 5), macro(**CONVERTING), inputs(8, 6)), [inputs(8, 6)])
    with pytest.raises(ValueError, match=r"0: centred inputs have both signs.*'offset' have no such codes"):
        moved(signed, lambda design: Macro.model_validate(design.dump() | {"inputs": {"kind": "offset", "bits": 4}}))
    data = TINY | {"macro": "generic-8t-sram", "methods": [{"kind": "compensate"}]}
    with pytest.raises(ValueError, match=r"test\.verify of 'compensated .*': not beside side paths; remove one"):
        parse(data | {"test": TINY["test"] | {"verify": 0.5}}, "test").check(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="rank"):
        Centred(rank=-1)


def test_the_command_tells_what_it_costs(tmp_path: Path) -> None:
    """Untrained; where zeros are skipped, on what is left to drive."""
    signed = {"base": "generic-8t-sram", "name": "signed", "inputs": {"kind": "twos_complement", "bits": 4}}
    methods = [{"kind": "error_aware", "centre": {"rank": 1}}, {"kind": "qat"}]
    file = tmp_path / "signed.yaml"
    file.write_text(yaml.safe_dump(TINY | {"macro": signed, "methods": methods}), encoding="utf-8")
    for more in ([], ["--zero-skip", "8", "--out", str(tmp_path / "out")]):
        told = CliRunner().invoke(app, ["cost", str(file), "--method", "error_aware", "--json", *more])
        assert told.exit_code == 0, told.output
        (found,) = json.loads(told.stdout)
        *_, total = found["side_paths"]
        assert 0 < total["side_macs"] < total["macs"]
    refused = CliRunner().invoke(app, ["cost", str(file), "--method", "qat"])
    assert refused.exit_code == 2
    assert "it has no side paths" in refused.stderr


def test_layers_are_chosen_by_name() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 5))
    found = centre(convert(net, macro()), [inputs(8, 6)], at=["1"])
    assert list(sides(found)) == ["1"]
    assert len(layers(found)) == 2
