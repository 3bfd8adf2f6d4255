"""Weights, biases and batch norms of an analog array: ranges (A1.2), chips (A1.6), and reads unrolled (A1.7)."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bitline.devices import LogNormalWeight, OffsetRow, RangeWeight
from bitline.devices.weights import half_range
from bitline.evaluate import evaluate, recalibrate
from bitline.macro import Chip, Macro, causes, describe, ideal, nominal, without
from bitline.macro.chip import Effect
from bitline.nn import AnalogNorm, calibrate, convert, layers, mapping, on_chip, parts, restore, silicon, use

N = 1_000_000
SIGMA = 0.05


def effect(stream: int, n: int = N) -> Effect:
    return Effect(stream, torch.arange(n))


def macro(**changes: Any) -> Macro:
    config = {"name": "nvm", "rows": 64, "columns": 64, "variation": {"kind": "range", "sigma": SIGMA}}
    return Macro.model_validate(config | {"bias": {}, "norm": {}} | changes)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.bn(self.conv(x)).relu().mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    made = Net()
    nn.init.uniform_(made.bn.weight, 0.5, 1.5)
    nn.init.uniform_(made.bn.bias, -2, 2)
    made.bn.running_mean.uniform_(-0.5, 0.5)
    made.bn.running_var.uniform_(0.5, 2)
    return made.eval()


X = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(1))


# -------------------------------------------------------------------------------------------- errors of single weights


def test_moments_of_censored_draws() -> None:
    w = torch.linspace(-1, 1, N, dtype=torch.float64)
    for censor in (-0.5, 0.0, 1.0):
        error = RangeWeight(sigma=0.1, mu=0.03, censor=censor)
        n = error.sample(effect(3))
        assert float(n.max()) == censor
        delta = error.apply(w, n) - w
        expected = -math.exp(-(censor**2) / 2) / math.sqrt(2 * math.pi)
        expected += censor * (1 - 0.5 * (1 + math.erf(censor / math.sqrt(2))))
        assert float(delta.mean()) == pytest.approx(0.03 + 0.1 * expected, abs=4 * 0.1 / N**0.5)
        assert float(delta.square().mean()) == pytest.approx(float(error.power(w)[0]), rel=0.01)


def test_what_all_weights_have_in_common_stays_in_the_typical_die() -> None:
    w = torch.linspace(-1, 1, N, dtype=torch.float64)
    error = RangeWeight(sigma=0.1, mu=0.03, censor=0.5)
    macro = Macro(name="shifted", rows=8, columns=8, variation=error)
    typical = nominal(macro).variation
    assert typical is not None
    assert not typical.varies
    shift = float((error.apply(w, error.sample(effect(3))) - w).mean())
    assert float((typical.apply(w, None) - w).mean()) == pytest.approx(shift, abs=4 * 0.1 / N**0.5)
    assert causes(macro) == ["variation", "curve"]
    centred = without(macro, "curve").variation
    assert centred is not None
    assert float((centred.apply(w, centred.sample(effect(3))) - w).mean()) == pytest.approx(0, abs=4 * 0.1 / N**0.5)
    assert causes(macro.model_copy(update={"variation": centred})) == ["variation"]
    clean = ideal(macro).variation
    assert clean is not None
    assert torch.equal(clean.apply(w, None), w)


@pytest.mark.parametrize(
    "error",
    [
        RangeWeight(sigma=0.1, mu=0.05, censor=1.0),
        RangeWeight(sigma=0.1, distribution="uniform"),
        LogNormalWeight(sigma=0.4),
    ],
)
def test_power_of_an_error(error: Any) -> None:
    w = torch.tensor([-1.0, 0.3, 1.0], dtype=torch.float64)[:, None].expand(3, N)
    delta = error.apply(w, error.sample(effect(5))) - w
    torch.testing.assert_close(delta.square().mean(1), error.power(w[:, 0].contiguous()), rtol=0.01, atol=0)


def test_small_weights_in_a_finer_bank() -> None:
    """H2: those up to a quarter of the half range err by a quarter."""
    w = torch.linspace(-1, 1, N, dtype=torch.float64)
    error = RangeWeight(sigma=0.1, fine=0.25)
    delta = error.apply(w, error.sample(effect(6))) - w
    small = w.abs() <= 0.25
    assert float(delta[small].std()) == pytest.approx(0.025, rel=0.01)
    assert float(delta[~small].std()) == pytest.approx(0.1, rel=0.01)
    torch.testing.assert_close(error.power(w)[small][0], torch.tensor(0.025**2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"clock": "read", "fine": 0.5}, "clock read takes only sigma and mu"),
        ({"distribution": "uniform", "censor": 1.0}, "censor cuts the tail of normal draws"),
    ],
)
def test_what_does_not_go_together(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RangeWeight(sigma=0.1, **config)


# ------------------------------------------------------------------------------------------- offsets in one range (ABS)


def test_bias_ten_times_larger_than_weights() -> None:
    """A1.2: one scale makes weights err ten times more; the matched amplitude leaves them as they were."""
    w, b = torch.linspace(-1, 1, N, dtype=torch.float64), torch.linspace(-10, 10, N, dtype=torch.float64)
    error = RangeWeight(sigma=SIGMA)
    n, m = error.sample(effect(1)), error.sample(effect(2))
    alone = float((error.apply(w, n) - w).std())

    def deviations(row: OffsetRow) -> tuple[float, float]:
        held = row.stored(error, w, b, n, m)
        return float((held.w - w).std()) / alone, float((held.b - b).std()) / alone

    assert deviations(OffsetRow(amplitude=1)) == pytest.approx((10, 10), rel=0.01)
    assert deviations(OffsetRow()) == pytest.approx((1, 10), rel=0.01)
    assert float(OffsetRow().factor(w, b)) == pytest.approx(10)


def test_output_error_falls_as_predicted() -> None:
    """A1.2: the error of an output is sigma · R · sqrt(Σx² + f²)."""
    torch.manual_seed(0)
    layer = nn.Linear(32, 4000).requires_grad_(False)
    layer.weight.uniform_(-1, 1)
    layer.bias.uniform_(-10, 10)
    x = torch.rand(1, 32)
    seen = {}
    for name, row in {"one scale": {"amplitude": 1}, "ABS": {}}.items():
        model = convert(nn.Sequential(layer), macro(bias=row))
        error = model(x) - layer(x)
        r = half_range(layer.weight, layer.bias if name == "one scale" else layer.bias / 10)
        f = 1.0 if name == "one scale" else 10.0
        seen[name] = float(error.square().mean().sqrt())
        assert seen[name] == pytest.approx(SIGMA * float(r) * math.sqrt(float(x.square().sum()) + f**2), rel=0.05)
    assert 2.5 < seen["one scale"] / seen["ABS"] < 4


def test_offsets_without_error_are_theirs_to_the_last_bit() -> None:
    w, b = torch.randn(50), torch.randn(50) * 7
    held = OffsetRow().stored(LogNormalWeight(sigma=0), w, b, None, None)
    assert torch.equal(held.w, w)
    assert torch.equal(held.b, b)
    model = convert(net(), macro())
    use(model, ideal)
    assert torch.equal(model(X), net()(X))


def test_ranges_that_are_points() -> None:
    w, b = torch.full((4,), 2.0), torch.tensor([1.0, -1.0, 0.5, 0.0])
    assert float(OffsetRow().factor(w, b)) == 1.0
    assert float(OffsetRow().factor(b, w)) == 1.0


def test_gradients_pass_to_clean_parameters() -> None:
    """The error is a constant to weights and offsets of a range-relative variation."""
    w, b = torch.randn(9, requires_grad=True), (3 * torch.randn(5)).requires_grad_()
    held = OffsetRow().stored(RangeWeight(sigma=0.1), w, b, torch.randn(9), torch.randn(5))
    gradients = torch.autograd.grad((held.w.sum() + held.b.sum()), (w, b))
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.ones_like(gradient))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"variation": None}, "bias is a row beside weights with `variation`"),
        ({"variation": None, "bias": None}, "norm is a row beside weights with `variation`"),
        ({"converter": {"bits": 4}}, "bias in analog joins values that are not converted"),
        ({"bias": {"amplitude": 0}}, "greater than 0"),
        ({"bias": {"amplitude": "mached"}}, "matched"),
    ],
)
def test_rows_that_a_macro_cannot_have(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        macro(**config)


def test_a_bias_on_an_array_of_digits() -> None:
    """Quantised inputs and weights: errors are relative to the range of codes, the bias errs in the row's units."""
    torch.manual_seed(0)
    layer = nn.Linear(16, 3000).requires_grad_(False)
    nn.init.uniform_(layer.bias, -2, 2)
    digits = {"inputs": {"kind": "unsigned", "bits": 4}, "weights": {"kind": "twos_complement", "bits": 8}}
    clean, real = (calibrate(convert(nn.Sequential(layer), macro(**digits)), [torch.rand(64, 16)]) for _ in range(2))
    use(clean, ideal)
    zero = torch.zeros(1, 16)
    assert torch.allclose(clean(zero)[0], layer.bias, rtol=0, atol=1e-6)
    error = (real(zero) - clean(zero)).detach()  # no input: the row of offsets alone
    assert float(error.std()) == pytest.approx(SIGMA * float(half_range(layer.bias)), rel=0.06)


