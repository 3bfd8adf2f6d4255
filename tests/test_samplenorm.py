"""Batch norms in which each sample's own statistics count."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import bitline as bl
from bitline.experiment import Run, parse
from bitline.lab.graph import trace
from bitline.methods import ErrorAware
from bitline.nn import SampleNorm, batch_norms, convert, per_sample
from bitline.nn.streamline import streamlined
from test_experiment import quiet
from test_sweep import SWEPT, analog

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(6, 3, 8, 8, generator=DRAW) * torch.tensor([1.0, 2.0, 0.5]).view(3, 1, 1) + 0.3


def norms(positions: float) -> tuple[nn.BatchNorm2d, nn.Module]:
    """A batch norm that has seen something, and the same with samples' own statistics."""
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(3)
    nn.init.normal_(norm.weight, 1.0, 0.2)
    nn.init.normal_(norm.bias)
    norm(X + 0.2)
    return norm, per_sample(nn.Sequential(copy.deepcopy(norm)), positions)[0]


@pytest.mark.parametrize("training", [False, True])
def test_where_a_sample_has_no_share_it_is_the_batch_norm(training: bool) -> None:
    norm, own = (one.train(training) for one in norms(1e12))
    for _ in range(2):
        torch.testing.assert_close(own(X), norm(X), atol=1e-5, rtol=1e-5)
    assert isinstance(own, SampleNorm | nn.BatchNorm2d)
    assert own.state_dict().keys() == norm.state_dict().keys()
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], value)


def test_averages_over_batches_go_on_as_they_do_in_torch() -> None:
    norm, own = (one.train() for one in norms(100.0))
    for one in (norm, own):
        one.reset_running_stats()
        one.momentum = None
    for batch in (X[:2], X[2:], X + 1):
        norm(batch), own(batch)
    torch.testing.assert_close(own.running_mean, norm.running_mean)
    torch.testing.assert_close(own.running_var, norm.running_var)


def test_where_it_has_all_it_is_instance_norm_and_a_chips_gains_and_offsets_are_gone() -> None:
    norm, own = (one.eval() for one in norms(1e-9))
    wanted = nn.functional.instance_norm(X, weight=norm.weight, bias=norm.bias)
    torch.testing.assert_close(own(X), wanted, atol=1e-4, rtol=1e-4)
    gains, offsets = torch.tensor([0.7, 1.4, 1.1]).view(3, 1, 1), torch.tensor([0.5, -1.0, 0.2]).view(3, 1, 1)
    torch.testing.assert_close(own(X * gains + offsets), wanted, atol=1e-3, rtol=1e-3)
    assert float((norm(X * gains + offsets) - norm(X)).detach().abs().max()) > 0.5


def test_nothing_passes_from_one_sample_to_another() -> None:
    own = norms(64.0)[1].eval()
    assert torch.equal(own(X)[2:3], own(X[2:3]))
    other = torch.cat([X[:1] * 9, X[2:3]])
    assert torch.equal(own(other)[1], own(X)[2])


@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_of_differences(training: bool) -> None:
    own = norms(64.0)[1].double().train(training)
    own.momentum = 0.0  # statistics stay while differences are taken
    x = X[:2, :, :3, :3].double().requires_grad_()
    assert torch.autograd.gradcheck(own, (x,))


def test_one_position_is_the_batch_norm_and_its_class_stays() -> None:
    made = per_sample(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval(), 2.0)
    x = torch.randn(5, 4)
    assert isinstance(made[1], nn.BatchNorm1d)
    assert torch.equal(made(x), nn.functional.batch_norm(made[0](x), torch.zeros(3), torch.ones(3), eps=1e-5))
    assert "positions=2" in str(made)
    assert made[1] is not per_sample(made, 3.0)[1]
    assert made[1].positions == 3.0  # type: ignore[union-attr]


def net() -> nn.Sequential:
    """A convolution, a norm, a classifier."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)
    )


def test_a_method_trains_with_it_and_evaluation_keeps_it(tmp_path: Path) -> None:
    x, y = torch.rand(32, 1, 8, 8, generator=DRAW), torch.randint(0, 10, (32,), generator=DRAW)
    model = convert(net(), analog(0.3))
    start = copy.deepcopy(model)
    method = ErrorAware(per_sample=64.0)
    assert method.title == "error-aware, normalised per sample"
    config = bl.TrainConfig(steps=4, lr=0.01)
    bl.train(model, [(x, y)], config=config, method=method, progress=False, out=tmp_path)
    assert all(isinstance(norm, SampleNorm) and norm.positions == 64 for norm in batch_norms(model))
    again = bl.train(start, [(x, y)], config=config, method=method, progress=False, out=tmp_path)
    assert again.steps == 4
    assert all(torch.equal(a, b) for a, b in zip(start.state_dict().values(), model.state_dict().values(), strict=True))
    torch.testing.assert_close(streamlined(model.eval())(x), model(x))
    assert torch.equal(start.eval()(x), model(x))


def test_a_row_of_a_run_is_its_own(tmp_path: Path) -> None:
    test = SWEPT["test"] | {"per_sample": 64, "details": False}
    experiment = parse(SWEPT | {"test": test}, "test")
    assert experiment.test.per_sample == 64
    walk = Run(experiment, tmp_path, quiet, progress=False)
    model = convert(net(), analog(0.3))
    rows = {name: one for name, one, _ in walk.remedies("untrained", model)}
    assert [name for name in rows if "sample" in name] == ["untrained + normalised per sample"]
    own = rows["untrained + normalised per sample"]
    assert all(isinstance(norm, SampleNorm) for norm in batch_norms(own))
    assert not any(isinstance(norm, SampleNorm) for norm in batch_norms(model))
    assert not any("sample" in name for name, _, _ in walk.remedies("own", own))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="no batch norm"):
        per_sample(nn.Sequential(nn.Linear(2, 2)))
    there = convert(net(), bl.Macro.model_validate(analog(0.3).dump() | {"norm": {}}))
    with pytest.raises(ValueError, match="1 is on the array"):
        per_sample(there)
    x = torch.rand(2, 1, 8, 8)
    for changes in ({"test": SWEPT["test"] | {"per_sample": 64}}, {"methods": [{"kind": "ha_sgd", "per_sample": 64}]}):
        on_array = parse(SWEPT | changes | {"macro": analog(0.3).dump() | {"norm": {}}}, "test")
        with pytest.raises(ValueError, match="is on the array"):  # before anything is trained
            on_array.check(x)
    with pytest.raises(ValueError, match=r"SampleNorm2d.*cannot be held by a bundle"):
        trace(per_sample(convert(net(), analog(0.3))))
