"""Input ranges that suit the machine: in which direction they go, by how much, and what else they leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitline.macro import Chip, Macro, ideal
from bitline.methods import ErrorAware, Gaussian, Qat, Ranges, training_chip
from bitline.nn import calibrate, convert, layers, on_chip, silicon, suit_ranges, use
from bitline.nn.quantizers import AnyQuantizer, Lsq, Mse
from bitline.nn.suited import WEIGHTS
from bitline.train import TrainConfig, train

GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(256, 64, generator=GENERATOR) ** 4
Y = (X[:, :32].sum(1) > 6.4).long()
INDEX = torch.arange(256)


def macro(low: int = -512, high: int = 511, bits: int = 10, **changes: Any) -> Macro:
    config = {
        "name": "m",
        "rows": 64,
        "columns": 64,
        "inputs": {"kind": "unsigned", "bits": 6, "digit_bits": 6},
        "weights": {"kind": "differential", "bits": 4, "cell_bits": 3},
        "converter": {"bits": bits, "range": {"kind": "fixed", "low": low, "high": high}},
    }
    return Macro.model_validate(config | changes)


def model(design: Macro, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
    return calibrate(convert(net, design, skip=["2"], **options), [X]).eval()


def scale(net: nn.Module) -> float:
    quantizer = layers(net)["0"].input_quantizer
    assert quantizer is not None
    return float(quantizer(X[:1])[1].detach())


@torch.no_grad()
def unexplained(net: nn.Module) -> float:
    """Of the layer's float outputs, by least squares output by output."""
    silicon(net).begin(INDEX, 0)
    layer = layers(net)["0"]
    y, wanted = layer(X).double(), nn.functional.linear(X, layer.weight, layer.bias).double()
    left = power = 0.0
    for own, want in zip(y.T, wanted.T, strict=True):
        a = torch.stack([own, torch.ones_like(own)], 1)
        fit = a @ torch.linalg.lstsq(a, want[:, None], driver="gelsd").solution
        left += float((want - fit[:, 0]).square().sum())
        power += float((want - want.mean()).square().sum())
    return left / power


@pytest.mark.parametrize(
    ("design", "direction"),
    [
        (macro(), 0),  # steps of one count: nothing to win but clipping
        (macro(low=-32768, high=32256, bits=7), -1),  # steps of 512 counts, where sums are hundreds: make them larger
        (macro(low=-256, high=255, bits=9), 1),  # sums beyond 256 counts clip: make them smaller
    ],
)
def test_ranges_go_where_the_machine_loses_least(design: Macro, direction: int) -> None:
    net = model(design)
    before, start = unexplained(net), scale(net)
    suit_ranges(net, X, INDEX, weights=[1.0])
    after, factor = unexplained(net), scale(net) / start
    assert after <= before
    if direction < 0:
        assert factor < 0.8
    if direction > 0:
        assert factor > 1.2
        assert after < 0.7 * before
    if direction:
        assert after < before
    wider = dict.fromkeys((0.5, 1.0, 2.0))
    for f in wider:
        again = model(design)
        suit_ranges(again, X, INDEX, [f], [1.0])
        assert scale(again) == pytest.approx(f * start, rel=1e-6)
        assert unexplained(again) >= after


def test_weights_win_where_inputs_alone_do_not() -> None:
    """Steps of 512 counts: larger sums, by weights that clip a little."""
    inputs, both = (model(macro(low=-32768, high=32256, bits=7)) for _ in range(2))
    suit_ranges(inputs, X, INDEX, weights=[1.0])
    suit_ranges(both, X, INDEX)
    quantizers = [layers(net)["0"].weight_quantizer for net in (inputs, both)]
    first, second = (float(quantizer.state_dict()["scale"]) for quantizer in quantizers if quantizer is not None)
    assert second < first
    assert unexplained(both) < 0.9 * unexplained(inputs)


@pytest.mark.parametrize("config", [Lsq(), Mse()])
def test_factors_are_of_the_range_it_began_with(config: AnyQuantizer) -> None:
    """Of a learned scale and of one that is set."""
    net = model(macro(), inputs=config)
    start = scale(net)
    suit_ranges(net, X, INDEX, [0.5, 0.25, 2.0, 1.0], [1.0])
    assert any(scale(net) == pytest.approx(f * start, rel=1e-6) for f in (0.25, 0.5, 1.0, 2.0))


def test_all_but_ranges_stays_as_it_was() -> None:
    net = model(macro(cell={"errors": [{"kind": "gaussian", "sigma": 0.05}]})).train()
    on_chip(net, Chip(3, 4))
    silicon(net).begin(INDEX[:8], 5)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for weights in ([1.0], WEIGHTS):
        suit_ranges(net, X, INDEX, weights=weights)
        changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
        assert changed <= {"0.input_quantizer.scale"} | ({"0.weight_quantizer.scale"} if len(weights) > 1 else set())
    shared = silicon(net)
    assert (shared.chip, shared.read, net.training) == (Chip(3, 4), 5, True)
    assert shared.samples is not None
    assert torch.equal(shared.samples, INDEX[:8])
    continuous = convert(nn.Sequential(nn.Linear(64, 2)), Macro(name="c", rows=64, columns=64))
    suit_ranges(continuous, X)  # has no ranges
    with pytest.raises(ValueError, match=r"^0: its input range was not calibrated"):
        suit_ranges(convert(nn.Sequential(nn.Linear(64, 2)), macro()), X)


def batches(epoch: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    order = torch.randperm(256, generator=torch.Generator().manual_seed(epoch))
    return [(X[part], Y[part], part) for part in order.split(64)]


def test_a_method_begins_with_ranges_that_suit_what_it_trains_on(tmp_path: Path) -> None:
    design = macro(low=-256, high=255, bits=9, cell={"errors": [{"kind": "gaussian", "sigma": 0.05}]})
    assert ErrorAware(ranges=Ranges(), distil={}).title == "error-aware, ranges suited, distilled"  # type: ignore[arg-type]
    first, _, index = batches(0)[0]
    for method, variant in ((ErrorAware(ranges=Ranges()), None), (Gaussian(ranges=Ranges()), ideal)):
        net, other = model(design), model(design)
        train(net, batches, config=TrainConfig(steps=1, lr=1e-12), method=method, progress=False)
        use(other, variant)
        on_chip(other, training_chip(0, 0, "before"))
        suit_ranges(other, first, index)
        assert scale(net) == pytest.approx(scale(other), rel=1e-5)
        assert scale(net) > 1.2 * scale(model(design))
    assert Qat(ranges=Ranges()).title == Qat().title  # the row of the network that met no chip

    whole, halves = model(design), model(design)
    method, config = ErrorAware(ranges=Ranges()), TrainConfig(steps=8, lr=0.05, checkpoint_every=3, log_every=1)
    train(whole, batches, config=config, method=method, progress=False)

    def stop(net: nn.Module) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(halves, batches, config=config, method=method, progress=False, out=tmp_path, validate=stop)
    resumed = model(design)
    assert train(resumed, batches, config=config, method=method, progress=False, out=tmp_path).resumed == 4
    state = whole.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in resumed.state_dict().items())
