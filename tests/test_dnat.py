"""D-NAT: gradients of a measured table against what they estimate, two-sided input bounds, and the method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitline.converters import Adc, CalibratedRange, FixedRange
from bitline.encode import (
    BinaryWeight,
    DifferentialWeight,
    TwosComplementInput,
    TwosComplementWeight,
    UnsignedInput,
    UnsignedWeight,
)
from bitline.macro import (
    Chip,
    Macro,
    Plan,
    Reads,
    Sampled,
    Site,
    Slope,
    SlopeExact,
    Ste,
    SteIdeal,
    choose,
    mac,
    program,
)
from bitline.macro.curves import Compressive
from bitline.macro.fused import native
from bitline.macro.geometry import Geometry
from bitline.macro.kinds import CurveColumn, TableColumn
from bitline.methods import DNat, ErrorAware, training_chip
from bitline.nn import (
    calibrate,
    convert,
    input_ranges,
    kept,
    layers,
    mapping,
    on_chip,
    range_tradeoff,
    requantise,
    silicon,
)
from bitline.nn.quantizers import Lsq, Pact, Percentile
from bitline.train import DNAT, TrainConfig, train
from contracts import DENSE, GROUPED, integers

COMPILED = native.missing() is None
FAST = "fused" if COMPILED else "reference"


def two_point(mean: np.ndarray, codes: int, lazy: float = 0.0) -> np.ndarray:
    """A law with exactly this mean: the two codes beside it; ``lazy``: probability of a step up, and one down."""
    p = np.zeros((len(mean), codes))
    low = np.minimum(np.floor(mean).astype(int), codes - 2)
    p[np.arange(len(mean)), low] = 1 - (mean - low)
    p[np.arange(len(mean)), low + 1] = mean - low
    spread = p * (1 - 2 * lazy)
    spread[:, 1:] += lazy * p[:, :-1]
    spread[:, :-1] += lazy * p[:, 1:]
    spread[:, 0] += lazy * p[:, 0]
    spread[:, -1] += lazy * p[:, -1]
    return spread / spread.sum(1, keepdims=True)


def saturating(codes: int = 16) -> np.ndarray:
    """Mean code 15·(1 - e^(-i/6))/(1 - e^(-15/6)), wider at large sums."""
    i, j = np.arange(codes), np.arange(codes)
    mean = (codes - 1) * (1 - np.exp(-i / 6)) / (1 - np.exp(-(codes - 1) / 6))
    p = np.exp(-((j - mean[:, None]) ** 2) / (2 * (0.5 + 0.06 * i[:, None]) ** 2))
    return p / p.sum(1, keepdims=True)


def unbiased(codes: int = 16) -> np.ndarray:
    """Mean code i everywhere: one up and one down in three of ten reads each, and the ends certain."""
    p = two_point(np.arange(codes, dtype=float), codes)
    for i in range(1, codes - 1):
        p[i] = 0
        p[i, i - 1 : i + 2] = (0.3, 0.4, 0.3)
    return p


def macro(law: np.ndarray, step: float = 1.0, **changes: Any) -> Macro:
    config: dict[str, Any] = {
        "name": "m",
        "rows": 3,
        "columns": 64,
        "inputs": UnsignedInput(bits=2, digit_bits=2),
        "weights": UnsignedWeight(bits=2, cell_bits=2),
        "column": TableColumn(probability=law, step=step),
    }
    return Macro.model_validate(config | changes)


CHIP = Chip(2, 1)


def keys(batch: int) -> Tensor:
    return Reads(9, CHIP, 0, torch.arange(batch)).keys("layer")


def of(x: Tensor, w: Tensor, m: Macro, gradient: Any, plan: str, geometry: Geometry = DENSE, up: Tensor | None = None):
    """Output, and gradients of x and w."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    column = program(w, m, CHIP, Site("layer"), 0, geometry.groups)
    y = mac(x, column, geometry, keys(len(x)), None, gradient, Plan(plan))
    up = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)) if up is None else up
    return y.detach(), *torch.autograd.grad(y, (x, w), up.to(y.dtype))


# --------------------------------------------------------------------------------- A2.3: gradients of the expected loss

