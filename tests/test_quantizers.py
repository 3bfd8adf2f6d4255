"""Quantizers: grids, gradients against closed forms, calibration, state and tracing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load, save
from torch import nn

from bitline.nn.grid import Grid, Statistics
from bitline.nn.quantizer import Quantizer
from bitline.nn.quantizers import AnyQuantizer, Lsq, MinMax, Mse, Pact, Percentile, Xnor

INPUTS = [Lsq(), Lsq(init=None), Pact(), MinMax(), Percentile(p=99.0), Mse()]
SHIFTED = [config.model_copy(update={"asymmetric": True}) for config in INPUTS]
WEIGHTS = [Lsq(), Lsq(per_channel=True), MinMax(per_channel=True), Percentile(per_channel=True), Mse(per_channel=True)]


def calibrated(config, low, high, x, role="inputs", step=1) -> Quantizer:
    module = config.build(low, high, role=role, step=step, channels=x.shape[0])
    module.observe(x)
    module.freeze()
    return module


def value(module: Quantizer, x: torch.Tensor) -> torch.Tensor:
    q, scale, zero = module(x)
    return scale * (q - zero)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------------ codes


@pytest.mark.parametrize("config", INPUTS)
def test_unsigned_inputs(config):
    x = randn(8, 3, 5, 5).relu()
    module = calibrated(config, 0, 15, x)
    q, scale, zero = module(x)
    assert q.shape == x.shape
    assert scale.shape == ()
    assert scale > 0
    assert zero == 0
    assert set(q.unique().tolist()) <= set(range(16))
    assert q.max() >= 12
    assert value(module, torch.zeros(1, 3, 5, 5)).abs().max() == 0
    inside = x < 15 * scale
    assert ((value(module, x) - x).abs()[inside] <= scale * 0.5001).all()


@pytest.mark.parametrize("config", SHIFTED)
@pytest.mark.parametrize(("low", "high"), [(0, 15), (-8, 7)])
def test_signed_data_by_a_zero_point(config, low, high):
    x = randn(64, 10) + 0.7
    module = calibrated(config, low, high, x)
    q, _, zero = module(x)
    assert low <= q.min()
    assert q.max() <= high
    assert low < zero < high
    assert zero == zero.round()
    assert (value(module, torch.zeros(2, 10)) == 0).all()
    assert (value(module, x) - x).square().mean() < 0.05


@pytest.mark.parametrize("config", WEIGHTS)
@pytest.mark.parametrize(("low", "high"), [(-8, 7), (-7, 7)])
def test_weights(config, low, high):
    w = randn(6, 4, 3, 3) * torch.logspace(-1, 1, 6)[:, None, None, None]
    module = calibrated(config, low, high, w, role="weights")
    q, scale, zero = module(w)
    assert scale.shape == ((6, 1, 1, 1) if config.per_channel else ())
    assert zero == 0
    assert low <= q.min()
    assert q.max() <= high
    assert (q == q.round()).all()
    if config.per_channel:
        assert (scale.flatten().diff() > 0).all()


@pytest.mark.parametrize("config", [Lsq(), MinMax(), Percentile(), Mse()])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_bipolar_has_odd_codes_only(config, bits):
    w = randn(6, 40)
    q, scale, _ = calibrated(config, -(2**bits) + 1, 2**bits - 1, w, role="weights", step=2)(w)
    assert (q.remainder(2) == 1).all()
    assert q.abs().max() <= 2**bits - 1
    inside = w.abs() < scale * 2**bits
    assert ((w - scale * q).abs()[inside] <= scale * 1.0001).all()


@given(st.integers(-20, 20), st.sampled_from([0.25, 0.5, 1.0, 3.0]))
@settings(max_examples=40, deadline=None)
def test_rounding_is_half_up(n, scale):
    grid = Grid(-32, 31)
    assert grid.nearest(torch.tensor((n + 0.5) * scale) / scale) == n + 1
    assert grid.nearest(torch.tensor(float(n))) == n


def test_minmax_clips_nothing_and_mse_beats_it():
    x = torch.cat([randn(2000), torch.tensor([30.0])])[None]
    error = {
        type(c).__name__: (value(calibrated(c, -8, 7, x), x) - x).square().mean().item()
        for c in (MinMax(), Percentile(p=99.0), Mse())
    }
    assert value(calibrated(MinMax(), -8, 7, x), x).max() == 30
    best = min(((Grid(-8, 7).nearest(x / s) * s - x).square().mean().item()) for s in torch.linspace(0.05, 5, 2000))
    assert error["Mse"] < error["MinMax"] / 2
    assert error["Mse"] <= best * 1.02


def test_mse_of_a_normal_matches_the_published_optimum():
    """Max (IRE Trans. Inf. Theory 1960), uniform quantizer, 16 levels: spacing 0.3352 σ, error 0.01154 σ²."""
    x = randn(1, 200_000)
    module = calibrated(Mse(), -15, 15, x, step=2)  # 16 levels, symmetric: spacing 2·scale
    assert 2 * float(module.scale) == pytest.approx(0.3352, rel=0.03)
    assert (value(module, x) - x).square().mean().item() == pytest.approx(0.01154, rel=0.02)


# -------------------------------------------------------------------------------------------------------- gradients


def gradients(module, x, upstream):
    x = x.clone().requires_grad_()
    (value(module, x) * upstream).sum().backward()
    return x.grad, {name: p.grad for name, p in module.named_parameters()}


def test_lsq_gradient_is_the_paper_s():
    w, up = randn(6, 50), randn(6, 50, seed=1)
    module = calibrated(Lsq(), -8, 7, w, role="weights")
    with torch.no_grad():
        module.scale.mul_(0.5)  # so that some weights are clipped
    dw, grads = gradients(module, w, up)
    v = w / module.scale.detach()
    slope = torch.where(v <= -8, -8.0, torch.where(v >= 7, 7.0, torch.floor(v + 0.5) - v))
    assert torch.allclose(grads["scale"], (up * slope).sum() / math.sqrt(w.numel() * 7), rtol=1e-4)
    assert torch.equal(dw != 0, (v > -8) & (v < 7))
    assert torch.allclose(dw[dw != 0], up[dw != 0])
    start = calibrated(Lsq(init=None), -8, 7, w, role="weights")
    assert start.scale.item() == pytest.approx(2 * w.abs().mean().item() / math.sqrt(7), rel=1e-6)


def test_lsq_per_channel_and_inputs_scale_their_gradient_by_their_own_count():
    w = randn(4, 30)
    q = calibrated(Lsq(per_channel=True), -8, 7, w, role="weights")
    value(q, w).sum().backward()
    one = calibrated(Lsq(), -8, 7, w[:1], role="weights")
    with torch.no_grad():
        one.scale.copy_(q.scale[0])
    value(one, w[:1]).sum().backward()
    assert torch.allclose(q.scale.grad[0], one.scale.grad)
    x, small = randn(32, 20).relu(), None
    for rows in (32, 16):  # a feature count, not the batch: twice the samples, twice the gradient
        m = calibrated(Lsq(), 0, 7, x)
        value(m, torch.cat([x[:16]] * (rows // 16))).sum().backward()
        small, big = m.scale.grad, small
    assert torch.allclose(big, 2 * small)


@pytest.mark.parametrize("residual", [False, True])
def test_pact_gradients(residual):
    """METHODS 3.3: dL/dx = g·1[β<x<α], dL/dα = Σ g·1[x≥α] (+ residual), dL/dβ = Σ g·1[x≤β] (− residual)."""
    x, up = randn(40, 30) + 0.5, randn(40, 30, seed=1)
    module = calibrated(Pact(asymmetric=True, init=Percentile(p=90), residual=residual), 0, 15, x)
    alpha, beta = module.alpha.item(), module.beta.item()
    dx, grads = gradients(module, x, up)
    xq = value(module, x).detach()
    inside = (x > beta) & (x < alpha)
    extra = (up * (xq - x) / (alpha - beta))[inside].sum() if residual else 0.0
    assert torch.allclose(dx, torch.where(inside, up, torch.zeros(())), rtol=1e-6)
    assert torch.allclose(grads["alpha"], up[x >= alpha].sum() + extra, atol=1e-3)
    assert torch.allclose(grads["beta"], up[x <= beta].sum() - extra, atol=1e-3)
    assert xq.max().item() == pytest.approx(alpha, rel=1e-5)
    assert xq.min().item() == pytest.approx(beta, rel=1e-5)
    assert module.penalty().item() == pytest.approx(1e-4 * (alpha**2 + beta**2))


def test_plain_pact_is_choi_s():
    x, up = randn(40, 30).relu() + 1e-3, randn(40, 30, seed=1)
    module = calibrated(Pact(init=Percentile(p=95)), 0, 15, x)
    _, grads = gradients(module, x, up)
    assert torch.allclose(grads["alpha"], up[x >= module.alpha].sum(), atol=1e-4)
    assert set(grads) == {"alpha"}


def test_xnor():
    w, up = randn(5, 60) * 0.8, randn(5, 60, seed=1)
    module = Xnor().build(-1, 1, step=2, role="weights", channels=5)
    q, scale, _ = module(w)
    assert torch.equal(q, torch.where(w >= 0, 1.0, -1.0))
    assert torch.allclose(scale, w.abs().mean(1, keepdim=True))
    dw, _ = gradients(module, w, up)
    sign = torch.sign(w)
    expected = sign * (up * q).sum(1, keepdim=True) / 60 + up * scale * (w.abs() <= 1)
    assert torch.allclose(dw, expected, atol=1e-5)


def test_a_negative_scale_recovers():
    x = randn(8, 30)
    module = calibrated(Lsq(), -8, 7, x, role="weights")
    with torch.no_grad():
        module.scale.fill_(-0.1)
    (value(module, x) - x).square().sum().backward()
    assert module(x)[1] > 0
    assert module.scale.grad < 0


# ------------------------------------------------------------------------------------------------------ calibration


def test_learned_steps_start_where_sparse_inputs_lose_least():
    x = (randn(64, 400) - 1.5).relu()  # seven in a hundred are there at all
    noise = {}
    for name, config in {"learned": Lsq(), "published": Lsq(init=None), "best": Mse()}.items():
        noise[name] = float((value(calibrated(config, 0, 15, x), x) - x).square().mean().detach())
    assert noise["learned"] == noise["best"] < 0.1 * noise["published"]


@pytest.mark.parametrize("config", [*SHIFTED, *INPUTS[:1]])
def test_batch_size_does_not_change_calibration(config):
    x = randn(3000, 40) + 0.2 if config.asymmetric else randn(3000, 40).relu()
    once, often = (config.build(0, 15, role="inputs") for _ in range(2))
    once.observe(x)
    for part in x.split(177):
        often.observe(part)
    once.freeze(), often.freeze()
    assert all(
        torch.allclose(a, b, rtol=1e-6)
        for a, b in zip(once.state_dict().values(), often.state_dict().values(), strict=True)
    )


def test_the_sample_is_bounded_and_fair():
    seen = Statistics(1, torch.device("cpu"))
    for k in range(10):
        seen.update(torch.arange(k * 50_000, (k + 1) * 50_000).float()[None])
    assert seen.sample.shape == (1, 65536)
    assert seen.sample.unique().numel() == 65536
    assert seen.count == 500_000
    quantiles = seen.sample.quantile(torch.tensor([0.1, 0.5, 0.9]))
    assert torch.allclose(quantiles, torch.tensor([5e4, 2.5e5, 4.5e5]), atol=2500)  # 2.5 standard errors
    wide = Statistics(512, torch.device("cpu"))
    wide.update(randn(512, 9000))
    assert wide.sample.shape == (512, 4096)


def test_dead_channels_and_dead_tensors_get_a_finite_scale():
    w = randn(4, 20)
    w[2] = 0
    scale = calibrated(MinMax(per_channel=True), -7, 7, w, role="weights").scale
    assert torch.isfinite(scale).all()
    assert scale[2] == scale[[0, 1, 3]].mean()
    assert calibrated(Lsq(), 0, 15, torch.zeros(2, 3)).scale == 1


@pytest.mark.parametrize("config", INPUTS)
def test_negative_data_on_unsigned_codes(config):
    with pytest.raises(ValueError, match=r"\d\d\.\d% of the observed values are negative.*asymmetric=True.*ReLU"):
        calibrated(config, 0, 15, randn(100, 10))
    with_a_few = torch.cat([randn(100, 10).relu(), torch.full((1, 10), -1e-6)])
    calibrated(config, 0, 15, with_a_few)


def test_errors():
    module = Lsq().build(0, 15, role="inputs")
    with pytest.raises(RuntimeError, match=r"Lsq\(inputs 0..15\) is not calibrated.*observe\(x\).*freeze\(\)"):
        module(torch.ones(2))
    with pytest.raises(RuntimeError, match="nothing observed"):
        module.freeze()
    module.name = "layer3.0.conv2"
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"layer3\.0\.conv2: 1 of 3 observed values are NaN or infinite"):
            module.observe(torch.tensor([1.0, bad, 2.0]))
    with pytest.raises(ValueError, match="empty"):
        module.observe(torch.zeros(0, 3))
    for build in (
        lambda: Lsq().build(3, 1, role="inputs"),
        lambda: Lsq().build(-8, 8, role="weights", step=2),
        lambda: Lsq(per_channel=True).build(0, 15, role="inputs"),
        lambda: Lsq(per_channel=True).build(-8, 7, role="weights"),
        lambda: Lsq(asymmetric=True).build(-8, 7, role="weights"),
        lambda: Pact().build(-8, 7, role="inputs"),
        lambda: Pact(asymmetric=True).build(-8, 7, role="weights"),
        lambda: Xnor().build(-8, 7, role="weights"),
    ):
        with pytest.raises(ValueError, match=r"Lsq|Pact|Xnor|codes"):
            build()
    with pytest.raises(ValidationError):
        Percentile(p=40)
    with pytest.raises(ValidationError):
        Lsq(bits=4)


# -------------------------------------------------------------------------------------------------- state and traces


@pytest.mark.parametrize("config", [*INPUTS, *SHIFTED, Xnor()])
def test_round_trips(config):
    again = TypeAdapter(AnyQuantizer).validate_json(config.model_dump_json())
    assert again == config
    grid = {"low": -1, "high": 1, "step": 2, "role": "weights", "channels": 8}
    grid = grid if isinstance(config, Xnor) else {"low": 0, "high": 15, "role": "inputs"}
    x = randn(8, 5) + 0.3 if config.asymmetric or isinstance(config, Xnor) else randn(8, 5).relu()
    first, second = (nn.Sequential(again.build(**grid)) for _ in range(2))
    first[0].observe(x), first[0].freeze()
    second.load_state_dict(load(save(first.state_dict())))
    assert second[0].calibrated
    assert all(torch.equal(a, b) for a, b in zip(first(x), second(x), strict=True))
    if not isinstance(config, Xnor):
        fresh = again.build(**grid)
        fresh.load_state_dict(again.build(**grid).state_dict())
        assert not fresh.calibrated


@pytest.mark.parametrize("config", [INPUTS[0], *SHIFTED[2:4]])
def test_compile_and_export(config):
    x = randn(8, 6) + 0.3 if config.asymmetric else randn(8, 6).relu()
    module = calibrated(config, 0, 15, x)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    exported = torch.export.export(module, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=2)}}).module()
    for other in (x, x[:5]):
        assert all(torch.equal(a, b) for a, b in zip(module(other), compiled(other), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(module(other), exported(other), strict=True))


@pytest.mark.parametrize("config", [*INPUTS, *SHIFTED])
def test_computes_in_fp32_under_autocast(config):
    x = randn(8, 6) + 0.3 if config.asymmetric else randn(8, 6).relu()
    x = x.bfloat16()
    module = calibrated(config, 0, 255, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = module(x)
    assert all(a.dtype == torch.float32 and torch.equal(a, b) for a, b in zip(inside, module(x.float()), strict=True))
    assert module(x.double())[0].dtype == torch.float64
