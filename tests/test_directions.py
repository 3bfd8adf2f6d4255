"""Directions of centred inputs layer by layer, and a budget of them spent where they win most."""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from typer.testing import CliRunner

import bitline as bl
from bitline.cli import app
from bitline.compensate import Centred, attach, centre, sides
from bitline.cost import side_costs
from bitline.experiment import Run, load, parse
from bitline.macro import Chip, Macro
from bitline.methods import ErrorAware
from bitline.nn import calibrate, convert, layers, silicon
from bitline.place import Budget, Directions, Share, directions
from bitline.place.result import brief
from test_experiment import TINY, quiet

MEMORY = {"name": "memory", "rows": 64, "columns": 64, "variation": {"kind": "lognormal", "sigma": 0.3}}
DIGITS: dict[str, Any] = {  # what can be priced
    "name": "digits",
    "rows": 64,
    "columns": 64,
    "inputs": {"kind": "twos_complement", "bits": 6, "digit_bits": 1},
    "weights": {"kind": "differential", "bits": 4, "cell_bits": 2},
    "converter": {"bits": 8},
    "cell": {"errors": [{"kind": "lognormal", "sigma": 0.3}]},
}


@pytest.fixture(autouse=True)
def _the_same_numbers() -> None:
    """Whichever tests run before."""
    torch.manual_seed(1)


def dies(number: int) -> Chip:
    return Chip(3, number)


def inputs(count: int, channels: int = 12, strong: int = 3) -> Tensor:
    """(B, C) with means, most of their power in few directions."""
    mix = torch.randn(strong, channels, generator=torch.Generator().manual_seed(0))
    return torch.randn(count, strong) @ mix + 0.3 * torch.randn(count, channels) + 1


def network(x: Tensor, macro: dict[str, Any] = MEMORY) -> nn.Module:
    net = nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 4))
    return calibrate(convert(net, Macro.model_validate(macro)), [x]).eval()


# ------------------------------------------------------------------------------------------------- ranks layer by layer


def test_layers_have_their_own_ranks() -> None:
    """The first pattern that matches counts, a layer has fewer directions than channels, the others have ``rank``."""
    x = inputs(40)
    path = Centred(rank=1, ranks={"0": 20, "[02]": 2})
    assert path.title == "inputs centred, 2 to 20 directions digital by layer, 1 of others"
    found = centre(network(x), [x], path, chip=dies)
    assert {name: side.rank for name, side in sides(found).items()} == {"0": 11, "2": 2, "4": 1}
    with torch.no_grad():
        bl.nn.use(found, bl.macro.ideal)
        alone = network(x)
        alone.load_state_dict({k: v for k, v in found.state_dict().items() if "side" not in k}, strict=False)
        bl.nn.use(alone, bl.macro.ideal)
        torch.testing.assert_close(found(x), alone(x), atol=1e-5, rtol=1e-4)


def test_the_order_of_patterns_counts_and_titles_tell_what_others_have() -> None:
    first, second = Centred(rank=0, ranks={"a": 3, "[ab]": 1}), Centred(rank=0, ranks={"[ab]": 1, "a": 3})
    assert first != second
    assert first == Centred(rank=0, ranks={"a": 3, "[ab]": 1})
    assert hash(first) == hash(Centred(rank=0, ranks={"a": 3, "[ab]": 1}))
    assert first.title == "inputs centred, 1 to 3 directions digital by layer, 0 of others"
    assert Centred(rank=2, ranks={"a": 3}).title == "inputs centred, 3 directions digital by layer, 2 of others"
    assert Centred(rank=0, ranks={"a": 3}).title == "inputs centred, 3 directions digital by layer, 3 in all"
    with pytest.raises(ValueError, match=r"2 of them are called 'inputs centred, 1 to 3 directions digital"):
        parse(TINY | {"test": TINY["test"] | {"centre": [brief(first), brief(second)]}}, "test")


