"""Curvature against exact Hessians, a flat minimum by hand, and what is chosen by it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy, linear

import bitline as bl
from bitline.evaluate import Priorities
from bitline.macro import Chip, Macro
from bitline.methods import Method, Progress, Qat
from bitline.nn import calibrate, convert, layers, on_chip, restore
from bitline.report.tables import priorities_table

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(40, 6, generator=GENERATOR)
Y = torch.randint(0, 3, (40,), generator=GENERATOR)
DATA = [(X[:24], Y[:24]), (X[24:], Y[24:], torch.arange(16))]


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.BatchNorm1d(5), nn.Linear(5, 3)).eval()


def exact(model: nn.Module, output: Any = None) -> dict[str, Tensor]:
    """Each layer's block of the Hessian of the mean loss, or of the Gauss-Newton matrix, (n, n) in double."""
    model = model.double()
    found = {}
    for name in ("0", "3"):
        w = model.get_parameter(f"{name}.weight").detach()

        def scores(flat: Tensor, name: str = name, shape: torch.Size = w.shape) -> Tensor:
            return functional_call(model, {f"{name}.weight": flat.view(shape)}, (X.double(),))

        if output is None:
            found[name] = hessian(lambda flat, scores=scores: cross_entropy(scores(flat), Y))(w.flatten())
        else:
            jacobian = torch.func.jacrev(scores)(w.flatten())
            p = scores(w.flatten()).softmax(1).detach()
            inner = torch.diag_embed(p) - p[:, :, None] * p[:, None]
            found[name] = torch.einsum("bci,bcd,bdj->ij", jacobian, inner, jacobian) / len(X)
    return found


def test_traces_are_those_of_the_exact_hessian() -> None:
    model = net()
    found = bl.hessian_traces(model, DATA, probes=1600)
    for name, block in exact(net()).items():
        trace = float(block.trace())
        assert abs(found[name].value - trace) < 4 * found[name].error
        assert found[name].error < 0.05 * abs(trace)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    again = bl.hessian_traces(model, DATA, probes=1600)
    assert again == found
    with pytest.raises(ValueError, match="the loader is empty"):
        bl.hessian_traces(model, [])
    with pytest.raises(ValueError, match="two at least"):
        bl.hessian_traces(model, DATA, probes=1)


def test_the_gauss_newton_diagonal_is_exact_on_average() -> None:
    found = bl.gauss_newton(net(), DATA, probes=2000)
    for name, block in exact(net(), "gauss_newton").items():
        wanted = block.diagonal().float().view(found[name].shape)
        torch.testing.assert_close(found[name], wanted, rtol=0.12, atol=0.03 * float(wanted.max()))
        assert float(found[name].sum()) == pytest.approx(float(wanted.sum()), rel=0.02)
        assert bool((found[name] >= 0).all())


def test_of_a_converted_network_it_is_that_of_its_clean_weights() -> None:
    macro = Macro.model_validate({"name": "m", "rows": 8, "columns": 8, "variation": {"kind": "range", "sigma": 0.3}})
    model = convert(net(), macro)
    assert bl.hessian_traces(model, DATA) == bl.hessian_traces(net(), DATA)
    assert layers(model).keys() == bl.gauss_newton(model, DATA).keys()


# ------------------------------------------------------------------------------------------ a network trained to a loss

WIDE = Macro.model_validate(
    {"name": "nvm", "rows": 64, "columns": 64, "variation": {"kind": "range", "sigma": 0.1}, "bias": {}}
)


def spirals(seed: int) -> tuple[Tensor, Tensor]:
    """Two classes that wind round each other, (400, 2)."""
    generator = torch.Generator().manual_seed(seed)
    t, y = torch.rand(400, generator=generator) * 2 + 0.3, torch.arange(400) % 2
    angle = 2.5 * t + torch.pi * y
    x = torch.stack([t * angle.cos(), t * angle.sin()], 1)
    return x + 0.1 * torch.randn(x.shape, generator=generator), y


@torch.no_grad()
def clean_loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    for layer in model:
        x = linear(x, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else layer(x)
    return float(cross_entropy(x, y))


def trained_to(loss: float, method: Method, seed: int) -> nn.Module:
    """The network as soon as the loss of its clean weights over all samples is below ``loss``."""
    x, y = spirals(seed)
    torch.manual_seed(seed)
    model = convert(nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2)), WIDE)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    method.begin(model, lambda epoch: [(x, y, torch.arange(400))])
    for step in range(3000):
        method.before_step(model, Progress(step, 3000))
        optimiser.zero_grad()
        method.loss(model, x, y, torch.arange(400), cross_entropy).backward()
        optimiser.step()
        if step % 10 == 0 and clean_loss(model, x, y) <= loss:
            method.end(model)
            return model
    raise AssertionError(f"{method.kind} never reached {loss}")


# ------------------------------------------------------------------------------------------------- what is chosen by it


def test_verified_weights_are_those_that_matter_most() -> None:
    priority = {"a": torch.tensor([[5.0, 1.0], [0.0, 3.0]]), "b": torch.tensor([4.0, 2.0])}
    chosen = bl.choose_writes(priority, 0.5)
    assert chosen["a"].tolist() == [[True, False], [False, True]]
    assert chosen["b"].tolist() == [True, False]
    assert not any(bool(mask.any()) for mask in bl.choose_writes(priority, 0).values())
    with pytest.raises(ValueError, match="priority names no layer"):
        bl.choose_writes({}, 0.5)
    with pytest.raises(ValueError, match=r"share = 1\.5"):
        bl.choose_writes(priority, 1.5)


