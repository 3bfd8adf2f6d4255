"""S3's error suppression: λ, the penalty, what norms do to it, and the acceptance tests A3.1 to A3.4 of METHODS.md."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bitline.devices import LogNormalWeight, lognormal
from bitline.evaluate import error_gain, injected_from, layer_gains
from bitline.macro import Macro
from bitline.methods import Compensate, CosineRamp, ErrorAware, HaSgd, Progress, Qat, Ramp, Suppression
from bitline.methods.suppression import bound, departure, effective, typical
from bitline.nn import convert, layers, norms_behind
from bitline.train import TrainConfig, train

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(128, 16, generator=DRAW)
Y = (X @ torch.randn(16, 4, generator=DRAW)).argmax(1)
INDEX = torch.arange(128)


def macro(**changes: Any) -> Macro:
    config = {"name": "ln", "rows": 32, "columns": 32, "variation": {"kind": "lognormal", "sigma": 0.5}}
    return Macro.model_validate(config | changes)


def model(norm: bool = False, design: Macro | None = None) -> nn.Module:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(24)] if norm else []
    net = nn.Sequential(nn.Linear(16, 24), *middle, nn.ReLU(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 4))
    return convert(net, design or macro())


def batches(epoch: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [(X, Y, INDEX)]


def trained(method: Any, steps: int, **changes: Any) -> nn.Module:
    net = model(**changes)
    train(net, batches, config=TrainConfig(steps=steps, lr=0.05), method=method, progress=False)
    return net.eval()


# ------------------------------------------------------------------------------------------------------------------ λ


def test_lambda_is_the_table() -> None:
    """A3.1."""
    wanted = {0.1: 0.7650, 0.2: 0.6103, 0.3: 0.4978, 0.4: 0.4103, 0.5: 0.3396}
    assert {sigma: round(1 / bound(sigma), 4) for sigma in wanted} == wanted
    fine = [1 / bound(0.01 * step) for step in range(201)]
    assert all(a > b for a, b in pairwise(fine))
    assert fine[0] == 1


def test_the_error_is_log_normal() -> None:
    """A3.2, within 0.5 %: a million quantiles."""
    w = torch.ones(1_000_000, dtype=torch.float64)
    n = torch.special.ndtri((torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000)
    seen = LogNormalWeight(sigma=0.5).apply(w, n)
    assert (float(seen.mean()), float(seen.std())) == pytest.approx((1.1331, 0.6039), rel=5e-3)
    assert lognormal(0.5) == pytest.approx((1.1331, 0.6039), rel=1e-4)
    signs = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)[:, None]
    assert torch.equal(LogNormalWeight(sigma=0.5).apply(signs, n).sign(), signs.expand(3, len(n)))


@pytest.mark.parametrize(("outputs", "inputs"), [(128, 128), (96, 384)])
def test_the_typical_case_is_what_orthogonal_matrices_do(outputs: int, inputs: int) -> None:
    draw = torch.Generator().manual_seed(1)
    found = []
    for _ in range(4):
        q = torch.linalg.qr(torch.randn(inputs, inputs, dtype=torch.float64, generator=draw))[0][:outputs]
        errors = torch.exp(0.5 * torch.randn(outputs, inputs, dtype=torch.float64, generator=draw))
        found.append(torch.linalg.matrix_norm(q * errors, 2))
    wanted = typical(0.5, outputs / inputs)
    assert wanted * 0.98 < float(torch.stack(found).median()) < wanted * 1.06  # a few have outliers above
    assert wanted < bound(0.5)
    assert typical(0.0, 1.0) == 1


# -------------------------------------------------------------------------------------------------------- the penalty


def test_both_gram_matrices_have_the_same_gradient() -> None:
    """A3.3: of W Wᵀ and WᵀW, to 1e-6; values differ by (in - out) λ⁴."""
    w = torch.randn(1, 12, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    large = (w.mT @ w - 0.3396**2 * torch.eye(40, dtype=torch.float64)).square().sum()
    small = departure(w, 0.3396)
    one, two = (torch.autograd.grad(value, w)[0] for value in (large, small))
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)
    assert float((large - small).detach()) == pytest.approx(28 * 0.3396**4)
    assert float(departure(w.mT, 0.3396).detach()) == pytest.approx(float(small.detach()))  # its smaller one, too


def test_a_convolution_is_the_matrix_of_its_kernels_and_groups_are_apart() -> None:
    net = convert(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(6, 2)), macro())
    found = Suppression(exempt=("2",)).weights(net)
    assert list(found) == ["0"]
    layer, matrix = found["0"]
    assert matrix.shape == (2, 3, 2 * 9)
    assert torch.equal(matrix[1, 2], layer.weight[5].flatten())


def test_the_penalty_is_added_to_the_loss() -> None:
    x, y = X[:8], Y[:8]
    values = []
    for method in (ErrorAware(), ErrorAware(suppress=Suppression(beta=0.5))):
        net = model()
        method.begin(net, batches)
        method.before_step(net, Progress(0, 4))
        values.append(float(method.loss(net, x, y, INDEX[:8], nn.functional.cross_entropy).detach()))
    wanted = sum(float(departure(effective(layer), 1 / bound(0.5)).detach()) for layer in layers(net).values())
    assert values[1] - values[0] == pytest.approx(0.5 * wanted, rel=1e-4)
    several = HaSgd(samples=2, percentile=90, suppress=Suppression(beta=0.5))
    alone = HaSgd(samples=2, percentile=90)
    found = []
    for method in (alone, several):  # once a step, however many chips
        method.begin(net, batches)
        method.before_step(net, Progress(0, 4))
        found.append(float(method.loss(net, x, y, INDEX[:8], nn.functional.cross_entropy).detach()))
    assert found[1] - found[0] == pytest.approx(0.5 * wanted, rel=1e-4)


def test_beta_follows_its_schedule() -> None:
    net = model()
    plain = float(Suppression().penalty(net, Progress(0, 11), 0).detach())
    for schedule, step, factor in (
        (Ramp(), 5, 0.5),
        (CosineRamp(start=0.01), 10, 1.0),
        (CosineRamp(start=0.5), 5, 0.75),
    ):
        found = Suppression(schedule=schedule).penalty(net, Progress(step, 11), 0)
        assert float(found.detach()) == pytest.approx(factor * plain)


def test_a_norm_hides_the_size_of_weights_and_not_its_own() -> None:
    net = model(norm=True)
    norm = norms_behind(net)["0"]
    norm.running_var.uniform_(0.5, 2.0)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    layer = layers(net)["0"]
    found = effective(layer, norm)[0]
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(found, factor[:, None] * layer.weight)
    penalty = Suppression().weights(net)["0"][1].square().sum()
    of_weight, of_gain = torch.autograd.grad(penalty, [layer.weight, norm.weight])
    along = (of_weight * layer.weight).sum(1).abs() / (of_weight.norm(dim=1) * layer.weight.norm(dim=1) + 1e-9)
    assert float((of_weight.norm(dim=1) * layer.weight.norm(dim=1)).max()) < 1e-2 or float(along.max()) < 1e-2
    assert float(of_gain.abs().min()) > 0.1
    assert torch.equal(Suppression(norms="ignored").weights(net)["0"][1][0], layer.weight)


def test_what_cannot_be_is_refused() -> None:
    other = macro(variation={"kind": "range", "sigma": 0.1})
    for method in (Qat(suppress=Suppression()), HaSgd(suppress=Suppression()), ErrorAware(suppress=Suppression())):
        assert "one of kind range: give suppress.sigma" in (method.refuses(other) or "")
        assert method.refuses(macro()) is None
    assert Qat(suppress=Suppression(sigma=0.3)).refuses(macro(variation=None)) is None
    mixed = convert(nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4)), {"0": macro(), "2": other})
    assert list(Suppression().weights(mixed)) == ["0"]  # no λ is known of the other
    assert list(Suppression(sigma=0.3).weights(mixed)) == ["0", "2"]
    with pytest.raises(ValueError, match=r"suppress.exempt: pattern 'fc' matches no layer; the layers are: 0, 2, 4"):
        Suppression(exempt=("fc",)).weights(model())
    with pytest.raises(ValidationError, match="put it into `after`"):
        Compensate(suppress=Suppression())
    with pytest.raises(ValidationError, match="greater than 0"):
        Suppression(beta=0)
    assert len({Qat().title, Qat(suppress=Suppression()).title, ErrorAware(suppress=Suppression()).title}) == 3


# ---------------------------------------------------------------------------------------------------------- its effect


def test_suppressed_layers_reach_lambda_and_errors_grow_less() -> None:
    """A3.4 on a small network: spectral norms within 10 % of λ, and a smaller end-to-end error gain at every sigma."""
    suppress = Suppression(beta=3.0)
    ours, plain = trained(Qat(suppress=suppress), 150), trained(Qat(), 150)
    found = layer_gains(ours, suppress, chips=2)
    assert all(row.norm == pytest.approx(row.wanted, rel=0.1) for row in found)
    assert all(row.on_chips is not None and row.on_chips < 1 for row in found)  # k, as λ promises
    assert max(row.norm for row in layer_gains(plain, chips=1)) > 2
    for sigma in (0.1, 0.3, 0.5):
        there = macro(variation={"kind": "lognormal", "sigma": sigma})
        gains = [error_gain(net, batches(0), chips=4, variant=lambda _, there=there: there) for net in (ours, plain)]
        assert gains[0].shape == (4,)
        assert float(gains[0].mean()) < float(gains[1].mean())
    expected = (math.exp(2 * 0.25) - 2 * math.exp(0.25 / 2) + 1) ** 0.5  # of a log-normal factor, σ 0.5
    assert all(row.error == pytest.approx(expected, rel=1e-5) for row in found)
    assert len(found) == 3


def test_errors_from_a_layer_onward() -> None:
    net = trained(Qat(), 60)
    found = injected_from(net, lambda: batches(0), chips=4)
    assert list(found) == list(layers(net))
    assert all(right.shape == (4, 128) for right in found.values())
    means = [float(right.double().mean()) for right in found.values()]
    assert means[0] < means[-1]
    assert all(layer.macro == layer.design for layer in layers(net).values())
    quiet = trained(Qat(), 1, design=macro(variation={"kind": "lognormal", "sigma": 0}))
    assert not math.isnan(float(error_gain(quiet, batches(0), chips=2).sum()))
    assert float(error_gain(quiet, batches(0), chips=2).max()) == 0
    assert layer_gains(quiet)[0].on_chips is None
