"""The weights that a chip holds worst, read back and corrected in digital, alone and inside centred inputs."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitline.compensate import Centred, Patch, Patching, Trim, Trimming, attach, centre, overhead, patch, remove, sides
from bitline.compensate.nested import NestedPath, paths_of
from bitline.compensate.patch import PatchPath
from bitline.evaluate import recalibrate
from bitline.evaluate.simple import at_corner
from bitline.experiment import Run, parse
from bitline.macro import Chip, Macro, ideal
from bitline.nn import MinMax, calibrate, convert, layers, moved, on_chip, use
from test_centre import KINDS, LOGNORMAL, layer_of, macro, made
from test_experiment import TINY, config, quiet

ALL = Patch(share=0.9999)
CELLS = {
    "inputs": {"kind": "twos_complement", "bits": 8, "digit_bits": 1},
    "weights": {"kind": "differential", "bits": 6, "cell_bits": 5},
    "cell": {"errors": [{"kind": "gaussian", "sigma": 1.0}]},
}


@pytest.fixture(autouse=True)
def _the_same_numbers() -> None:
    torch.manual_seed(1)


def die(model: nn.Module, number: int = 0) -> nn.Module:
    return on_chip(model, Chip(0, number)) or model


def slope(model: nn.Module) -> float:
    """Of the weights that the first layer's die holds over those wanted."""
    column, _ = layers(model)["0"].program()
    return float((column.wanted * column.weight).sum() / column.wanted.square().sum())