SAMPLES, K, N = 1_000_000, 6, 3
PART, ALL = 20_000, slice(None)  # samples whose gradients are added up in float32
STE = Ste()


class Net:
    """Two tiles of three rows, a nonlinear digital end, a target: the expected loss over inputs and draws."""

    def __init__(self, law: np.ndarray, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.macro = macro(law, step=1.8)  # sums 0 … 27 in 16 codes
        self.x = torch.randint(0, 4, (SAMPLES, 1, K), generator=generator).float()
        self.w = torch.randint(1, 3, (N, K), generator=generator).float()  # both neighbours are weights too
        self.mix = torch.randn(N, 4, generator=generator)
        teacher = torch.randint(0, 4, (N, K), generator=generator).float()
        self.keys = keys(SAMPLES)
        self.target = ((self.x[:, 0] @ teacher.T) / 9 - 3).tanh() @ self.mix

    def loss(self, w: Tensor, gradient: Any = STE, plan: str = FAST, part: slice = ALL) -> Tensor:
        """The mean over all samples of what those of a part contribute."""
        column = program(w, self.macro, CHIP, Site("layer"))
        y = mac(self.x[part], column, DENSE, self.keys[part], None, gradient, Plan(plan))
        return (((y[:, 0] / 9 - 3).tanh() @ self.mix - self.target[part]).square().sum(1)).double().sum() / SAMPLES

    def finite_differences(self) -> Tensor:
        found = torch.zeros(N, K, dtype=torch.float64)
        with torch.no_grad():
            for n in range(N):
                for k in range(K):
                    step = torch.zeros(N, K)
                    step[n, k] = 1
                    found[n, k] = (self.loss(self.w + step) - self.loss(self.w - step)) / 2
        return found

    def gradient(self, gradient: Any) -> Tensor:
        """Part by part, added up in float64: over all samples float32 loses digits, how many is the machine's."""
        w = self.w.clone().requires_grad_()
        plan = FAST if gradient.refuses(FAST, self.macro) is None else "reference"
        parts = [slice(first, first + PART) for first in range(0, SAMPLES, PART)]
        return sum(torch.autograd.grad(self.loss(w, gradient, plan, part), w)[0].double() for part in parts)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_slope_is_nearer_the_expected_loss_than_the_ste_on_a_saturating_table(seed: int) -> None:
    net = Net(saturating(), seed)
    true = net.finite_differences()
    found = {g.kind: net.gradient(g) for g in (Ste(), SteIdeal(), Slope(), Sampled(), SlopeExact())}
    near = {kind: cosine(g, true) for kind, g in found.items()}
    size = {kind: float(g.norm() / true.norm()) for kind, g in found.items()}
    print({kind: (round(near[kind], 4), round(size[kind], 2)) for kind in near})
    assert near["slope"] > near["ste"] == pytest.approx(near["ste_ideal"])
    assert near["slope_exact"] > near["slope"] > 0.9
    assert near["sampled"] > near["ste"]
    assert abs(size["slope_exact"] - 1) < abs(size["ste"] - 1)


def test_on_an_unbiased_table_slope_and_ste_are_one() -> None:
    net = Net(unbiased(), 0)
    ste, slope, exact = (net.gradient(g) for g in (Ste(), Slope(), SlopeExact()))
    assert torch.allclose(ste, slope, rtol=1e-5)
    assert torch.allclose(ste, exact, rtol=1e-5)
    true = net.finite_differences()
    print(f"cosine with finite differences {cosine(ste, true):.4f}")
    assert cosine(slope, true) == pytest.approx(cosine(ste, true), abs=1e-6)
    assert cosine(ste, true) > 0.95


# ------------------------------------------------------------------------------------------------ the oracle itself


def surrogate(x: Tensor, w: Tensor, m: Macro, geometry: Geometry) -> Tensor:
    """Expected output by plain autograd: each sum followed by a line of its own slope, digits by their share."""
    column = program(w.detach(), m, CHIP, Site("layer"), 0, geometry.groups)
    assert isinstance(m.column, TableColumn)
    mean, slope = (torch.from_numpy(v.reshape(-1)) for v in (m.column.mean, m.column.slope))
    last, total = len(mean) - 1, 0
    rows = geometry.rows(x.double())  # B positions G K

    def parts(value: Tensor, digits: Tensor, radix: tuple[int, ...]) -> list[Tensor]:
        whole = sum(map(abs, radix))
        flow = value - value.detach()
        return [d.double() + flow * (abs(r) / whole / r) for d, r in zip(digits, radix, strict=True)]

    assert m.inputs is not None
    assert m.weights is not None
    levels = m.weights.levels(w.detach())  # C L (G·N) K
    signed = (levels * torch.tensor(m.leg_signs).view(1, -1, 1, 1)).sum(1)
    xs = parts(rows, m.inputs.digits(rows.detach()), column.pass_radix)
    ws = parts(w.double(), signed, column.radix)
    for start, count, _, _ in column.layout.spans:
        span = slice(start, start + count)
        for x_p, r_p in zip(xs, column.pass_radix, strict=True):
            for w_c, r_c in zip(ws, column.radix, strict=True):
                grouped = w_c.view(geometry.groups, -1, w_c.shape[-1])
                s = torch.einsum("bpgk,gnk->bpgn", x_p[..., span], grouped[..., span]).flatten(2)
                place = ((s.detach() - m.column.low) / m.column.step + 0.5).floor()
                inside, i = (place >= 0) & (place <= last), place.clamp(0, last).long()
                y = m.column.low + m.column.step * mean[i]
                total = total + r_p * r_c * (y + torch.where(inside, slope[i], 0.0) * (s - s.detach()))
    extent = geometry.shape(x, 1)[:-1]
    return geometry.restore(total + column.weight_constant * w.double().sum(1), extent)


@pytest.mark.parametrize("geometry", [DENSE, GROUPED], ids=["dense", "conv"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"inputs": UnsignedInput(bits=4, digit_bits=2), "weights": UnsignedWeight(bits=4, cell_bits=2)},
        {"inputs": TwosComplementInput(bits=3, digit_bits=1), "weights": DifferentialWeight(bits=3, cell_bits=1)},
        {"weights": TwosComplementWeight(bits=3)},
    ],
    ids=["one digit", "digits", "signed", "negative digit"],
)
def test_slope_exact_is_autograd_through_each_conversion(geometry: Geometry, changes: dict[str, Any]) -> None:
    low = -8.0 if "weights" in changes and changes["weights"].kind == "differential" else 2.0
    m = macro(saturating(), 1.0, **changes)
    m = m.model_copy(update={"column": m.column.model_copy(update={"low": low})})  # some sums are outside
    shape = (3, 2, 8) if geometry is DENSE else (2, 4, 5, 6)
    x, w = integers(m.inputs, shape, 1), integers(m.weights, (6, 8 if geometry is DENSE else 2 * GROUPED.taps), 2)
    y, *found = of(x, w, m, SlopeExact(), "reference", geometry)
    x_, w_ = x.clone().requires_grad_(), w.clone().requires_grad_()
    expected = surrogate(x_, w_, m, geometry)
    assert expected.shape == y.shape
    up = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).double()
    wanted = torch.autograd.grad(expected, (x_, w_), up)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-4)
    mean = of(x, w, m, Slope(), "reference", geometry)[1:]
    print("cosine of Slope with SlopeExact", *(round(cosine(a, b), 4) for a, b in zip(mean, found, strict=True)))