def test_a_pattern_that_matches_no_layer_is_named(tmp_path: Path) -> None:
    x, path = inputs(8), Centred(ranks={"fc": 2})
    net = network(x)
    with pytest.raises(ValueError, match=r"centred: .*'fc'.*matches no layer"):
        attach(net, path)
    assert not sides(net)
    data = TINY | {"macro": MEMORY, "methods": [{"kind": "error_aware", "centre": {"ranks": {"nowhere": 2}}}]}
    with pytest.raises(ValueError, match=r"error_aware on memory: .*'nowhere'.*matches no layer"):
        Run(parse(data, "test"), tmp_path, quiet, progress=False)
    data = TINY | {"macro": MEMORY, "test": TINY["test"] | {"centre": {"ranks": {"nowhere": 2}}}}
    with pytest.raises(ValueError, match=r"test\.centre on memory: .*'nowhere'.*matches no layer"):
        Run(parse(data, "test"), tmp_path, quiet, progress=False)
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Centred(ranks={"fc": -1})


def test_a_checkpoint_holds_them(tmp_path: Path) -> None:
    x = inputs(64)
    y = (x[:, 0] > x.mean(0)[0]).long()
    batches = lambda epoch: [(x[i], y[i], i) for i in torch.arange(64).split(16)]  # noqa: E731
    method, config = ErrorAware(centre=Centred(rank=0, ranks={"2": 3})), bl.TrainConfig(steps=6, lr=0.05)
    start = network(x)
    found = []
    for _ in range(2):  # the second is read
        found.append(copy.deepcopy(start))
        bl.train(found[-1], batches, config=config, method=method, out=tmp_path, progress=False)
    assert found[0][2].side.directions.shape == (10, 3)
    assert all(torch.equal(found[1].state_dict()[name], value) for name, value in found[0].state_dict().items())


# ----------------------------------------------------------------------------------------------------- within a budget


def test_what_a_layer_feels_is_the_power_of_its_errors() -> None:
    """One layer, log-normal weights: the variance of w·exp(θ), met by what is driven, over that of the answers."""
    x, net = inputs(256), nn.Linear(12, 4)
    model = calibrate(convert(nn.Sequential(net), Macro.model_validate(MEMORY)), [x]).eval()
    (row,) = directions(model, [x], Budget(share=1.0, of="macs"), dies, chips=400).layers
    with torch.no_grad():
        away, y = x - x.mean(0), net(x)
        growth = torch.exp(torch.tensor(0.3**2))
        wanted = (growth * (growth - 1) * (away.square() @ net.weight.T.square())).sum() / (
            y - y.mean(0)
        ).square().sum()
    assert row.felt == pytest.approx(float(wanted), rel=0.15)  # 400 dies, 48 weights


@pytest.mark.parametrize("of", ["parameters", "macs", "energy"])
def test_the_budget_is_kept_and_more_of_it_takes_nothing_away(of: Any) -> None:
    x = inputs(64)
    net = network(x, DIGITS)
    found = [directions(net, [x], Budget(share=share, of=of), dies, chips=3) for share in (0.25, 0.4, 0.8, 30)]
    for one in found:
        total = side_costs(attach(copy.deepcopy(net), one.path), x[:1])[-1]
        assert one.used == pytest.approx(getattr(Share.of(total, total), of))
        assert one.used <= one.budget.share
    for few, more in pairwise(found):
        assert all(a.directions <= b.directions for a, b in zip(few.layers, more.layers, strict=True))
        assert more.felt <= few.felt
    assert found[1].felt < 0.9 * found[0].felt
    assert [row.directions for row in found[-1].layers] == [11, 9, 7]  # all that there are
    assert all(row.left < 0.01 for row in found[-1].layers)


