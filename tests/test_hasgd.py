"""HA-SGD and its parts: what is drawn when, what is minimised, and the acceptance tests A1.3, A1.4, A1.6 and A1.8."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bitline.devices import RangeWeight
from bitline.evaluate import hessian_traces
from bitline.macro import Chip, Macro, ideal
from bitline.macro.chip import Effect
from bitline.methods import AnyMethod, Clip, ErrorAware, HaSgd, Injection, Progress, Ramp, Sam, Spread, training_chip
from bitline.nn import convert, layers, on_chip, restore, use
from bitline.train import HASGD, Sgd, TrainConfig, train
from bitline.train.schedules import Constant

X = torch.rand(64, 20, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 10).long()
INDEX = torch.arange(64)
STEPS = 10


def macro(**changes: Any) -> Macro:
    config = {"name": "nvm", "rows": 32, "columns": 32, "variation": {"kind": "range", "sigma": 0.2}, "bias": {}}
    return Macro.model_validate(config | changes)


def model(design: Macro | None = None, norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(8)] if norm else []
    return convert(nn.Sequential(nn.Linear(20, 8), *middle, nn.ReLU(), nn.Linear(8, 2)), design or macro())


def batches(epoch: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [(X[:32], Y[:32], INDEX[:32]), (X[32:], Y[32:], INDEX[32:])]


def started(method: HaSgd, net: nn.Module, step: int = 0) -> HaSgd:
    method.begin(net, batches)
    method.before_step(net, Progress(step, STEPS))
    return method


def loss_of(method: HaSgd, net: nn.Module) -> Tensor:
    return method.loss(net, X, Y, INDEX, cross_entropy)


def gradient(method: HaSgd, net: nn.Module) -> Tensor:
    found = torch.autograd.grad(loss_of(method, net), list(net.parameters()))
    return torch.cat([part.flatten() for part in found])


# ------------------------------------------------------------------------------------------------------ perturbations


def test_each_step_perturbs_afresh_and_moves_the_clean_weights() -> None:
    """A1.6: draws differ from batch to batch; with a rate of (next to) nothing the weights stay what they were."""
    net = model()
    before = [p.clone() for p in net.parameters()]
    chips = []
    layers(net)["0"].register_forward_pre_hook(lambda layer, _: chips.append(layer.silicon.chip))
    train(net, batches, config=TrainConfig(steps=4, lr=1e-12), method=HaSgd(seed=5), progress=False)
    assert chips == [training_chip(5, step) for step in range(4)]
    assert all(torch.allclose(p, q, rtol=0, atol=1e-9) for p, q in zip(net.parameters(), before, strict=True))
    losses = {float(loss_of(started(HaSgd(), net, step), net).detach()) for step in range(4)}
    assert len(losses) == 4


def test_without_parts_it_is_error_aware_training() -> None:
    seen = [float(loss_of(started(method, net := model(), 3), net).detach()) for method in (HaSgd(), ErrorAware())]
    assert seen[0] == seen[1]


@torch.no_grad()
def test_samples_are_chips_of_their_own() -> None:
    net = model()
    method = started(HaSgd(samples=3, seed=1), net, 2)
    chips: list[Chip] = []
    layers(net)["0"].register_forward_pre_hook(lambda layer, _: chips.append(layer.silicon.chip))
    mean = loss_of(method, net)
    assert len(set(chips)) == 3
    assert chips[0] == training_chip(1, 2)
    singles = []
    for chip in chips[:3]:
        on_chip(net, chip)
        singles.append(cross_entropy(net(X), Y))
    torch.testing.assert_close(mean, torch.stack(singles).mean())
    again = loss_of(method, net)  # as another batch of the same step
    assert torch.equal(again, mean)
    assert chips[-3:] == chips[:3]


def test_every_rank_draws_samples_of_its_own() -> None:
    chips: list[Chip] = []
    for rank in (0, 1):
        net = model()
        method = HaSgd(samples=2, seed=1)
        method.begin(net, batches)
        progress = Progress(3, STEPS, rank, 2)
        method.before_step(net, progress)
        layers(net)["0"].register_forward_pre_hook(lambda layer, _: chips.append(layer.silicon.chip))
        loss_of(method, net)
        assert chips[-2] == training_chip(1, progress.draw)
    assert len(set(chips)) == 4


def test_four_samples_quarter_the_variance_of_the_gradient() -> None:
    """A1.8, over 400 steps at fixed weights."""
    variance = {}
    for samples in (1, 4):
        net = model()
        method = HaSgd(samples=samples)
        method.begin(net, batches)
        found = []
        for step in range(400):
            method.before_step(net, Progress(step, 400))
            found.append(gradient(method, net))
        variance[samples] = float(torch.stack(found).var(0).sum())
    assert variance[1] / variance[4] == pytest.approx(4, rel=0.15)


def test_the_expected_loss_has_the_trace_of_the_hessian() -> None:
    """A1.3: E L(w + d) - L(w) = ½ sigma² R² Tr H on a quadratic, within 2 % of 40 000 draws."""
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(30, 30, generator=generator, dtype=torch.float64)
    hessian = root @ root.T / 30
    w = torch.linspace(-1, 1, 30, dtype=torch.float64)  # R = 1
    error = RangeWeight(sigma=0.1)
    draws = 40_000
    n = error.sample(Effect(Chip(0, 0).stream("weight", "quadratic"), torch.arange(draws * 30).view(draws, 30)))
    there = error.apply(w.expand(draws, 30), n)
    rise = 0.5 * ((there @ hessian) * there).sum(1).mean() - 0.5 * w @ hessian @ w
    assert float(rise) == pytest.approx(0.5 * 0.01 * float(hessian.trace()), rel=0.02)


# -------------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_at_the_same_loss_the_minimum_is_flatter(seed: int) -> None:
    """A1.4 on two spirals: both train until the clean loss is 0.1; measured, Tr H is 21 to 30 and 0.4 to 0.6."""
    curved = {}
    for name, method in {"plain": HaSgd(noise=None), "hessian": HaSgd(seed=seed)}.items():
        torch.manual_seed(seed)
        layers_of = [nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2)]
        net = convert(nn.Sequential(*layers_of), macro(variation={"kind": "range", "sigma": 0.1}, bias=None))
        loss = trained_down(net, method, seed, 0.1)
        assert 0.08 < loss <= 0.1
        curved[name] = sum(trace.value for trace in hessian_traces(net, [SPIRALS], probes=32).values())
    assert 0 < curved["hessian"] < curved["plain"] / 2, curved


def spirals(points: int = 200) -> tuple[Tensor, Tensor]:
    """Two arms of a turn and a half; points (n, 2), the arm of each."""
    draw = torch.Generator().manual_seed(0)
    angle, arm = torch.rand(points, generator=draw).sqrt() * 3 * torch.pi, torch.arange(points) % 2
    turned = angle + arm * torch.pi
    places = angle[:, None] * torch.stack([turned.cos(), turned.sin()], 1) / 10
    return places + 0.02 * torch.randn(points, 2, generator=draw), arm


SPIRALS = spirals()


class Enough(Exception):
    """The loss is as low as was wanted."""


def trained_down(net: nn.Module, method: HaSgd, seed: int, wanted: float) -> float:
    """Train on the spirals until the loss without errors, looked at every ten steps, is as low as wanted; that loss."""
    steps = [(*SPIRALS, torch.arange(len(SPIRALS[0])))] * 10
    config = TrainConfig(epochs=200, lr=0.1, optimizer=Sgd(weight_decay=0.0), schedule=Constant(), seed=seed)

    def clean(net: nn.Module) -> dict[str, float]:
        use(net, ideal)
        loss = float(cross_entropy(net(SPIRALS[0]), SPIRALS[1]))
        use(net, method.variant)
        if loss <= wanted:
            raise Enough(loss)
        return {}

    with pytest.raises(Enough) as stopped:
        train(net, steps, config=config, method=method, progress=False, validate=clean)
    return float(stopped.value.args[0])


def test_noise_of_training_takes_the_place_of_the_macros() -> None:
    net = model()
    started(HaSgd(noise=Injection(sigma=0.05, mu=0.01, censor=1.0)), net)
    found = layers(net)["0"].macro.variation
    assert (found.sigma, found.mu, found.censor, found.distribution) == (0.05, 0.01, 1.0, "normal")
    assert layers(net)["0"].design.variation == macro().variation
    started(HaSgd(noise=None), net)
    clean = nn.Sequential(*(layer for layer in net))
    assert torch.equal(loss_of(HaSgd(noise=None), net), cross_entropy(clean(X), Y))
    assert not layers(net)["0"].macro.variation.varies


def test_levels_scale_the_noise_step_by_step() -> None:
    net = model()
    method = HaSgd(levels=Ramp(start=0.0, end=2.0, share=0.5))
    method.begin(net, batches)
    seen = []
    for step in range(11):
        method.before_step(net, Progress(step, 11))
        seen.append(layers(net)["2"].macro.variation.sigma)
    assert seen == pytest.approx([0.2 * min(2.0, 0.4 * step) for step in range(11)])
    drawn = [Spread(low=0.5, high=1.5).at(Progress(step, 1), seed=2) for step in range(2000)]
    assert 0.5 < min(drawn) < 0.51
    assert 1.49 < max(drawn) < 1.5
    assert sum(drawn) / 2000 == pytest.approx(1, abs=0.03)
    assert drawn[:3] == [Spread(low=0.5, high=1.5).at(Progress(step, 99), seed=2) for step in range(3)]


def test_clipping_narrows_the_range_again_and_again() -> None:
    net = model()
    weight = layers(net)["0"].weight
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    method, most = started(HaSgd(clip=Clip(k=1.5)), net), []
    for step in range(1, 4):
        most.append(float(weight.detach().abs().max() / weight.detach().std()))
        method.before_step(net, Progress(step, STEPS))
    assert most[0] > most[1] > most[2]
    assert most[0] == pytest.approx(1.5, rel=0.25)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Clip(k=0.9)


@torch.no_grad()
def test_a_percentile_of_the_chips() -> None:
    net = model()
    values = [float(loss_of(started(HaSgd(samples=n), net), net)) * n for n in (2, 3, 4, 5)]
    first = float(loss_of(started(HaSgd(), net), net))
    singles = [first, *(b - a for a, b in zip([first, *values], values, strict=False))]
    worst = loss_of(started(HaSgd(samples=5, percentile=75.0), net), net)
    assert float(worst) == pytest.approx(sorted(singles)[3], abs=1e-5)


def test_sam_takes_the_gradient_at_the_worst_point_nearby() -> None:
    net, rho = model(), 0.5
    method = started(HaSgd(sam=Sam(rho=rho)), net)
    found = gradient(method, net)
    plain = started(HaSgd(), net)
    first = gradient(plain, net)
    with torch.no_grad():
        at = 0
        for p in net.parameters():
            p += rho * first[at : at + p.numel()].view(p.shape) / first.norm()
            at += p.numel()
    torch.testing.assert_close(found, gradient(plain, net), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found, first, rtol=0.05)


def test_statistics_are_learnt_once_a_sample() -> None:
    runs = {}
    for name, parts in {"plain": {}, "SAM": {"sam": Sam()}, "two": {"samples": 2}}.items():
        net = model(macro(norm={}), norm=True).train()
        method = started(HaSgd(**parts), net)
        loss_of(method, net).backward()
        runs[name] = net[1].running_mean.clone()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())
        assert net[1].momentum == 0.1
        assert int(net[1].num_batches_tracked) == method.samples
    assert torch.equal(runs["plain"], runs["SAM"])
    assert not torch.equal(runs["plain"], runs["two"])


def test_everything_at_once_trains() -> None:
    net = model(macro(norm={}, variation={"kind": "range", "sigma": 0.05}), norm=True)
    before = float(cross_entropy(restore(net)(X), Y).detach())
    method = HaSgd(
        samples=2, noise=Injection(censor=1.0), levels=Ramp(), clip=Clip(), percentile=90.0, sam=Sam(), seed=1
    )
    train(net, batches, config=TrainConfig(steps=100, lr=0.05), method=method, progress=False)
    assert float(cross_entropy(restore(net).eval()(X), Y).detach()) < 0.8 * before
    assert layers(net)["0"].macro == layers(net)["0"].design


# ------------------------------------------------------------------------------------------------ titles and refusals


def test_titles_say_what_is_on() -> None:
    told = {
        HaSgd(): "HA-SGD",
        HaSgd(noise=None, clip=Clip(k=2)): "plain SGD (clipped at 2 std)",
        HaSgd(noise=None, sam=Sam()): "plain SGD (SAM 0.05)",
        HaSgd(noise=Injection(sigma=0.1), clip=Clip(), levels=Ramp()): (
            "HA-SGD (sigma 0.1, noise from 0 to 1, clipped at 2.5 std)"
        ),
        HaSgd(samples=4, noise=Injection(censor=1), percentile=90): (
            "HA-SGD (censor 1, 4 chips a step, 90th percentile)"
        ),
        HaSgd(levels=Spread()): "HA-SGD (noise between 0 and 1.5)",
    }
    kind: TypeAdapter[Any] = TypeAdapter(AnyMethod)
    for method, title in told.items():
        assert method.title == title
        assert kind.validate_json(method.model_dump_json()) == method


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"noise": None, "samples": 2}, "without noise every chip is the same"),
        ({"noise": None, "levels": {"kind": "ramp"}}, "without noise every chip is the same"),
        ({"percentile": 90}, "percentile 90 of samples = 1"),
        ({"levels": {"kind": "rmap"}}, "'ramp', 'cosine', 'spread'"),
        ({"noise": {"sigma": -1}}, "greater than or equal to 0"),
    ],
)
def test_parts_that_do_not_go_together(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        HaSgd.model_validate(parts)


def test_macros_that_a_part_cannot_train_on() -> None:
    plain, lognormal = macro(variation=None, bias=None), macro(variation={"kind": "lognormal", "sigma": 0.1})
    assert HaSgd().refuses(plain) is None
    assert "the macro has none" in str(HaSgd(levels=Ramp()).refuses(plain))
    assert "noise sets sigma of `variation`, and the macro has none" in str(
        HaSgd(noise=Injection(sigma=0.1)).refuses(plain)
    )
    assert "censor" in str(HaSgd(noise=Injection(censor=1)).refuses(lognormal))
    assert HaSgd(noise=Injection(sigma=0.3)).refuses(lognormal) is None
    with pytest.raises(ValueError, match="levels scale the spread"):
        HaSgd(levels=Ramp()).begin(model(plain), batches)


def test_the_published_recipe() -> None:
    """One step of 0.02 goes as far as two of 0.01 at a steady gradient; the rate falls at epochs 60, 120 and 180."""
    rates = [HASGD.lr * HASGD.schedule.factor(epoch, 200) for epoch in (0, 59, 60, 120, 180)]
    assert rates == pytest.approx([0.02, 0.02, 0.004, 0.0008, 0.00016])