def test_one_conversion_an_output_needs_no_oracle() -> None:
    m = macro(saturating(28), rows=6)
    x, w = integers(m.inputs, (40, 1, 3), 1), integers(m.weights, (6, 3), 2)
    exact, mean = (of(x, w, m, g, "reference")[1:] for g in (SlopeExact(), Slope()))
    for a, b in zip(exact, mean, strict=True):
        torch.testing.assert_close(a, b)


# --------------------------------------------------------------------------------------------------------- sampled


def test_sampled_follows_the_code_that_was_drawn() -> None:
    """y = m(i) + v(i)·ε: one row, one conversion, so that the code can be told from the output."""
    law = saturating()
    m = macro(law, rows=1, inputs=UnsignedInput(bits=4, digit_bits=4), weights=UnsignedWeight(bits=1))
    x, w = integers(m.inputs, (20_000, 1, 1), 1), torch.ones(1, 1)
    y, gx, _ = of(x, w, m, Sampled(), "reference", up=torch.ones(20_000, 1, 1))
    value = np.arange(16)
    mean = law @ value
    v = np.sqrt(law @ value**2 - mean**2)
    i = x.flatten().long().numpy()
    wanted = np.gradient(mean)[i] + np.gradient(v)[i] * (y.flatten().numpy() - mean[i]) / v[i]
    assert gx.flatten().numpy() == pytest.approx(wanted, abs=2e-5)
    of_mean = np.gradient(mean)
    for code in range(16):  # ε has mean 0: on average it is the slope of the mean
        some = wanted[i == code]
        assert abs(some.mean() - of_mean[code]) < 4.5 * some.std() / len(some) ** 0.5 + 1e-9