def test_a_budget_of_exactly_the_means_buys_them() -> None:
    x = inputs(64)
    net = network(x)
    total = side_costs(attach(copy.deepcopy(net), Centred(rank=0)), x[:1])[-1]
    found = directions(net, [x], Budget(share=total.parameter_share, of="parameters"), dies, chips=2)
    assert found.used == pytest.approx(total.parameter_share)
    assert found.path == Centred(rank=0)
    with pytest.raises(ValueError, match=r"means of all inputs alone take [\d.]+ % more parameters"):
        directions(net, [x], Budget(share=0.999 * total.parameter_share, of="parameters"), dies, chips=2)


def test_no_more_power_is_told_of_than_inputs_show() -> None:
    """Five inputs less their mean lie in four directions, whatever rounding leaves in the others."""
    x = inputs(5)
    found = directions(network(x), [x], Budget(share=30, of="macs"), dies, chips=2)
    assert [row.seen for row in found.layers] == [5, 5, 5]
    assert [row.directions for row in found.layers] == [4, 4, 4]


def test_layers_without_errors_have_no_direction() -> None:
    x = inputs(64)
    net = nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 4))
    exact = Macro.model_validate({"name": "exact", "rows": 64, "columns": 64})
    model = calibrate(convert(net, {"0": exact, "2": Macro.model_validate(MEMORY)}), [x]).eval()
    found = directions(model, [x], Budget(share=0.5, of="macs"), dies, chips=3)
    assert found.layers[0].felt == 0
    assert list(found.path.ranks) == ["2"]


def test_layers_are_named_as_they_are_whatever_patterns_mean() -> None:
    x = inputs(64)
    net = nn.Sequential()
    net.add_module("in[0]", nn.Linear(12, 10))
    net.add_module("out*", nn.Linear(10, 4))
    model = calibrate(convert(net, Macro.model_validate(MEMORY)), [x]).eval()
    found = directions(model, [x], Budget(share=1.0, of="macs"), dies, chips=3)
    placed = sides(attach(copy.deepcopy(model), found.path))
    assert {name: side.rank for name, side in placed.items()} == {row.layer: row.directions for row in found.layers}
    assert placed["in[0]"].rank