# ----------------------------------------------------------------------------------------------------- analog norms


def test_a_norm_without_error_is_the_torch_norm() -> None:
    for training in (False, True):
        model, plain = convert(net(), macro(variation={"kind": "range", "sigma": 0})), net()
        assert isinstance(model.bn, AnalogNorm)
        model.train(training), plain.train(training)
        assert torch.equal(model(X), plain(X))
        assert torch.equal(model.bn.running_var, plain.bn.running_var)


def test_error_of_a_norm() -> None:
    """w and b err by sigma times their own half ranges, b from the row; one error a channel, the same everywhere."""
    wide = nn.BatchNorm2d(4000)
    torch.manual_seed(2)
    nn.init.uniform_(wide.weight, 0.5, 1.5)
    nn.init.uniform_(wide.bias, -3, 3)
    model = convert(nn.Sequential(nn.Conv2d(1, 4000, 1), wide).eval(), macro()).requires_grad_(False)
    norm = model[1]
    w, b = norm.written()
    zero, one = torch.zeros(1, 4000, 2, 2), torch.ones(1, 4000, 2, 2)
    shift = norm(zero) - wide(zero)
    factor = norm(one) - wide(one) - shift
    f = half_range(b) / half_range(w)
    r = half_range(w, b / f)
    assert float(shift.std()) == pytest.approx(SIGMA * float(f * r), rel=0.05)
    assert float(factor.std()) == pytest.approx(SIGMA * float(r), rel=0.05)
    assert float((shift - shift[:, :, :1, :1]).abs().max()) < 1e-5