def test_verifying_by_curvature_beats_verifying_by_magnitude_or_chance() -> None:
    """SWIM's claim on a trained network: a tenth of its weights written without error, 60 chips."""
    model = trained_to(0.1, Qat(), 0)
    x, y = spirals(0)
    powers, curved = bl.error_powers(model), bl.gauss_newton(model, [(x, y)], probes=16)
    ranked = {
        "curvature": {name: curved[name] * powers[name] for name in curved},
        "magnitude": {name: layer.weight.detach().abs() for name, layer in layers(model).items()},
        "chance": {name: torch.rand(w.shape, generator=torch.Generator().manual_seed(3)) for name, w in curved.items()},
    }
    rise = dict.fromkeys(ranked, 0.0)
    plain = restore(model)
    for name, priority in ranked.items():
        chosen = bl.choose_writes(priority, 0.1)
        for number in range(60):
            on_chip(model, Chip(2, number))
            real = {
                f"{at}.weight": torch.where(chosen[at], layer.weight, layer.held()[0])
                for at, layer in layers(model).items()
            }
            with torch.no_grad():
                rise[name] += float(cross_entropy(functional_call(plain, real, (x,)), y)) / 60
    assert rise["curvature"] < 0.95 * rise["magnitude"]
    assert rise["curvature"] < 0.9 * rise["chance"]


def test_bits_go_to_curved_layers_with_wide_ranges() -> None:
    weights = {"curved": torch.ones(10), "wide": 4 * torch.ones(10), "flat": torch.ones(20)}
    curvature = {"curved": 16 * torch.ones(10), "wide": torch.ones(10), "flat": 0.01 * torch.ones(20)}
    bits = bl.spend_bits(curvature, weights, 4.0)
    assert bits["curved"] == bits["wide"] > bits["flat"]
    assert sum(bits[name] * w.numel() for name, w in weights.items()) <= 4 * 40
    assert set(bl.spend_bits(curvature, weights, 8.0).values()) == {8}
    assert set(bl.spend_bits(curvature, weights, 2.0).values()) == {2}
    with pytest.raises(ValueError, match="the fewest of a layer are 2"):
        bl.spend_bits(curvature, weights, 1.5)


PAIRS = {
    "name": "pairs of cells",
    "rows": 64,
    "columns": 64,
    "inputs": {"kind": "unsigned", "bits": 4},
    "weights": {"kind": "differential", "bits": 4, "cell_bits": 3},
}


def test_errors_of_cells_by_code() -> None:
    """A Gaussian cell errs alike at each level: two columns of three-level cells, (sigma · level_high)² each."""
    design = PAIRS | {"cell": {"errors": [{"kind": "gaussian", "sigma": 0.05}]}}
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(64, 200))
    model = calibrate(convert(plain, Macro.model_validate(design)), [torch.rand(32, 64)])
    layer = layers(model)["0"]
    powers = bl.error_powers(model)
    scale = float(layer.weight_quantizer(layer.weight)[1].detach())
    assert float(powers["0"].mean()) == pytest.approx(2 * (0.05 * 7 * scale) ** 2, rel=0.02)
    assert powers["0"].shape == layer.weight.shape


def test_cells_that_only_drift_err_too() -> None:
    """What is left of each weight after 2e4 s is the same share, so the error goes as the weight."""
    torch.manual_seed(0)
    young = Macro.model_validate(PAIRS | {"cell": {"drift": {"kind": "power_law", "nu": 0.05, "t0": 20.0}}})
    models = [
        calibrate(convert(nn.Sequential(nn.Linear(8, 6)), m), [torch.rand(32, 8)]) for m in (young, young.aged(2e4))
    ]
    assert bl.error_powers(models[0]) == {}
    column, scale = layers(models[1])["0"].program()
    lost = (1 - 1000**-0.05) * column.wanted * scale
    assert torch.allclose(bl.error_powers(models[1])["0"], lost.square().float(), rtol=1e-3)


def test_errors_of_weights_that_share_their_range_with_offsets() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 6))
    with torch.no_grad():
        plain[0].bias[0] = 4.0
    model = convert(plain, WIDE)
    powers, layer = bl.error_powers(model)["0"], layers(model)["0"]
    squares = []
    for number in range(400):
        on_chip(model, Chip(1, number))
        squares.append((layer.held()[0] - layer.weight).detach().square())
    assert float(powers.mean()) == pytest.approx(float(torch.stack(squares).mean()), rel=0.05)


def test_priorities_of_a_network(tmp_path: Any) -> None:
    model = convert(net(), WIDE.model_copy(update={"bias": None}))
    found = bl.priorities(model, DATA, probes=4, share=0.2)
    assert [row.layer for row in found.layers] == ["0", "3"]
    assert sum(row.verify * row.weights for row in found.layers) == pytest.approx(0.2 * 45, abs=0.5)
    for row in found.layers:  # ½ sigma² R² Tr, the form of A1.3
        w = layers(model)[row.layer].weight.detach()
        assert row.rise == pytest.approx(0.5 * (0.1 * float(w.max() - w.min()) / 2) ** 2 * row.gauss_newton, rel=1e-4)
    found.save(tmp_path / "curvature.json")
    assert Priorities.load(tmp_path / "curvature.json") == found
    assert len(priorities_table(found).rows) == 2
    with pytest.raises(ValueError, match="no layer of this model sits on a macro"):
        bl.priorities(net(), DATA)
