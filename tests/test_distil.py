"""Distillation: its loss, its teacher, and what the comparison calls it; mixed precision through the macro."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from bitline.methods import Distillation, DNat, ErrorAware, Gaussian, Progress, Qat
from bitline.nn import layers, restore, silicon
from bitline.train import TrainConfig, train
from test_methods import SMALL, X, Y, batches, model

INDEX = torch.arange(len(X))


def test_the_loss_is_that_of_labels_and_teacher_by_weight() -> None:
    net = model()
    plain = restore(net).eval()
    method = ErrorAware(distil=Distillation(weight=0.7, temperature=3.0))
    method.begin(net, batches())
    method.before_step(net, Progress(0, 1))
    found = method.loss(net, X, Y, INDEX, cross_entropy)
    method.before_step(net, Progress(0, 1))
    bare = ErrorAware()
    seen: list[Tensor] = []
    hard = bare.loss(net, X, Y, INDEX, lambda out, y: (seen.append(out), cross_entropy(out, y))[1])
    soft = log_softmax(plain(X) / 3.0, 1)
    away = 9.0 * kl_div(log_softmax(seen[0] / 3.0, 1), soft, reduction="batchmean", log_target=True)
    torch.testing.assert_close(found, 0.3 * hard + 0.7 * away)
    method.end(net)


def test_the_teacher_stays_and_is_not_part_of_the_model() -> None:
    net = model()
    method = ErrorAware(distil=Distillation())
    before = set(net.state_dict())
    method.begin(net, batches())
    teacher = method._teacher
    assert teacher is not None
    wanted = teacher(X)
    train(net, batches(), config=SMALL, method=method, progress=False)
    assert set(net.state_dict()) == before
    torch.testing.assert_close(teacher(X), wanted, rtol=0, atol=0)
    assert method._teacher is None


def test_it_draws_the_network_towards_the_teacher() -> None:
    wrong = 1 - Y  # labels that contradict the float network
    steps = TrainConfig(steps=40, lr=0.05)
    away = {}
    for distil in (None, Distillation(weight=1.0, temperature=1.0)):
        net = model()
        plain = restore(net).eval()
        source = lambda epoch: [(X, wrong, INDEX)]  # noqa: E731
        train(net, source, config=steps, method=Qat(distil=distil), progress=False)
        away[distil is None] = float((restore(net)(X) - plain(X)).detach().abs().mean())
    assert away[False] < 0.2 * away[True]


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    method = ErrorAware(distil=Distillation())
    whole = model()
    train(whole, batches(), config=TrainConfig(steps=6, lr=0.05), method=method, progress=False)

    class Stop(Exception):
        pass

    def broken(epoch: int) -> Any:
        for number, batch in enumerate(batches()(epoch)):
            if epoch == 1 and number == 1:
                raise Stop
            yield batch

    config = TrainConfig(steps=6, lr=0.05, checkpoint_every=1)
    part = model()
    with pytest.raises(Stop):
        train(part, broken, config=config, method=method, out=tmp_path, progress=False)
    again = model()
    train(again, batches(), config=config, method=method, out=tmp_path, progress=False)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_rows_are_told_apart() -> None:
    own = Distillation()
    titles = [kind(distil=own).title for kind in (ErrorAware, Gaussian, DNat)]
    assert titles == ["error-aware, distilled", "gaussian-trained, distilled", "D-NAT, distilled"]
    assert Qat(distil=own).title == Qat().title  # the network that the comparison starts from


def test_outputs_that_are_no_logits_are_refused() -> None:
    own = Distillation()
    with pytest.raises(ValueError, match=r"logits of shape \(B, classes\); the network gives \(96, 1, 20\)"):
        own.around(cross_entropy, nn.Unflatten(1, (1, 20)), X)


@pytest.mark.parametrize("cut", [0.0, 101.0])
def test_a_temperature_outside_its_range_is_refused(cut: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        Distillation(temperature=cut)


@pytest.mark.parametrize("plan", ["fused", "reference"])
def test_in_mixed_precision_the_read_is_the_same_and_its_gradient_is_rounded(plan: str) -> None:
    net = model()
    for layer in layers(net).values():
        layer.forced = plan
        layer._plan()
    found = {}
    for amp in (False, True):
        net.zero_grad()
        silicon(net).begin(INDEX)
        x = X.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            y = layers(net)["0"](x)
        assert y.dtype == torch.float32
        y.square().sum().backward()
        weight = layers(net)["0"].weight.grad
        assert x.grad is not None
        assert weight is not None
        found[amp] = (y.detach(), x.grad, weight.clone())
    assert torch.equal(found[True][0], found[False][0])
    for exact, rounded in zip(found[False][1:], found[True][1:], strict=True):
        assert not torch.equal(exact, rounded)
        torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02 * float(exact.abs().max()))