@pytest.mark.parametrize("kind", ["range", "lognormal"])
def test_gradients_of_a_norm(kind: str) -> None:
    """Range-relative errors are constants; log-normal ones scale the gradient of γ; samples share one graph."""
    model = convert(net(), macro(variation={"kind": kind, "sigma": 0.1})).train()
    norm = model.bn
    x = torch.randn(8, 8, 3, 3)
    total = sum(norm(x).mean() for _ in range(2))  # statistics move between two passes of one graph
    total.backward()
    assert bool(norm.weight.grad.isfinite().all())
    norm.weight.grad = norm.bias.grad = None
    norm.eval()(torch.zeros(1, 8, 1, 1)).sum().backward()
    _, n, m = norm._draws
    factor = torch.ones(8) if kind == "range" else torch.exp(0.1 * m)
    torch.testing.assert_close(norm.bias.grad, factor)
    assert not torch.equal(n, m)


def test_norms_follow_patterns_and_are_restored() -> None:
    plain = net()
    model = convert(plain, macro())
    rows = {row.layer: row for row in mapping(model)}
    assert rows["bn"].macro == "nvm"
    assert "shifts in a row of amplitude matched" in rows["bn"].why
    assert "bias in row 27, of amplitude matched" in rows["conv"].why
    assert "analog, in a row of amplitude matched" in dict(describe(macro()))["batch norms"]
    back = restore(model)
    assert type(back.bn) is nn.BatchNorm2d
    assert back.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(back(X), plain(X))
    assert type(convert(plain, macro(), skip=["bn"]).bn) is nn.BatchNorm2d
    assert type(convert(plain, {"conv": macro()}).bn) is nn.BatchNorm2d
    with pytest.raises(ValueError, match="pattern 'bn' matches no layer"):
        convert(plain, macro(norm=None), skip=["bn"])
    assert convert(plain, macro()).fingerprint != convert(plain, macro(norm=None)).fingerprint


def test_folded_norms_leave_biases_for_the_array() -> None:
    model = convert(net(), macro(), fold_bn=True)
    assert set(parts(model)) == {"conv", "fc"}
    clean, real = model.conv.bias, model.conv.held()[1]
    assert float((real - clean).abs().min()) > 0


def test_one_norm_in_two_places_is_refused() -> None:
    norm = nn.BatchNorm2d(3)
    twice = nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Conv2d(3, 3, 1), norm)
    with pytest.raises(ValueError, match="3 is the same module as 1: a layer has one place on silicon"):
        convert(twice, macro())


# ------------------------------------------------------------------------------------------------------------- chips


def test_chips() -> None:
    """A1.6: a chip is the same whenever it is met, every part of it differs from chip to chip, copies go together."""
    with torch.no_grad():
        model = convert(net(), macro())
        answers = []
        for number in (0, 1, 0):
            on_chip(model, Chip(7, number))
            answers.append(model(X))
        assert torch.equal(answers[0], answers[2])
        assert not torch.equal(answers[0], answers[1])
        twin = copy.deepcopy(model)
        on_chip(twin, Chip(7, 1))
        assert torch.equal(twin(X), answers[1])
        assert torch.equal(model(X), answers[0])
        on_chip(model, Chip(7, 0), write=1)
        assert not torch.equal(model(X), answers[0])