def test_shared_out_they_win_more_than_as_many_products_in_every_layer() -> None:
    """What chips do to the answers, on other dies and inputs, at no more multiplications."""
    x, unseen = torch.randn(256, 32), torch.randn(128, 32)  # no direction is stronger than others, but behind:
    float_net = nn.Sequential(nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    with torch.no_grad():
        float_net[0].weight.copy_(torch.randn(16, 5) @ torch.randn(5, 32) / 8)
    net = calibrate(convert(float_net, Macro.model_validate(MEMORY)), [x]).eval()
    each = attach(copy.deepcopy(net), Centred(rank=2))
    share = side_costs(each, x[:1])[-1].mac_share
    path = directions(net, [x], Budget(share=share, of="macs"), dies, chips=16).path
    assert set(path.ranks.values()) != {2}

    def away(path: Centred) -> float:
        model, answers = centre(copy.deepcopy(net), [x], path, chip=dies), []
        with torch.no_grad():
            for i in range(60):
                bl.nn.on_chip(model, Chip(8, i))
                answers.append(model(unseen))
            return float(torch.stack(answers).var(0).sum())

    assert away(path) < 0.9 * away(Centred(rank=2))


def test_the_model_stays_as_it_is() -> None:
    x = inputs(64)
    net = network(x)
    net.train()
    before, chip = copy.deepcopy(net.state_dict()), silicon(net).chip
    directions(net, [x], Budget(share=0.3, of="macs"), dies, chips=2)
    assert net.training
    assert silicon(net).chip == chip
    assert not sides(net)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert all(layer.macro == layer.design for layer in layers(net).values())


def test_what_cannot_be_is_said() -> None:
    x = inputs(16)
    net = network(x)
    with pytest.raises(ValueError, match=r"means of all inputs alone take [\d.]+ % more parameters, beyond the budget"):
        directions(net, [x], Budget(share=0.01), dies)
    with pytest.raises(ValueError, match=r"a budget of energy cannot be told: .*continuous inputs"):
        directions(net, [x], Budget(of="energy"), dies)
    with pytest.raises(ValueError, match="layers have side paths already"):
        directions(centre(network(x), [x]), [x], Budget(), dies)
    with pytest.raises(ValueError, match="chips = 1: a variance over dies needs two or more"):
        directions(net, [x], Budget(of="macs"), dies, chips=1)
    with pytest.raises(ValueError, match="all samples of the first batch have the same answers"):
        directions(net, [x[:1]], Budget(share=1.0), dies)
    broken = nn.Sequential(*network(x), nn.LayerNorm(4))
    broken[-1].weight.data.fill_(torch.inf)
    with pytest.raises(ValueError, match="answers with errors of 0 are not all finite numbers"):
        directions(broken, [x], Budget(share=1.0, of="macs"), dies)
    with pytest.raises(ValueError, match="needs at least one batch"):
        directions(net, [], Budget(), dies)


# ------------------------------------------------------------------------------------------------------------- command


def test_the_command_writes_an_experiment_that_runs(tmp_path: Path) -> None:
    methods = [{"kind": "error_aware", "centre": {"rank": 0}}, {"kind": "error_aware", "centre": {"rank": 1}}]
    file, out = tmp_path / "tiny.yaml", tmp_path / "shared.yaml"
    file.write_text(yaml.safe_dump(TINY | {"macro": MEMORY, "methods": methods}), encoding="utf-8")
    options = ["--budget", "30%", "--of", "macs", "--chips", "2", "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(app, ["centre", str(file), *options, "--write", str(out)])
    assert told.exit_code == 0, told.output
    found = Directions.load(tmp_path / "out" / "centre.json")
    assert found.row in told.output.replace("\n", "")
    assert yaml.safe_load(found.row)["centre"] == {"kind": "centred", "rank": 0, "ranks": found.path.ranks}
    (method,) = load(out).methods  # both are one now
    assert method.centre == found.path
    assert load(out).test.centre == ()
    Run(load(out), tmp_path / "run", quiet, progress=False)()
    written = out.read_text()
    options[-1] = str(tmp_path / "more")
    assert CliRunner().invoke(app, ["centre", str(out), *options, "--write", str(out)]).exit_code == 0
    assert out.read_text() == written
    options[-1] = str(tmp_path / "out")
    again = CliRunner().invoke(app, ["centre", str(file), *options, "--json"])
    assert json.loads(again.stdout) == json.loads(found.model_dump_json())


def test_without_a_centre_the_test_gets_one(tmp_path: Path) -> None:
    file, out = tmp_path / "tiny.yaml", tmp_path / "shared.yaml"
    file.write_text(yaml.safe_dump(TINY | {"macro": MEMORY}), encoding="utf-8")
    told = CliRunner().invoke(
        app, ["centre", str(file), "--budget", "0.3", "--chips", "2", "--out", str(tmp_path / "o"), "--write", str(out)]
    )
    assert told.exit_code == 0, told.output
    assert [path.rank for path in load(out).test.centre] == [0]
    assert load(out).test.centre[0].ranks
    pasted = yaml.safe_load(told.output[told.output.index("centre: {") :].split("}}")[0].replace("\n", " ") + "}}")
    assert Centred.model_validate(pasted["centre"]) == load(out).test.centre[0]
    refused = CliRunner().invoke(app, ["centre", str(file), "--budget", "0.00001", "--of", "parameters"])
    assert refused.exit_code == 2
    assert "the means of all inputs alone take" in refused.stderr
    file.write_text(yaml.safe_dump(TINY), encoding="utf-8")  # unsigned inputs
    refused = CliRunner().invoke(app, ["centre", str(file), "--out", str(tmp_path / "none")])
    assert refused.exit_code == 2
    assert "generic-8t-sram: centred inputs have both signs" in refused.stderr
    assert not (tmp_path / "none" / "train").exists()