def test_a_certain_code_has_no_spread_to_follow() -> None:
    m = macro(np.eye(16), rows=1, inputs=UnsignedInput(bits=4, digit_bits=4), weights=UnsignedWeight(bits=1))
    x, w = integers(m.inputs, (50, 1, 1), 1), torch.ones(1, 1)
    sampled, ste = (of(x, w, m, g, "reference") for g in (Sampled(), Ste()))
    assert all(torch.equal(a, b) for a, b in zip(sampled, ste, strict=True))


def test_sums_outside_the_table_pass_nothing() -> None:
    m = macro(unbiased(8), rows=1, inputs=UnsignedInput(bits=4, digit_bits=4), weights=UnsignedWeight(bits=1))
    x, w = torch.arange(16.0).view(16, 1, 1), torch.ones(1, 1)
    for gradient in (Sampled(), SlopeExact()):
        gx = of(x, w, m, gradient, "reference", up=torch.ones(16, 1, 1))[1].flatten()
        assert (gx[8:] == 0).all()
        assert (gx[1:7] != 0).all()


# ---------------------------------------------------------------------------------------------------- plans and layers


def test_a_gradient_the_kernel_does_not_keep_goes_to_the_reference_plan() -> None:
    m = macro(saturating())
    for gradient, why in ((Sampled(), "every code drawn"), (SlopeExact(), "runs by the reference plan")):
        plan = choose(m, gradient=gradient)
        assert plan.name == "reference"
        assert why in plan.why
        with pytest.raises(ValueError, match=why):
            choose(m, "fused", gradient=gradient)
        x, w = integers(m.inputs, (2, 1, 3), 1), integers(m.weights, (2, 3), 2)
        with pytest.raises(ValueError, match=f"plan fused cannot differentiate layer: .*{why}"):
            of(x, w, m, gradient, "fused")
    assert choose(m, gradient=Slope()).name == FAST
    curve = macro(saturating(), column=CurveColumn(mean=Compressive(compression=0.1)), converter=Adc(bits=4))
    assert choose(curve, gradient=Sampled()).name == FAST  # no code is drawn there


@pytest.mark.skipif(not COMPILED, reason="no kernel")
def test_a_layer_says_why_it_left_the_kernel_and_goes_back() -> None:
    net = convert(nn.Sequential(nn.Linear(5, 4)), macro(saturating()), gradient=Sampled())
    layer = layers(net)["0"]
    assert layer.plan.name == "reference"
    assert "every code drawn" in mapping(net)[0].why
    layer.differentiate(Slope())
    assert layer.plan.name == "fused"
    layer.differentiate(None)
    assert (layer.gradient, layer.plan.name) == (Sampled(), "reference")
    with pytest.raises(ValueError, match="every code drawn"):
        convert(nn.Sequential(nn.Linear(5, 4)), macro(saturating()), gradient=Sampled(), plan="fused")


# ------------------------------------------------------------------------------------------------------- A2.4: E-PACT


def pact(low: float, high: float, bits: int = 4, **config: Any) -> Any:
    """A quantizer with these bounds, wherever they lie between codes."""
    module = Pact(asymmetric=True, **config).build(0, 2**bits - 1, role="inputs").double()
    module.begin_at(torch.tensor([high / (2**bits - 1)]), torch.tensor([0.0]))
    with torch.no_grad():
        module.alpha.fill_(high)
        module.beta.fill_(low)
    return module