def test_every_part_has_draws_of_its_own() -> None:
    model = convert(net(), macro())
    found = [draws for part in parts(model).values() for draws in part._draws[1:]]
    assert len(found) == 6
    firsts = [float(draws.flatten()[0]) for draws in found]
    assert len(set(firsts)) == 6
    before = found[0]
    use(model, lambda design: design.model_copy(update={"variation": design.variation.at(2.0)}))
    assert layers(model)["conv"]._draws[1] is before  # another level of noise is the same die


def test_statistics_are_estimated_with_analog_norms() -> None:
    model = convert(net(), macro())
    before = model.bn.running_mean.clone()
    recalibrate(model, [(X, torch.zeros(6), torch.arange(6))], lambda i: Chip(3, i))
    assert not torch.equal(model.bn.running_mean, before)
    data = [(X, torch.zeros(6, dtype=torch.int64), torch.arange(6))]
    result = evaluate(model, data, chips=2)
    assert {row.layer for row in result.sensitivity} == {"conv", "bn", "fc"}
    assert {row.cause for row in result.explanation} == {"variation"}


# ---------------------------------------------------------------------------------------------------------- unrolled

READ = {"kind": "range", "sigma": 0.2, "clock": "read"}


def errors(model: nn.Module, x: Tensor, n: int) -> Tensor:
    """Errors of n chips, or of n reads of one, (n, …)."""
    clean = restore(model)(x)
    found = []
    for i in range(n):
        on_chip(model, Chip(1, i))
        silicon(model).begin(torch.zeros(len(x), dtype=torch.int64), i)
        found.append(model(x) - clean)
    return torch.stack(found)


@torch.no_grad()
def test_unrolled_and_frozen_agree_for_one_output() -> None:
    """A1.7: the variance of an output is equal within 2 % (its standard error is 0.5 %)."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(24, 2000))
    x = torch.rand(1, 24)
    power = {}
    for name, variation in {"frozen": {"kind": "range", "sigma": 0.2}, "unrolled": READ}.items():
        power[name] = float(errors(convert(layer, macro(variation=variation)), x, 40).square().mean())
    assert power["unrolled"] == pytest.approx(power["frozen"], rel=0.02)


@torch.no_grad()
@pytest.mark.parametrize("bias", [None, {}])
def test_only_frozen_errors_are_alike_at_all_positions(bias: dict[str, Any] | None) -> None:
    """A1.7: with the same input at each position a frozen error is one error, an unrolled one is fresh each time."""
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(4, 50, 3, groups=2))
    x = torch.full((1, 4, 6, 6), 0.7)
    seen = {}
    for name, variation in {"frozen": {"kind": "range", "sigma": 0.2}, "unrolled": READ}.items():
        found = errors(convert(conv, macro(variation=variation, bias=bias)), x, 60)[:, 0]  # chips, channels, 4, 4
        seen[name] = found.square().mean()
        together = (found[..., 0, 0] * found[..., 2, 1]).mean() / seen[name]
        assert abs(float(together) - (name == "frozen")) < 0.08
    assert float(seen["unrolled"] / seen["frozen"]) == pytest.approx(1, abs=0.1)


@torch.no_grad()
def test_an_unrolled_norm() -> None:
    model = convert(nn.Sequential(nn.Conv2d(3, 3, 1), net().bn.__class__(3)).eval(), macro(variation=READ))
    nn.init.uniform_(model[1].weight, 0.5, 1.5)
    nn.init.uniform_(model[1].bias, -1, 1)
    x = torch.full((1, 3, 40, 40), 2.0)
    norm, w, b = model[1], *model[1].written()
    silicon(model).begin(torch.arange(1))
    error = norm(x) - (x * w.view(1, -1, 1, 1) + b.view(1, -1, 1, 1))
    f = half_range(b) / half_range(w)
    expected = 0.2 * half_range(w, b / f) * (4 + f**2).sqrt()
    assert float(error.std()) == pytest.approx(float(expected), rel=0.05)


@torch.no_grad()
def test_unrolled_reads_follow_samples_and_have_no_chip() -> None:
    model = convert(net(), macro(variation=READ))
    silicon(model).begin(torch.arange(6))
    first = model(X)
    silicon(model).begin(torch.arange(6))
    assert torch.equal(model(X), first)
    silicon(model).begin(torch.arange(2, 4))
    torch.testing.assert_close(model(X[2:4]), first[2:4])
    silicon(model).begin(torch.arange(6), 1)
    assert not torch.equal(model(X), first)
    assert not any(draws is not None for part in parts(model).values() for draws in part._draws[1:])
    assert {row.cause for row in evaluate(model, [(X, torch.zeros(6).long())], chips=1).explanation} == {"noise"}
