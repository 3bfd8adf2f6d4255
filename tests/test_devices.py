"""Cells, weight variations and drift, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from bitline import draws
from bitline.devices import (
    Cell,
    GaussianCell,
    LevelTable,
    LogNormalCell,
    LogNormalWeight,
    PowerLawDrift,
    RangeWeight,
    StuckAt,
)
from bitline.macro import Chip
from bitline.macro.chip import Effect

N = 1_000_000
EFFECT = Effect(Chip(3, 1).stream("cell", "test"), torch.arange(N))
LEVEL_HIGH = 7


def held(error, level: float) -> torch.Tensor:
    return error.apply(torch.full((N,), level, dtype=torch.float64), EFFECT, LEVEL_HIGH)


# ------------------------------------------------------------------------------------------------------------- cells


@pytest.mark.parametrize("level", [0.0, 3.0, 7.0])
@pytest.mark.parametrize("mu", [0.0, 0.02])
def test_gaussian_cell(level, mu):
    error = held(GaussianCell(sigma=0.05, mu=mu), level) - level
    assert float(error.std()) == pytest.approx(0.05 * 7, rel=0.01)
    assert float(error.mean()) == pytest.approx(mu * 7, rel=0.01, abs=0.35 * 4 / N**0.5)


def test_lognormal_cell():
    error = LogNormalCell(sigma=0.3)
    cells = held(error, 4.0)
    assert float(cells.mean()) == pytest.approx(4 * math.exp(0.045), rel=0.01)
    assert float(cells.std()) == pytest.approx(4 * math.exp(0.045) * math.sqrt(math.expm1(0.09)), rel=0.01)
    assert float(cells.log().std()) == pytest.approx(0.3, rel=0.01)
    assert (held(error, 0.0) == 0).all()


def test_shifted_lognormal_cell():
    assert float(held(LogNormalCell(sigma=0.3, mu=0.2), 4.0).log().mean()) == pytest.approx(math.log(4) + 0.2, abs=2e-3)


def test_parts_of_a_draw():
    """The unnamed part is the stream itself; every other is independent of it and of the others."""
    stream, address = EFFECT.stream, EFFECT.address
    assert torch.equal(EFFECT.normal(), draws.normal(stream, address))
    assert torch.equal(EFFECT.uniform(), draws.uniform(stream, address))
    assert torch.equal(EFFECT.normal("a"), torch.special.ndtri(EFFECT.uniform("a")))
    numbers = torch.stack([EFFECT.normal(), EFFECT.normal("a"), EFFECT.uniform("b")])
    assert (torch.corrcoef(numbers) - torch.eye(3)).abs().max() < 4 / N**0.5


def test_level_table():
    table = LevelTable(mean=(0.1, 1.2, 1.9, 3.3), sigma=(0.05, 0.1, 0.2, 0.0))
    levels = torch.arange(4, dtype=torch.float64).repeat_interleave(N // 4)
    cells = table.apply(levels, Effect(1, torch.arange(len(levels))), 3).view(4, -1)
    assert torch.allclose(cells.mean(1), torch.tensor(table.mean, dtype=torch.float64), rtol=0.01)
    assert torch.allclose(cells.std(1), torch.tensor(table.sigma, dtype=torch.float64), rtol=0.01)
    with pytest.raises(ValueError, match="has 4 levels, but the weights use levels 0 to 7"):
        table.apply(levels, EFFECT, 7)


def test_stuck_cells():
    cells = held(StuckAt(low=0.03, high=0.01), 4.0)
    for value, share in ((0.0, 0.03), (7.0, 0.01), (4.0, 0.96)):
        assert abs(float((cells == value).double().mean()) - share) < 4 * math.sqrt(share * (1 - share) / N)
    assert (held(StuckAt(low=1.0), 4.0) == 0).all()
    assert (held(StuckAt(high=1.0), 4.0) == 7).all()
    assert (held(StuckAt(), 4.0) == 4).all()
    assert StuckAt().clock == "fabrication"
    with pytest.raises(ValidationError, match=r"low \+ high = 1\.1 exceeds 1"):
        StuckAt(low=0.6, high=0.5)


def test_errors_happen_in_order_and_the_pedestal_last():
    cell = Cell(g_min=1e-6, g_max=8e-6, errors=(GaussianCell(sigma=0, mu=0.1), StuckAt(high=1.0)))
    levels = torch.zeros(4, dtype=torch.float64)
    short = Effect(0, torch.arange(4))
    assert cell.held(levels, lambda *_: short, 7).levels.tolist() == [8.0] * 4  # stuck at 7, and 7·1/7 of leakage
    assert cell.pedestal(7) == pytest.approx(1.0)
    assert Cell().pedestal(7) == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"g_min": 1e-6}, "both g_min and g_max"),
        ({"g_min": "5 uS", "g_max": "4 uS"}, "g_min = 5 µS must be below g_max = 4 µS"),
        ({"g_min": "5 uA", "g_max": "9 uS"}, "siemens"),
        ({"errors": [{"kind": "gauss", "sigma": 1}]}, "'gaussian'"),
        ({"errors": [{"kind": "gaussian", "sigma": -0.1}]}, "greater than or equal to 0"),
        ({"errors": [{"kind": "table", "mean": [0, 1], "sigma": [0]}]}, "2 means and 1 sigmas"),
        ({"sigma": 1}, "sigma"),
    ],
)
def test_bad_cells(config, message):
    with pytest.raises(ValidationError, match=message):
        Cell.model_validate(config)


# ------------------------------------------------------------------------------------------------ weight variations


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize("mu", [0.0, 0.05])
def test_range_weight(distribution, mu):
    """A1.1: weights in [-a, b], R = (a + b)/2; a uniform error has standard deviation sigma·R/sqrt 3."""
    variation = RangeWeight(sigma=0.1, mu=mu, distribution=distribution)
    w = torch.linspace(-0.3, 0.5, N, dtype=torch.float64)
    delta = variation.apply(w, variation.sample(EFFECT)) - w
    expected = 0.1 * 0.4 / (math.sqrt(3) if distribution == "uniform" else 1)
    assert float(delta.std()) == pytest.approx(expected, rel=0.01)
    assert float(delta.mean()) == pytest.approx(mu * 0.4, rel=0.01, abs=4 * expected / N**0.5)
    if distribution == "uniform":
        assert float((delta - mu * 0.4).abs().max()) <= 0.1 * 0.4


def test_lognormal_weight():
    """A3.2: the moments of a million draws."""
    variation = LogNormalWeight(sigma=0.5)
    w = torch.tensor([-2.0, 0.0, 1.0], dtype=torch.float64)[:, None]
    seen = variation.apply(w, variation.sample(EFFECT))
    assert float(seen[2].mean()) == pytest.approx(1.1331, rel=5e-3)
    assert float(seen[2].std()) == pytest.approx(0.6039, rel=5e-3)
    assert (seen[1] == 0).all()
    assert torch.equal(seen[0], -2 * seen[2])


@pytest.mark.parametrize("variation", [LogNormalWeight(sigma=0.4), RangeWeight(sigma=0.1)])
def test_gradient_of_a_variation(variation):
    w = torch.randn(200, dtype=torch.float64, requires_grad=True)
    n = variation.sample(Effect(5, torch.arange(200)))
    (gradient,) = torch.autograd.grad(variation.apply(w, n).sum(), w)
    factor = torch.exp(0.4 * n) if variation.kind == "lognormal" else torch.ones(200, dtype=torch.float64)
    assert torch.equal(gradient, factor)


# ------------------------------------------------------------------------------------------------------------- drift


def test_drift_law():
    drift = PowerLawDrift(nu=0.05, nu_sigma=0.01, t0=20.0)
    levels = torch.full((N,), 4.0, dtype=torch.float64)
    assert torch.equal(drift.apply(levels, levels / 7, EFFECT, 7, 20.0, 300.0), levels)
    later = drift.apply(levels, levels / 7, EFFECT, 7, 2e4, 300.0)
    exponent = -(later / 4).log() / math.log(1000)
    assert float(exponent.mean()) == pytest.approx(0.05, rel=0.01)
    assert float(exponent.std()) == pytest.approx(0.01, rel=0.01)


def test_drift_by_temperature():
    drift = PowerLawDrift(nu=0.1, activation_ev=0.5, kelvin=300.0)
    one, draw = torch.ones(1, dtype=torch.float64), Effect(0, torch.zeros(1, dtype=torch.int64))
    faster = math.exp(0.5 / 8.617333262e-5 * (1 / 300 - 1 / 350))
    hot, cold, warm = (
        drift.apply(one, one, draw, 1, *at) for at in ((1e3, 350.0), (1e3 * faster, 300.0), (1e3, 300.0))
    )
    assert float(hot) == pytest.approx(float(cold), rel=1e-9)
    assert float(hot) < float(warm)


def test_no_drift_before_the_law_starts():
    with pytest.raises(ValueError, match="age of 19 s at 300 K counts as 19 s at 300 K, before t0 = 20 s"):
        PowerLawDrift(nu=0.1).since(19.0, 300.0)