def value(module: Any, x: Tensor) -> Tensor:
    q, scale, zero = module(x)
    return scale * (q - zero)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("low", "high"), [(-0.8, 2.2), (-0.737, 1.991), (-2.3117, 0.4071)])
def test_gradients_of_both_bounds_are_the_formulas(residual: bool, low: float, high: float) -> None:
    """METHODS 3.3, also where the lower bound lies between two codes and the range is snapped."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(4000, generator=generator, dtype=torch.float64) * 1.5 + 0.4
    up = torch.randn(4000, generator=generator, dtype=torch.float64)
    module = pact(low, high, residual=residual)
    _, scale, zero = (t.detach() for t in module(x))
    ends = (scale * (0 - zero), scale * (15 - zero))
    assert abs(ends[0] - low) <= scale / 2
    x_ = x.clone().requires_grad_()
    y = value(module, x_)
    gx, ga, gb = torch.autograd.grad((y * up).sum(), (x_, module.alpha, module.beta))
    inside = (x > ends[0]) & (x < ends[1])
    extra = (up * (y.detach() - x) / (high - low))[inside].sum() if residual else 0.0
    torch.testing.assert_close(gx, up * inside)
    torch.testing.assert_close(ga, up[x >= ends[1]].sum() + extra)
    torch.testing.assert_close(gb, up[x <= ends[0]].sum() - extra)


def test_gradients_of_both_bounds_are_finite_differences_of_clipping() -> None:
    """Without the residual they are the derivatives of clip(x, beta, alpha): gradcheck of that, same numbers."""
    x = torch.linspace(-4, 4, 97, dtype=torch.float64)
    low, high = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-1.03, 2.17))
    clip = lambda low, high: torch.minimum(torch.maximum(x, low), high)  # noqa: E731
    assert torch.autograd.gradcheck(clip, (low, high))
    up = torch.cos(x)
    wanted = torch.autograd.grad((clip(low, high) * up).sum(), (high, low))
    module = pact(-1.03, 2.17, bits=7)
    found = torch.autograd.grad((value(module, x) * up).sum(), (module.alpha, module.beta))
    torch.testing.assert_close(found, wanted)


def learned(x: Tensor, module: Any, tied: bool = False, steps: int = 300) -> float:
    """Mean squared error after the bounds have trained on it (residual: they know the rounding)."""
    bounds = [module.alpha, module.beta]
    optimizer = torch.optim.Adam(bounds, lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        (value(module, x) - x).square().mean().backward()
        if tied:  # one bound for both signs
            both = module.alpha.grad - module.beta.grad
            module.alpha.grad.copy_(both)
            module.beta.grad.copy_(-both)
        optimizer.step()
        module.constrain()
        if tied:
            with torch.no_grad():
                module.beta.copy_(-module.alpha)
    return float((value(module, x) - x).square().mean().detach())


@pytest.mark.parametrize("mean", [1.0, 2.0])
def test_two_bounds_beat_one_by_the_square_of_the_range(mean: float) -> None:
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + mean
    low, high = float(x.min()), float(x.max())
    covering = pact(low, high, bits=6), pact(-high, high, bits=6)  # nothing is clipped
    exact = [float((value(module, x) - x).square().mean().detach()) for module in covering]
    assert exact[0] / exact[1] == pytest.approx(((high - low) / (2 * high)) ** 2, rel=0.05)
    two, one = (pact(-3.5, mean + 3.5, bits=6, residual=True) for _ in range(2))
    with torch.no_grad():
        one.beta.fill_(-mean - 3.5)
    errors = learned(x, two), learned(x, one, tied=True)
    ranges = [float((m.alpha - m.beta).detach()) for m in (two, one)]
    ratio, predicted = errors[0] / errors[1], (ranges[0] / ranges[1]) ** 2
    print(
        f"mean {mean}: ranges {ranges[0]:.2f} and {ranges[1]:.2f} σ, MSE ratio {ratio:.3f}, predicted {predicted:.3f}"
    )
    assert ratio == pytest.approx(predicted, rel=0.15)  # what is clipped is in both
    assert predicted < 0.75
    assert ratio < 0.8


def test_with_the_lower_bound_frozen_at_zero_it_is_pact() -> None:
    x = torch.rand(500, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 3
    up = torch.cos(7 * x)
    for residual in (False, True):
        two = pact(0.0, 2.013, residual=residual)
        two.beta.requires_grad_(False)
        one = Pact(residual=residual).build(0, 15, role="inputs").double()
        one.begin_at(torch.tensor([1.0]), torch.tensor([0.0]))
        with torch.no_grad():
            one.alpha.fill_(2.013)
        found = []
        for module in (two, one):
            x_ = x.clone().requires_grad_()
            y = value(module, x_)
            found.append((y.detach(), *torch.autograd.grad((y * up).sum(), (x_, module.alpha))))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("plan", ["reference", *(["fused"] if COMPILED else [])])
def test_zeros_of_a_relu_do_not_move_the_lower_bound(plan: str) -> None:
    x = torch.randn(64, 30, generator=torch.Generator().manual_seed(5)).relu()
    net = nn.Sequential(nn.Linear(30, 4, bias=False))
    model = calibrate(convert(net, LOSSLESS, inputs=Pact(asymmetric=True), plan=plan), [x])
    quantizer = layers(model)["0"].input_quantizer
    with torch.no_grad():
        quantizer.alpha.fill_(float(x.max()) + 1)  # nothing is clipped above
        quantizer.beta.zero_()
    up = torch.randn(64, 4, generator=torch.Generator().manual_seed(6))
    (model(x) * up).sum().backward()
    assert abs(float(quantizer.beta.grad)) < 1e-3
    assert abs(float(quantizer.alpha.grad)) < 1e-3


def test_bounds_decay_and_stay_around_zero() -> None:
    module = pact(-1.0, 2.0, decay=0.1)
    module.penalty().backward()
    assert (float(module.alpha.grad), float(module.beta.grad)) == pytest.approx((0.4, -0.2))
    with torch.no_grad():
        module.beta.fill_(0.3)
    module.constrain()
    assert module.beta.detach() == 0


LOSSLESS = Macro.model_validate(
    {
        "name": "lossless", "rows": 30, "columns": 64, "inputs": UnsignedInput(bits=7, digit_bits=7),
        "weights": BinaryWeight(), "converter": Adc(bits=12, range=FixedRange(low=0, high=4095)),
    }
)  # fmt: skip


@pytest.mark.parametrize("plan", ["reference", *(["fused"] if COMPILED else [])])
def test_padding_is_the_code_of_zero_and_the_offset_is_taken_off(plan: str) -> None:
    """β·Σw goes digitally: an ideal macro gives the torch convolution of the rounded values, zeros around them."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, 6, 5) - 0.4
    conv = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1))
    net = calibrate(convert(conv, LOSSLESS, inputs=Pact(asymmetric=True), plan=plan), [x])
    layer = layers(net)["0"]
    with torch.no_grad():
        layer.input_quantizer.beta.mul_(0.93)  # between two codes
    q, scale, zero = layer.input_quantizer(x)
    assert 20 < zero < 110
    w, w_scale, _ = layer.weight_quantizer(layer.weight)
    wanted = F.conv2d(scale * (q - zero), w * w_scale, layer.bias, padding=1)
    y = net(x)
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-4)
    up = torch.randn(y.shape)
    parameters = [layer.input_quantizer.alpha, layer.input_quantizer.beta]
    found, true = (torch.autograd.grad(v, parameters, up, retain_graph=True) for v in (y, wanted))
    torch.testing.assert_close(found, true, rtol=2e-3, atol=1e-2)