@pytest.mark.parametrize("design", [LOGNORMAL, CELLS], ids=["variation", "cells"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_with_every_weight_patched_a_chip_computes_the_product(kind: str, design: dict[str, Any]) -> None:
    """But for what all its weights have in common; on that die alone, and nothing where errors are ideal."""
    if kind == "reflected" and design is CELLS:
        pytest.skip("layers with digits pad with zeros")
    net, x = made(kind)
    plain = layer_of(net, macro(**design), x)
    found = patch(copy.deepcopy(plain), [x], ALL)
    assert torch.equal(die(found)(x), die(plain)(x))
    Patching()(found)
    bias = 0 if net.bias is None else net.bias.view(-1, *[1] * (x.dim() - 2 if kind != "tokens" else 0))
    use(plain, ideal)
    wanted = (plain(x) - bias) * slope(found) + bias
    torch.testing.assert_close(found(x), wanted, atol=1e-4, rtol=1e-4)
    use(plain)
    assert torch.equal(die(found, 1)(x), die(plain, 1)(x))
    use(die(found), ideal)
    use(plain, ideal)
    assert torch.equal(found(x), plain(x))
    assert not torch.equal(plain(x), (use(plain), die(plain)(x))[1])


@torch.no_grad()
def test_those_that_cost_most_are_patched() -> None:
    """By error and by what they meet: what is left has the power of the others alone, and no choice leaves less."""
    net, x = nn.Conv2d(6, 8, 3, groups=2, bias=False), torch.randn(64, 6, 5, 5)
    x = x * torch.tensor([1.0, 0.0, 3.0, 0.1, 1.0, 2.0])[:, None, None]
    found = patch(layer_of(net, macro(**LOGNORMAL), x), [x[:32], x[32:]], Patch(share=0.1))
    path = found[0].side
    torch.testing.assert_close(path.power, x.square().mean((0, 2, 3)))
    Patching()(die(found))
    layer = found[0]
    column, _ = layer.program()
    missing = layer.geometry.native(slope(found) * column.wanted - column.weight)
    met = path.power.view(2, 1, 3).expand(2, 4, 3).reshape(8, 3)[..., None, None]
    cost = missing.square() * met
    chosen = path.correction != 0
    assert int(chosen.sum()) == path.places == round(0.1 * 8 * 3 * 9)
    assert cost[chosen].min() >= cost[~chosen].max()
    assert not chosen[:4, 1].any()  # a channel that is always zero
    torch.testing.assert_close(path.correction[chosen], missing[chosen].to(path.correction.dtype))


def test_heavy_tails_are_what_makes_a_patch_pay() -> None:
    """The docstring's figure: of log-normal errors at 0.5 a twentieth of Gaussian weights has 61 % of the power."""
    draw = torch.Generator().manual_seed(0)
    w, n = torch.randn(2, 1_000_000, generator=draw)
    power = (w * (torch.exp(0.5 * n) - math.exp(0.125))).square().sort(descending=True).values
    assert float(power[:50_000].sum() / power.sum()) == pytest.approx(0.61, abs=0.005)


@torch.no_grad()
def test_inside_centred_inputs_what_they_drive_is_patched() -> None:
    net, x = made("conv2d")
    found = centre(layer_of(net, macro(**LOGNORMAL), x), [x], Centred(rank=2), chip=lambda i: Chip(3, i))
    known = copy.deepcopy(found)
    patch(found, [x], ALL)
    path = found[0].side
    assert isinstance(path, NestedPath)
    assert [one.config.kind for one in (path.outer, path.inner)] == ["centred", "patch"]
    rest = known[0].side.driven(known[0], x)
    assert torch.equal(found[0].driven(x), rest)
    torch.testing.assert_close(paths_of(found, PatchPath)[found[0]].power, rest.square().mean((0, 2, 3)))
    Patching()(die(found))
    gain = math.exp(0.125) * float(path.outer.gain)
    wanted = nn.functional.conv2d(rest, net.weight, None, net.stride, net.padding) * slope(found)
    wanted = wanted + nn.functional.conv2d(x - rest, net.weight, net.bias, net.stride, net.padding) * gain
    torch.testing.assert_close(found(x), wanted - (gain - 1) * net.bias[:, None, None], atol=1e-4, rtol=1e-4)
    use(found, ideal)
    torch.testing.assert_close(found(x), net(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_trims_go_around_a_path_that_is_there() -> None:
    net, x = made("linear")
    found = centre(layer_of(net, macro(**LOGNORMAL), x), [x], Centred(rank=1), chip=lambda i: Chip(3, i))
    before = (die(found)(x) - net(x)).square().mean()
    attach(found, Trim())
    assert [one.config.kind for one in (found[0].side.outer, found[0].side.inner)] == ["trim", "centred"]
    Trimming([(x,)])(die(found))
    after = (found(x) - net(x)).square().mean()
    assert after < 0.7 * before
    Patching()(die(patch(found, [x], Patch(share=0.3))))
    Trimming([(x,)])(found)
    assert (found(x) - net(x)).square().mean() < 0.5 * after
    size = 2 * 5 + 2 * 9 + found[0].side.outer.inner.size
    *_, total = overhead(found, x[:1])
    assert (total.side_parameters, found[0].side.size) == (size, size)
    assert [path.config.kind for path in sides(found)["0"].modules() if isinstance(path.config, Patch | Trim)] == [
        "trim",
        "patch",
    ]
    assert not sides(remove(found))
    use(found, ideal)
    torch.testing.assert_close(found(x), net(x), atol=1e-5, rtol=1e-5)


def test_what_cannot_be_patched_is_refused() -> None:
    net, x = made("linear")
    with pytest.raises(ValueError, match="no layer of this model has a patch"):
        Patching()(layer_of(net, macro(**LOGNORMAL), x))
    with pytest.raises(ValueError, match="at least one batch"):
        patch(layer_of(net, macro(**LOGNORMAL), x), [], ALL)
    test = TINY["test"] | {"patch_per_chip": {"share": 0.1}}
    experiment = parse({**TINY, "macro": "generic-skewed-sram", "methods": [], "test": test}, "test")
    with pytest.raises(ValueError, match=r"test\.patch_per_chip on .*: a measured table of codes holds no weights"):
        experiment.check(torch.rand(2, 1, 8, 8))


def test_rows_of_an_experiment(tmp_path: Path) -> None:
    """Patched as given, inside centred inputs, and beside a method's own; the more, the nearer to the ideal macro."""
    memory = {"name": "memory", "rows": 64, "columns": 64, "variation": {"kind": "lognormal", "sigma": 1.0}}
    test = TINY["test"] | {"details": False, "chips": 4, "centre": {"rank": 1}}
    test["patch_per_chip"] = [{"share": 0.05}, {"share": 0.4}]
    methods = [{"kind": "error_aware", "centre": {"rank": 1}}]
    training = {"epochs": 12, "lr": 0.1, "checkpoint_every": 100}
    data = config(macro=memory, methods=methods, test=test, float_training=training)
    Run(parse(data, "test"), tmp_path, quiet, progress=False)()
    found = {row["method"]: row["mean"] for row in json.loads((tmp_path / "result.json").read_text())["rows"]}
    plain, own = "untrained on chips", "error-aware, inputs centred, 1 direction digital"
    centred = f"{plain} + inputs centred, 1 direction digital, BN recalibrated"
    for name in (plain, own, centred):
        shares = [found[f"{name} + {share} % of the weights patched per chip"] for share in (5, 40)]
        assert found[name] < shares[1], found
        assert shares[0] <= shares[1]
    assert found["ideal macro"] - found[f"{plain} + 40 % of the weights patched per chip"] < 10


def test_what_is_patched_sets_what_is_remembered() -> None:
    from bitline.evaluate.ledger import fingerprint

    net, x = made("linear")
    plain = layer_of(net, Macro.model_validate(macro(**LOGNORMAL)), x)
    marks = {fingerprint(patch(copy.deepcopy(plain), [x], Patch(share=share)), "") for share in (0.1, 0.2)}
    assert len(marks | {fingerprint(plain, "")}) == 3


@torch.no_grad()
def test_a_weight_is_read_back_with_noise() -> None:
    """Relative to the largest weight, the same for one die, another for the next: what is patched errs by it."""
    net, x = nn.Linear(300, 40, bias=False), torch.randn(20, 300)
    plain = layer_of(net, macro(**LOGNORMAL), x)
    share, noise = ALL.share, 0.03
    exact, noisy = (patch(copy.deepcopy(plain), [x], Patch(share=share, noise=n)) for n in (0, noise))
    assert sides(noisy)["0"].config.title == "99.99 % of the weights, read back to 3 % of the largest, patched per chip"

    def off(number: int) -> Tensor:
        for model in (exact, noisy):
            Patching()(die(model, number))
        found: Tensor = paths_of(noisy, PatchPath)[noisy[0]].correction - sides(exact)["0"].correction
        return found / net.weight.abs().max()

    first, second = off(0), off(1)
    assert float(first.std()) == pytest.approx(noise, rel=0.05)
    assert torch.equal(off(0), first)
    assert abs(float((first * second).mean())) < 0.1 * noise**2


def test_batch_norms_know_what_is_patched() -> None:
    """Statistics over dies that are prepared first are those of what is prepared: patched, of no error but growth."""
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8))
    x = torch.randn(32, 6, 6, 6)
    plain = calibrate(convert(net, macro(**LOGNORMAL)), [x]).eval()
    found, dies = patch(copy.deepcopy(plain), [x], ALL), list[int]()

    def prepare(model: nn.Module, number: int) -> None:
        dies.append(number)
        Patching()(model)

    recalibrate(found, [(x,)] * 3, lambda i: Chip(5, i), prepare=prepare)
    recalibrate(plain, [(x,)] * 3, lambda i: Chip(5, i))
    assert dies == [0, 1, 2]
    exact = nn.functional.conv2d(x, net[0].weight.detach()).var((0, 2, 3))
    spread = [float((model[1].running_var / exact).mean()) for model in (found, plain)]
    assert spread[0] == pytest.approx(math.exp(0.25), rel=0.03)
    assert spread[1] > 1.1 * spread[0]


@torch.no_grad()
def test_a_patch_acts_where_it_was_found_and_is_found_again_elsewhere() -> None:
    """At a corner and at an age as well; not on another macro, nor in a network that was moved to one."""
    net, x = made("conv2d")
    hot = {"corners": {"hot": {"variation": {"sigma": 0.8}}}}
    found = patch(layer_of(net, macro(**LOGNORMAL, **hot), x), [x], ALL)
    Patching()(die(found))
    here = found(x)
    at_corner(found, "hot")
    bare = remove(copy.deepcopy(found))
    assert torch.equal(die(found)(x), die(bare)(x))
    Patching()(found)
    bias = net.bias[:, None, None]
    torch.testing.assert_close(found(x), (net(x) - bias) * slope(found) + bias, atol=1e-4, rtol=1e-4)
    at_corner(found, None)
    Patching()(die(found))
    assert torch.equal(found(x), here)
    quieter = moved(found, lambda design: design.model_copy(update={"variation": None}))
    assert torch.equal(die(quieter)(x), die(remove(copy.deepcopy(quieter)))(x))
    again = patch(layer_of(net, macro(**LOGNORMAL), x), [x], ALL)
    again.load_state_dict(found.state_dict())
    assert torch.equal(die(again)(x), die(remove(copy.deepcopy(again)))(x))


@torch.no_grad()
def test_an_exact_machine_knows_no_patch() -> None:
    """Nor trims and gains, however they are nested."""
    net, x = made("linear")
    found = centre(layer_of(net, macro(**LOGNORMAL), x), [x], Centred(rank=2), chip=lambda i: Chip(3, i))
    attach(patch(found, [x], Patch(share=0.5)), Trim())
    torch.testing.assert_close(found[0].exact(x), net(x), atol=1e-5, rtol=1e-5)
    Patching()(die(found))
    Trimming([(x,)])(found)
    torch.testing.assert_close(found[0].exact(x), net(x), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found(x), net(x), atol=1e-3)
    for path in (Patch(), Trim()):
        with pytest.raises(ValueError, match="0 has a side path already"):
            attach(found, path)


@torch.no_grad()
def test_layouts_widths_and_scales_of_weights() -> None:
    """Channels last; bfloat16 with digits; a scale of each output."""
    net, x = made("conv2d")
    found = patch(layer_of(net, macro(**LOGNORMAL), x), [x], Patch(share=0.1)).to(memory_format=torch.channels_last)
    Patching()(die(found))
    assert int((found[0].side.correction != 0).sum()) == found[0].side.places
    low = patch(layer_of(net, macro(**CELLS), x), [x], Patch(share=0.1)).bfloat16()
    Patching()(die(low))
    assert low(x.bfloat16()).dtype == torch.bfloat16
    net = nn.Linear(200, 10, bias=False)
    net.weight.mul_(torch.logspace(-3, 0, 10)[:, None])
    x = torch.randn(20, 200)
    model = convert(nn.Sequential(net), macro(**CELLS), weights=MinMax(per_channel=True))
    both = [patch(calibrate(copy.deepcopy(model), [x]).eval(), [x], Patch(share=0.999, noise=n)) for n in (0, 0.05)]
    for one in both:
        Patching()(die(one))
    off = (both[1][0].side.correction - both[0][0].side.correction) / net.weight.abs().max()
    for each in off.std(1):
        assert float(each) == pytest.approx(0.05, rel=0.3)


def test_inputs_are_weighed_alike_and_finite() -> None:
    net, _ = made("linear")
    plain = layer_of(net, macro(**LOGNORMAL), torch.randn(4, 6))
    found = patch(copy.deepcopy(plain), [torch.ones(60, 6), torch.full((1, 6), 3.0)], Patch())
    torch.testing.assert_close(found[0].side.power, torch.full((6,), 69 / 61))
    with pytest.raises(ValueError, match=r"batch 0: input\[1, 2\] = nan is not a finite number"):
        patch(plain, [torch.ones(2, 6).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(math.nan))], Patch())