def test_bounds_and_converter_range_learn_together() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 3, 6, 5) - 0.4
    m = Macro.model_validate(LOSSLESS.model_dump() | {"converter": Adc(bits=5, range=CalibratedRange(learn=True))})
    net = calibrate(convert(nn.Sequential(nn.Conv2d(3, 5, 3, padding=1)), m, inputs=Pact(asymmetric=True)), [x])
    layer = layers(net)["0"]
    parts = {"alpha": layer.input_quantizer.alpha, "beta": layer.input_quantizer.beta, "step": layer.converters.step}
    target = F.conv2d(x, layer.weight.detach(), layer.bias.detach(), padding=1)
    before = {name: float(p.detach()) for name, p in parts.items()}
    optimizer = torch.optim.Adam(parts.values(), lr=0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (net(x) - target).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        assert all(p.grad is not None and float(p.grad) != 0 for p in parts.values())
        optimizer.step()
    assert min(losses[-5:]) < losses[0]
    assert all(float(p.detach()) != before[name] for name, p in parts.items())


# ------------------------------------------------------------------------------------------------------- trade-off


def test_a_narrow_range_clips_and_a_wide_one_rounds() -> None:
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    shares = [0.2 + 0.02 * i for i in range(60)]
    found = range_tradeoff(x, 4, bounds="symmetric", shares=shares)
    assert (found.clipping.diff() <= 1e-5).all()
    wide = found.high > 3.5
    assert torch.allclose(found.rounding[wide], found.step[wide] ** 2 / 12, rtol=0.03)
    best = found.best
    assert float(found.step[best]) == pytest.approx(0.3352, rel=0.06)  # Max, IRE Trans. Inf. Theory 1960: 16 levels
    assert float(found.total[best]) == pytest.approx(0.01154, rel=0.06)
    assert "best" in found.text()
    shifted = x + 2
    two, one = (range_tradeoff(shifted, 6, bounds=bounds) for bounds in ("two", "symmetric"))
    assert float(two.total.min() / one.total.min()) == pytest.approx(
        float((two.step[two.best] / one.step[one.best]) ** 2), rel=0.25
    )
    assert two.total.min() < 0.6 * one.total.min()
    with pytest.raises(ValueError, match="finite"):
        range_tradeoff(torch.tensor([float("nan")]), 4)


def test_each_layer_s_range_stands_beside_those_it_could_have() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 16), nn.SiLU(), nn.Linear(16, 3), nn.ReLU(), nn.Linear(3, 3))
    x = torch.rand(512, 20, generator=torch.Generator().manual_seed(0)) * 4 - 1
    design = Macro(name="m", rows=8, columns=64, inputs=UnsignedInput(bits=4), weights=TwosComplementWeight(bits=3))
    on = calibrate(convert(net, design, inputs=Pact(asymmetric=True)), [x])
    found = {one.layer: one for one in input_ranges(on, [x[:256], x[256:]])}
    assert list(found) == ["0", "2", "4"]
    assert all(one.bits == design.inputs.bits for one in found.values())
    for name, one in found.items():
        quantizer = layers(on)[name].input_quantizer
        assert float(one.own.low[0]) == pytest.approx(float(value(quantizer, torch.tensor([-99.0])).detach()))
        assert float(one.own.high[0]) == pytest.approx(float(value(quantizer, torch.tensor([99.0])).detach()))
        assert float(one.own.total[0]) >= 0.5 * float(one.two.total.min())
    seen = nn.SiLU()(net[0](x)).detach()
    quantizer = layers(on)["2"].input_quantizer
    error = (value(quantizer, seen).detach() - seen).square().mean()
    assert float(found["2"].own.total[0]) == pytest.approx(float(error), rel=1e-4)
    assert float(found["2"].own.power) == pytest.approx(float(seen.square().mean()), rel=1e-4)
    assert found["0"].two.total.min() < 0.5 * found["0"].one.total.min()  # inputs below zero need the lower bound
    assert torch.equal(found["4"].two.total, found["4"].one.total)  # after a ReLU there are none
    assert all(one.own is None for one in input_ranges(on, [x], bits=3))
    with pytest.raises(ValueError, match=r"^0: .* finite ones are needed"):
        input_ranges(on, [x / 0])


# --------------------------------------------------------------------------------------------------------- the method

X = torch.rand(128, 20, generator=torch.Generator().manual_seed(0))
Y = (X @ torch.randn(20, 3, generator=torch.Generator().manual_seed(1))).argmax(1)
INDEX = torch.arange(128)


def batches(epoch: int) -> Any:
    return [(X[i : i + 32], Y[i : i + 32], INDEX[i : i + 32]) for i in range(0, 128, 32)]


def model(m: Macro | None = None, **how: Any) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))
    tables = np.stack([two_point(np.minimum(31, np.arange(32) * f), 32, 0.1) for f in (0.8, 0.85, 0.9)])
    column = TableColumn(probability=tables, per="column", step=4.0)
    chosen = m or macro(tables[0], rows=8, weights=DifferentialWeight(bits=4, subtract="digital"), column=column)
    return calibrate(convert(net, chosen, **how), [X])


def test_dnat_trains_with_its_gradient_and_bounds_and_puts_back_what_was_asked() -> None:
    for gradient, plan in ((Slope(), FAST), (Sampled(), "reference")):
        net = model()
        seen: list[Any] = []
        layers(net)["0"].register_forward_pre_hook(
            lambda layer, _, seen=seen: seen.append((layer.gradient, layer.plan.name, layer.silicon.chip.number))
        )
        method = DNat(gradient=gradient)
        train(net, batches, config=TrainConfig(steps=4, lr=0.01), method=method, progress=False)
        assert seen == [(gradient, plan, step) for step in range(4)]
        layer = layers(net)["0"]
        assert (layer.gradient, layer.plan.name) == (Ste(), FAST)
        assert layer.input_quantizer.config == Pact(asymmetric=True)
        assert layer.input_quantizer.calibrated
        names = [name for name, _ in net.named_parameters() if "input_quantizer" in name]
        assert names == [f"{i}.input_quantizer.{p}" for i in (0, 2) for p in ("alpha", "beta")]


def test_new_bounds_start_with_the_range_there_was() -> None:
    net = model()
    old = [value(layer.input_quantizer, X[:, :16] * 2).detach() for layer in layers(net).values()]
    DNat().begin(net, batches)
    kept = [layer.input_quantizer for layer in layers(net).values()]
    for module, before in zip(kept, old, strict=True):
        torch.testing.assert_close(value(module, X[:, :16] * 2).detach(), before)
    DNat().begin(net, batches)  # as on resume
    assert [layer.input_quantizer for layer in layers(net).values()] == kept
    signed = model(inputs=Lsq(asymmetric=True, init=Percentile(p=99)))
    z = layers(signed)["0"].input_quantizer(X)[2].item()
    requantise(signed, Pact(asymmetric=True))
    assert layers(signed)["0"].input_quantizer(X)[2].item() == z


def test_quantizers_are_kept_on_request() -> None:
    net = model()
    DNat(inputs=None).begin(net, batches)
    assert isinstance(layers(net)["0"].input_quantizer.config, Lsq)


def test_what_dnat_refuses() -> None:
    plain = macro(np.eye(16), rows=8, column=None, converter=Adc(bits=6), weights=DifferentialWeight(bits=4))
    with pytest.raises(ValueError, match="a measured table, and the macro has none"):
        DNat().begin(model(plain), batches)
    uncalibrated = convert(nn.Sequential(nn.Linear(20, 3)), macro(saturating()))
    with pytest.raises(ValueError, match="0: its inputs are not calibrated"):
        DNat().begin(uncalibrated, batches)


def test_titles_tell_variants_apart() -> None:
    variants = [DNat(), DNat(gradient=Ste()), DNat(gradient=Sampled()), DNat(inputs=None), DNat(inputs=Pact())]
    titles = [method.title for method in variants]
    assert titles[:4] == ["D-NAT", "D-NAT (ste)", "D-NAT (sampled)", "D-NAT (quantizers kept)"]
    assert len({*titles, ErrorAware().title}) == 6


def test_the_recipe_is_the_paper_s() -> None:
    assert (DNAT.epochs, DNAT.optimizer.kind) == (256, "sgd")


def test_training_on_the_table_recovers_what_the_table_costs() -> None:
    """A compressing table: trained on it, the loss on dies of the lot falls."""
    net = model()

    def loss() -> float:
        found = []
        with torch.no_grad(), kept(net):
            net.eval()
            for chip in range(4):
                on_chip(net, training_chip(77, chip))
                silicon(net).begin(INDEX, chip)
                found.append(float(F.cross_entropy(net(X), Y)))
        return sum(found) / len(found)

    before = loss()
    train(net, batches, config=TrainConfig(steps=120, lr=0.05), method=DNat(), progress=False)
    after = loss()
    print(f"loss {before:.3f} before, {after:.3f} after")
    assert after < 0.85 * before
