"""Cells by state and age, write–verify loops and drift compensation, against closed forms and published figures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from bitline import presets
from bitline.converters import Adc, CalibratedRange, FullRange
from bitline.devices import (
    AnyProfile,
    CapacitorMismatch,
    Cell,
    FlickerNoise,
    GaussianCell,
    Logarithm,
    LogTimeDrift,
    MeasuredCell,
    PowerLawDrift,
    StateCell,
    StateConstant,
    StateNoise,
    StatePolynomial,
    StuckAt,
    StuckMap,
    UniformCell,
    WriteVerify,
)
from bitline.encode import (
    DifferentialWeight,
    OffsetInput,
    OffsetWeight,
    TwosComplementWeight,
    UnsignedInput,
    UnsignedWeight,
)
from bitline.macro import (
    Chip,
    Compensation,
    Dense,
    Macro,
    Reads,
    Site,
    age,
    causes,
    choose,
    describe,
    fused,
    nominal,
    program,
    pulses,
    reference,
    without,
)
from bitline.macro.chip import Effect
from bitline.macro.placement import Reload
from bitline.macro.read import Keep
from bitline.nn import calibrate, convert, layers, programmed, silicon, use, verify_writes
from contracts import CHIP, base, converters_of, inputs_of, read, weights_of
from contracts import programmed as layer_of

N = 1_000_000
EFFECT = Effect(Chip(3, 1).stream("cell", "states"), torch.arange(N))
YEAR = 3.15e7


def at(profile: Any, *states: float) -> list[float]:
    return TypeAdapter(AnyProfile).validate_python(profile).at(torch.tensor(states, dtype=torch.float64)).tolist()


def full(level: float, n: int = N) -> torch.Tensor:
    return torch.full((n,), level, dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------- profiles


@pytest.mark.parametrize(
    ("profile", "values"),
    [
        (0.1, (0.1, 0.1, 0.1)),
        ({"kind": "polynomial", "coefficients": [1, 2, -4]}, (1.0, 1.0, -1.0)),
        ({"kind": "saturating", "most": 2.0, "scale": 0.5}, (0.0, 2 - 2 / math.e, 2 - 2 / math.e**2)),
        ({"kind": "power", "coefficient": 0.1, "exponent": -1, "most": 0.15}, (0.15, 0.15, 0.1)),
        ({"kind": "logarithm", "slope": -1, "offset": 0.2, "low": 0.3, "high": 0.8}, (0.8, 0.8, 0.3)),
        ({"kind": "middle", "outer": 1, "middle": 3}, (1.0, 3.0, 1.0)),
        ({"kind": "points", "state": [0.25, 0.75], "value": [1, 2]}, (1.0, 1.5, 2.0)),
    ],
)
def test_profiles(profile, values) -> None:
    assert at(profile, 0.0, 0.5, 1.0) == pytest.approx(values)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"kind": "state", "sigma": -0.1}, r"sigma = -0\.1 at state 0 .* accepted is 0 … 1"),
        (
            {"kind": "state", "sigma": {"kind": "polynomial", "coefficients": [0.1, -0.2]}},
            r"sigma = -.* at state 0\.504",
        ),
        (
            {"kind": "state", "sigma": 0.1, "mu": {"kind": "polynomial", "coefficients": [0, 2]}},
            r"mu = 1\.0.* accepted",
        ),
        ({"kind": "state", "sigma": True}, "a number or a profile is expected, such as 0.05"),
        ({"kind": "state", "sigma": {"kind": "points", "state": [0, 0], "value": [1, 1]}}, r"\[0\.0, 0\.0\] must rise"),
        ({"kind": "state", "sigma": {"kind": "points", "state": [0, 1], "value": [1]}}, "2 states but 1 values"),
        ({"kind": "state", "sigma": 0.1, "floor": 0.1}, "less than or equal to 0"),
        ({"kind": "uniform", "half_width": 1.5}, "less than or equal to 1"),
        ({"kind": "capacitor", "farads": "0 fF", "coefficient": 0.01}, "greater than 0"),
        ({"kind": "capacitor", "farads": "1 uS", "coefficient": 0.01}, "farads"),
        ({"kind": "stuck_map", "low": [3], "high": [4, 3]}, "cell 3 is stuck both low and high"),
        ({"kind": "stuck_map", "low": [-1]}, "greater than or equal to 0"),
        ({"kind": "stuck_map", "low": "nowhere.npy"}, "fault map nowhere.npy"),
    ],
)
def test_errors_out_of_range_are_refused(config, told) -> None:
    with pytest.raises(ValidationError, match=told):
        Cell.model_validate({"errors": [config]})


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"drift": {"kind": "power_law", "nu": 1.5}}, r"nu = 1\.5 at state 0"),
        ({"drift": {"kind": "power_law", "nu": 0.1, "nu_sigma": -1}}, "nu_sigma = -1"),
        ({"drift": {"kind": "log_time", "mu": 2}}, "mu = 2"),
        ({"drift": {"kind": "log_time", "mu": 0, "sigma": 2}}, "sigma = 2"),
        ({"drift": {"kind": "power_law", "nu": 0.1}, "seconds": 1}, "before t0 = 20 s"),
        ({"drift": {"kind": "power_law", "nu": 0.1, "until": 1e6}, "seconds": 1e7}, r"measured up to until = 1e\+06 s"),
        ({"seconds": 100}, "neither drift nor read noise depends on it"),
        ({"read_noise": {"kind": "state", "sigma": 0.1}, "seconds": 100}, "neither drift nor read noise depends on it"),
        ({"errors": [{"kind": "measured", "table": "rram-b"}], "seconds": 9}, "give the age to the measured cells"),
        ({"read_noise": {"kind": "state", "sigma": 2}}, "sigma = 2"),
        ({"read_noise": {"kind": "flicker", "q": 2}}, "q = 2"),
        ({"read_noise": {"kind": "flicker", "q": 0.1}, "read_sigma": 0.1}, "read_sigma and read_noise are both"),
        ({"write_verify": {"most_pulses": 3, "sigma": 0.1}}, "`levels` or in `siemens`"),
        ({"write_verify": {"levels": 1, "siemens": "1 uS", "most_pulses": 3, "sigma": 0.1}}, "one of them"),
        ({"write_verify": {"siemens": "1 uS", "most_pulses": 3, "sigma": 0.1}}, "a tolerance in siemens needs"),
        ({"write_verify": {"levels": 1, "most_pulses": 0, "sigma": 0.1}}, "greater than or equal to 1"),
        (
            {"errors": [{"kind": "measured", "table": "rram-b"}],
             "write_verify": {"levels": 1, "most_pulses": 3, "sigma": 0.1}},
            "measured cells were verified before",
        ),
    ],
)  # fmt: skip
def test_cells_that_make_no_sense_are_refused(config, told) -> None:
    with pytest.raises(ValidationError, match=told):
        Cell.model_validate(config)


# ------------------------------------------------------------------------------------------------------------ errors


def test_uniform_cells_stay_in_their_range() -> None:
    held = UniformCell(half_width=0.1, mu=0.02).apply(full(3.0), EFFECT, 7)
    assert float(held.min()) >= 3 + 7 * (0.02 - 0.1) - 1e-9
    assert float(held.max()) <= 3 + 7 * (0.02 + 0.1) + 1e-9


def test_mismatch_falls_with_the_root_of_the_capacitance() -> None:
    small, large = (CapacitorMismatch(farads=f, coefficient=0.008) for f in (1e-15, 4e-15))
    assert (small.sigma, large.sigma) == pytest.approx((0.008, 0.004))
    assert float(large.apply(full(1.0), EFFECT, 1).std()) == pytest.approx(0.004, rel=0.01)
    assert not small.apply(full(0.0), EFFECT, 1).any()  # a cell that holds 0 stays 0
    assert CapacitorMismatch.model_validate({"farads": "1.2 fF", "coefficient": 0.01}).clock == "fabrication"


def test_a_floor_keeps_conductances_at_zero() -> None:
    error = StateCell(sigma=0.05, floor=0.0)
    held = error.apply(full(0.0), EFFECT, 10)
    assert float(held.min()) == 0
    assert float(held.mean()) == pytest.approx(0.5 / math.sqrt(2 * math.pi), rel=0.01)  # half a normal distribution
    assert float(held.std()) == pytest.approx(0.5 * math.sqrt(0.5 - 0.5 / math.pi), rel=0.01)
    assert (error.centred().keep, error.typical().keep) == ("spread", "mean")
    plain = StateCell(sigma=0.05)  # no bias: nothing for an explanation to tell apart
    assert plain.centred() == plain
    assert plain.typical() is None


def test_fault_maps(tmp_path: Path) -> None:
    np.save(tmp_path / "low.npy", np.array([[0, 5], [7, 24 * 37]]))
    (tmp_path / "high.txt").write_text("1\n38\n")
    error = StuckMap.model_validate({"low": str(tmp_path / "low.npy"), "high": str(tmp_path / "high.txt")})
    assert (error.low, error.high) == ((0, 5, 7, 24 * 37), (1, 38))
    assert StuckMap.model_validate_json(error.model_dump_json()) == error
    macro = base("map", cell=Cell(errors=(error,)))
    column, clean = layer_of(macro), layer_of(base("map"))
    address = column.layout.cells_of(column.site)
    low, high = (torch.isin(address, torch.tensor(a)) for a in (error.low, error.high))
    assert low.any()
    assert high.any()
    assert (column.cells[low] == 0).all()
    assert (column.cells[high] == 3).all()
    assert torch.equal(column.cells[~(low | high)], clean.cells[~(low | high)])
    assert torch.equal(layer_of(macro, n=3, chip=Chip(1, 1)).cells, column.cells)  # of the die, whatever is written
    assert without(macro, "variation").cell.errors == ()
    np.save(tmp_path / "real.npy", np.array([0.5]))
    with pytest.raises(ValidationError, match="holds float64, not integers"):
        StuckMap(low=str(tmp_path / "real.npy"))


# ------------------------------------------------------------------------------------------------------ published cells


def test_pcm_is_the_published_model() -> None:
    """Nandakumar et al., ICECS 2019, equations as in the documentation of aihwkit; conductances relative to 25 µS."""
    cell = presets.load("pcm-128").cell
    for s in (0.0, 0.04, 0.2, 0.6, 1.0):
        (error,) = cell.errors
        assert 25 * at(error.sigma, s)[0] == pytest.approx(max(-1.1731 * s**2 + 1.9650 * s + 0.26348, 0), abs=1e-3)
        log = math.log(max(s, 1e-9))
        assert at(cell.drift.nu, s) == pytest.approx([min(max(-0.0155 * log + 0.0244, 0.049), 0.1)])
        assert at(cell.drift.nu_sigma, s) == pytest.approx([min(max(-0.0125 * log - 0.0059, 0.008), 0.045)])
        assert at(cell.read_noise.q, s) == pytest.approx([min(0.0088 / max(s, 1e-9) ** 0.65, 0.2)])
    held = cell.drift.apply(full(15.0), full(1.0), EFFECT, 15, 86400.0, 300.0)
    ratio = 86400 / 20
    assert float(held.mean()) == pytest.approx(
        15 * ratio**-0.049 * math.exp((0.008 * math.log(ratio)) ** 2 / 2), rel=0.01
    )


def test_sonos_is_the_published_fit() -> None:
    """Spread of the current (nA) at programming and after five days, as CrossSim fits Agrawal et al., Fig. 10(a)."""
    cell = presets.load("sonos-128").cell
    (error,) = cell.errors
    for current, (first, last) in ((100.0, (8.61, 13.24)), (400.0, (17.83, 29.56)), (1400.0, (19.88, 34.54))):
        s = current / 1600
        assert 1600 * at(error.sigma, s)[0] == pytest.approx(first, abs=0.02)
        _, spread = cell.drift.moments(full(current, 1), full(s, 1), 1600, 432000.0, 300.0)
        assert math.hypot(first, float(spread)) == pytest.approx(last, abs=0.8)
    with pytest.raises(ValueError, match="measured up to until = 432000 s"):
        presets.load("sonos-128").aged(1e6)


def test_fefet_states_vary_as_published() -> None:
    """NeFT's factor of 2 between middle and outer states, its mean square over the states that of 3 %."""
    (error,) = presets.load("generic-fefet-128").cell.errors
    outer, first, second, last = at(error.sigma, 0, 1 / 3, 2 / 3, 1)
    assert outer == last
    assert first == second == pytest.approx(2 * outer, rel=0.005)
    assert 0.4 * first**2 + 0.6 * outer**2 == pytest.approx(0.03**2, rel=0.01)


def test_presets_say_what_they_age_to() -> None:
    macro = presets.load("pcm-128")
    day = dict(describe(macro.at("day")))
    assert day["age of the cells"] == "8.64e+04 s at 300 K"
    assert day["compensation of drift"] == "one factor a layer"
    assert "nu 0.1 at level 0 to 0.049 at the highest" in day["drift of a cell"]
    assert set(causes(macro.at("day"))) >= {"variation", "noise", "curve"}
    assert dict(describe(presets.load("generic-ctt-128")))["write and verify"].startswith(
        "until a cell reads within ± 0.25"
    )


# ------------------------------------------------------------------------------------------------------ write–verify


def loop(first: float, config: WriteVerify, high: int = 7, chosen: torch.Tensor | None = None, n: int = 100_000):
    """Residual errors in levels, and what it took, of ``n`` cells with a first error of sigma ``first`` (range)."""
    cell = Cell(errors=(GaussianCell(sigma=first),), write_verify=config)
    found = cell.held(full(3.0, n), draws_of(n), high, chosen)
    return found.levels - 3, found.writes


def draws_of(n: int):
    return lambda name, clock: Effect(Chip(0, 0).stream(name, "loop"), torch.arange(n))


@pytest.mark.parametrize("most", [2, 4, 50])
def test_writing_anew_leaves_a_truncated_distribution(most: int) -> None:
    """With gain 1 and a quiet verify each pulse is a new normal error: p is the share within the tolerance."""
    sigma, tolerance = 0.7, 0.5  # levels
    error, writes = loop(0.1, WriteVerify(levels=tolerance, most_pulses=most, sigma=0.1), n=N)
    z = tolerance / sigma
    p = math.erf(z / math.sqrt(2))
    density = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    inside = ~writes.outside
    cut = sigma * math.sqrt(1 - 2 * z * density / p)
    assert float(error[inside].std()) == pytest.approx(cut, rel=0.01)
    assert float(error[inside].abs().max()) <= tolerance
    failed = (1 - p) ** most
    assert float(writes.outside.double().mean()) == pytest.approx(failed, rel=0.01, abs=4 * math.sqrt(failed / N))
    assert float(writes.pulses.double().mean()) == pytest.approx((1 - failed) / p, rel=0.01)
    if writes.outside.any():  # the others keep what the last pulse left
        assert float(error[writes.outside].abs().min()) > tolerance
        outer = sigma**2 * (1 + 2 * z * density / (1 - p))
        assert float(error[writes.outside].square().mean()) == pytest.approx(outer, rel=0.02)
    for share in (50, 90):
        expected = next(k for k in range(1, most + 1) if k == most or 1 - (1 - p) ** k >= share / 100)
        assert int(writes.pulses.double().quantile(share / 100, interpolation="higher")) == expected


def test_small_corrections_take_more_pulses() -> None:
    """They creep up to the edge of the tolerance, where new writes fall anywhere inside."""
    anew, little = (
        loop(0.1, WriteVerify(levels=0.06, most_pulses=100, sigma=0.01, gain=gain), high=1) for gain in (1.0, 0.1)
    )
    assert float(little[1].pulses.double().mean()) > 3 * float(anew[1].pulses.double().mean())
    assert not little[1].outside.any()
    assert float(little[0].abs().max()) <= 0.06
    assert 0.06 / math.sqrt(3) < float(little[0].std()) < 0.05
    assert float(anew[0].std()) < 0.03


def test_a_noisy_verify_limits_what_can_be_reached() -> None:
    quiet, noisy = (
        loop(0.1, WriteVerify(levels=0.1, most_pulses=50, sigma=0.02, verify_sigma=s))[0] for s in (0.0, 0.03)
    )
    assert float(quiet.abs().max()) <= 0.1
    assert float(noisy.std()) > 2 * float(quiet.std())


def test_only_chosen_cells_are_verified() -> None:
    chosen = torch.arange(100_000) % 4 == 0
    error, writes = loop(0.1, WriteVerify(levels=0.1, most_pulses=99, sigma=0.05), chosen=chosen)
    assert torch.equal(writes.verified, chosen)
    assert float(error[chosen].abs().max()) <= 0.1
    assert float(error[~chosen].std()) == pytest.approx(0.7, rel=0.02)
    assert (writes.pulses[~chosen] == 1).all()


def test_stuck_cells_take_every_pulse_in_vain() -> None:
    cell = Cell(
        g_min=1e-6, g_max=8e-6, errors=(StuckAt(low=0.1), GaussianCell(sigma=0.1)),
        write_verify=WriteVerify(siemens=0.2e-6, most_pulses=30, sigma=0.1),
    )  # fmt: skip
    found = cell.held(full(3.0, 100_000), draws_of(100_000), 7)
    error = found.levels - 1 - 3  # the pedestal is a level
    stuck = error == -3
    assert float(stuck.double().mean()) == pytest.approx(0.1, rel=0.03)
    assert (found.writes.pulses[stuck] == 30).all()
    assert torch.equal(found.writes.outside & (found.writes.pulses < 30), torch.zeros_like(stuck))
    assert found.writes.outside[stuck].all()
    assert float(error[~found.writes.outside].abs().max()) <= 0.2 + 1e-12  # 0.2 µS of a level of 1 µS


VERIFIED = Cell(errors=(GaussianCell(sigma=0.1),), write_verify=WriteVerify(levels=0.1, most_pulses=30, sigma=0.1))


@pytest.mark.parametrize("weights", [TwosComplementWeight(bits=4), OffsetWeight(bits=4, cell_bits=2)])
def test_pulses_of_a_column(weights) -> None:
    macro = base("v", weights=weights, cell=VERIFIED)
    column = layer_of(macro)
    found = pulses(column)
    cells = len(column.radix) * 53 * 6 + (2 * 53 if weights.kind == "offset" else 0)  # reference cells count once
    assert found.cells == found.verified == cells
    assert found.total == round(found.mean * cells)
    assert found.percentiles[100] <= 30
    assert found.outside < 0.05 if weights.kind == "offset" else True
    assert pulses([column, column]).total == 2 * found.total
    assert str(cells) in str(found)
    mask = torch.zeros(6, 53, dtype=torch.bool)
    mask[2] = True
    some = program(weights_of(macro), macro, CHIP, Site("layer"), verified=mask)
    assert pulses(some).verified == (cells // 6 if weights.kind != "offset" else 2 * 53 + 2 * 53)
    assert pulses(some).total < found.total
    error = (some.weight - weights_of(macro)).abs()
    assert float(error[2].mean()) < 0.7 * float(error[[0, 1, 3, 4, 5]].mean())
    with pytest.raises(ValueError, match=r"layer: verified is torch.bool of shape \(2, 53\); accepted is .* \(6, 53\)"):
        program(weights_of(macro), macro, CHIP, Site("layer"), verified=mask[:2])
    with pytest.raises(ValueError, match="macro plain has no write–verify loop"):
        pulses(layer_of(base("plain")))


def test_a_network_verifies_what_matters_most() -> None:
    macro = base("net", weights=TwosComplementWeight(bits=4, cell_bits=3), cell=VERIFIED)
    torch.manual_seed(1)
    model = convert(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)), macro)
    x = torch.rand(6, 2, 5, 5)
    calibrate(model, [x])
    every = [pulses(programmed(model, name)) for name in layers(model)]
    priority = {name: layer.weight.detach().abs() for name, layer in layers(model).items()}
    verify_writes(model, priority, share=0.25)
    masks = {name: layer.verified for name, layer in layers(model).items()}
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.25 * total)
    least = min(float(priority[name][mask].min()) for name, mask in masks.items() if mask.any())
    assert all(float(priority[name][~mask].max()) <= least for name, mask in masks.items())
    some = [pulses(programmed(model, name)) for name in layers(model)]
    assert sum(p.total for p in some) < sum(p.total for p in every)
    column, name = programmed(model, "0"), "0"
    assert torch.equal(column.verified, layers(model)[name].geometry.matrix(masks[name]))
    verify_writes(model, None)
    assert [pulses(programmed(model, name)) for name in layers(model)] == every
    with pytest.raises(ValueError, match="no layer 'fc' on the macro; there are: 0, 3"):
        verify_writes(model, {"fc": priority["0"]})
    with pytest.raises(ValueError, match=r"0: priority of shape \(3,\)"):
        verify_writes(model, {"0": torch.ones(3)}, 0.1)
    with pytest.raises(ValueError, match=r"share = 1\.5; accepted is 0 … 1"):
        verify_writes(model, priority, 1.5)


# ---------------------------------------------------------------------------------------------------------- read noise


def test_flicker_noise_grows_with_the_logarithm_of_time() -> None:
    noise = FlickerNoise(q=0.01)
    level, state = full(5.0, 1), full(0.5, 1)
    for seconds in (None, 3600.0, YEAR):
        time = 20.0 if seconds is None else seconds
        expected = 5 * 0.01 * math.sqrt(math.log((time + 250e-9) / (2 * 250e-9)))
        assert float(noise.variance(level, state, 7, seconds).sqrt()) == pytest.approx(expected, rel=1e-12)
        part = FlickerNoise(q=0.01, window=1.0)
        whole = part.variance(level, state, 7, seconds) + part.frozen(level, state, 7, seconds)
        assert float(whole.sqrt()) == pytest.approx(expected, rel=1e-12)
        assert float(part.variance(level, state, 7, seconds)) == pytest.approx(25e-4 * math.log(2e6), rel=1e-6)
    assert noise.frozen(level, state, 7, YEAR) is None


@pytest.mark.parametrize(
    "weights", [TwosComplementWeight(bits=4, cell_bits=2), DifferentialWeight(bits=4, cell_bits=2)]
)
def test_noise_by_state_is_as_large_in_both_plans(weights) -> None:
    noise = StateNoise(sigma=StatePolynomial(coefficients=(0.02, 0.1)))
    macro = base("noisy", weights=weights, cell=Cell(read_noise=noise))
    column = layer_of(macro)
    states = weights.levels(weights_of(macro)).double() / weights.level_high  # C L N K
    variance = ((0.02 + 0.1 * states) * weights.level_high) ** 2
    squares = torch.tensor([r**2 for r in column.radix], dtype=torch.float64)
    per_weight = torch.einsum("clnk,c->nk", variance, squares)
    x = inputs_of(macro, batch=1).expand(3000, -1, -1).contiguous()
    digits = macro.inputs.digits(x[:1].double())  # P 1 S K
    power = (digits.square() * torch.tensor(column.pass_radix).double().view(-1, 1, 1, 1) ** 2).sum(0)[0]
    expected = (power @ per_weight.t()).sqrt()  # S N
    for plan in ("folded", "reference"):
        error = read(macro, column=column, x=x, plan=plan).double() - x[:1].double() @ weights_of(macro).double().t()
        assert torch.allclose(error.std(0), expected, rtol=0.06)
        assert float((error.std(0) / expected).mean()) == pytest.approx(1, abs=0.01)
        assert abs(float(error.mean())) < 5 * float(expected.mean()) / 3000**0.5


@pytest.mark.parametrize(
    ("cell", "variance"),
    [
        ({"read_sigma": 0.05}, lambda level, high: (0.05 * high) ** 2),
        (
            {"read_noise": StateNoise(sigma=StatePolynomial(coefficients=(0.02, 0.1)))},
            lambda level, high: (0.02 * high + 0.1 * level) ** 2,
        ),
        (
            {"read_noise": FlickerNoise(q=0.05)},
            lambda level, high: (0.05 * level) ** 2 * math.log((20 + 250e-9) / 500e-9),
        ),
        (
            {"read_noise": FlickerNoise(q=0.05, window=1.0)},
            lambda level, high: (0.05 * level) ** 2 * math.log((1 + 250e-9) / 500e-9),
        ),
    ],
    ids=["one sigma", "by state", "flicker", "flicker in a window"],
)
@pytest.mark.parametrize("plan", ["folded", "reference"])
def test_moments_of_read_noise(cell: dict[str, Any], variance: Any, plan: str) -> None:
    """In closed form, within 1 % over a million reads of one cell; a row driven twice as far is twice as noisy."""
    high = 7
    macro = base(
        "noisy",
        cell=Cell(**cell),
        weights=UnsignedWeight(bits=3, cell_bits=3),
        inputs=UnsignedInput(bits=2, digit_bits=2),
    )
    for level, driven in ((5, 1), (3, 2)):
        column = layer_of(macro, w=torch.tensor([[float(level)]]))
        frozen = float(column.weight.sum()) - level  # slow noise of a window stands still
        x = torch.full((N // 100, 100, 1), driven, dtype=torch.int64)
        reads = read(macro, column=column, x=x, plan=plan).double()
        sigma = driven * math.sqrt(variance(level, high))
        assert float(reads.std()) == pytest.approx(sigma, rel=0.01)
        assert float(reads.mean()) == pytest.approx(driven * (level + frozen), abs=5 * sigma / N**0.5)


def test_the_kernel_says_why_it_leaves_such_noise_out() -> None:
    macro = base("noisy", converter=Adc(bits=8), cell=Cell(read_noise=StateNoise(sigma=0.05)))
    plan = choose(macro)
    assert plan.name == "reference"
    assert "not fused: read noise differs from cell to cell" in plan.why
    assert choose(base("noisy", cell=macro.cell)).name == "folded"
    with pytest.raises(ValueError, match="plan fused cannot run macro noisy: read noise differs"):
        choose(macro, "fused")


def test_equal_states_are_the_noise_that_is_the_same_for_all() -> None:
    """A constant profile gives the very reads of ``read_sigma``, but for the grid of its variances."""
    macro, plain = (
        base("n", converter=Adc(bits=12), cell=cell)
        for cell in (Cell(read_noise=StateNoise(sigma=0.05)), Cell(read_sigma=0.05))
    )
    found, expected = (read(m, plan="reference") for m in (macro, plain))
    assert (found - expected).abs().max() <= 2
    assert float((found == expected).double().mean()) > 0.95


# ---------------------------------------------------------------------------------------------------------- ageing


def aged(macro: Macro, seconds: float, w: torch.Tensor):
    column = program(w, macro, CHIP, Site("layer"))
    return column, age(column, seconds)


def test_exponents_go_by_the_state_programmed() -> None:
    drift = PowerLawDrift(nu=Logarithm(slope=-0.0155, offset=0.0244, low=0.049, high=0.1))
    macro = base("d", weights=TwosComplementWeight(bits=4, cell_bits=3), cell=Cell(drift=drift))
    w = torch.tensor([[1.0, 7.0] * 26])
    _, later = aged(macro, 2e4, w)
    factor = 1000**-0.049
    low = 1000 ** -(-0.0155 * math.log(1 / 7) + 0.0244)
    assert torch.allclose(later.weight, torch.tensor([[low, 7 * factor] * 26]), rtol=1e-3)
    assert low < factor


def test_ageing_is_what_the_macro_would_program() -> None:
    """One meaning of age: of a column, of a macro, of a corner; the same cells at the same draws."""
    macro = presets.load("pcm-128")
    w = weights_of(macro)
    column, later = aged(macro, 86400.0, w)
    for other in (macro.aged(86400.0), macro.at("day")):
        assert torch.equal(program(w, other, CHIP, Site("layer")).cells * 1.0, later.cells)
    assert later.seconds == 86400
    assert later.factor.shape == ()
    assert column.factor is None
    with pytest.raises(ValueError, match=r"macro pcm-128: age of 1 s .* before t0 = 20 s"):
        macro.aged(1.0)
    with pytest.raises(ValueError, match="macro plain: its cells have no drift law"):
        base("plain").aged(100.0)


@pytest.mark.parametrize("name", ["pcm-128", "sonos-128"])
def test_the_typical_die_holds_the_mean(name: str) -> None:
    """What explanations call common to all cells is what they hold on average, drift included."""
    macro = presets.load(name).at("day").model_copy(update={"compensation": None})
    for level in (0.0, 3.0, 15.0):
        w = full(level, 40_000).float().view(200, 200)
        whole, common = (program(w, m, CHIP, Site("layer")) for m in (macro, nominal(macro)))
        each, same = (c.cells[:, 0, :128, :, 0].double() * c.unit for c in (whole, common))
        assert float(same.max() - same.min()) < 1e-9
        assert float(each.mean()) == pytest.approx(float(same.mean()), abs=5 * float(each.std()) / 25_600**0.5 + 1e-9)


def test_noise_alone_may_age() -> None:
    macro = base("f", cell=Cell(read_noise=FlickerNoise(q=0.01)))
    column, later = aged(macro, YEAR, weights_of(macro))
    assert torch.equal(column.weight, later.weight)
    on = column.variance > 0
    grown = math.log(YEAR / 5e-7) / math.log(20 / 5e-7)
    assert torch.allclose(later.variance[on] / column.variance[on], torch.tensor(grown, dtype=torch.float64))


# ------------------------------------------------------------------------------------------------------ compensation


DRIFTING = Cell(drift=PowerLawDrift(nu=0.05))


@pytest.mark.parametrize("per", ["layer", "column"])
@pytest.mark.parametrize(
    "changes",
    [
        {"weights": TwosComplementWeight(bits=4, cell_bits=2)},
        {"weights": OffsetWeight(bits=4, cell_bits=2, subtract="digital"), "inputs": OffsetInput(bits=4, digit_bits=2)},
        {
            "weights": DifferentialWeight(bits=4, cell_bits=3),
            "cell": DRIFTING.model_copy(update={"g_min": 1e-6, "g_max": 9e-6}),
        },
    ],
)
def test_what_all_cells_lose_is_given_back(per, changes) -> None:
    """One exponent for all cells: the compensated product is the young one, also through digital corrections."""
    macro = base("c", **({"cell": DRIFTING, "compensation": Compensation(per=per)} | changes))
    column, later = aged(macro, YEAR, weights_of(macro))
    assert torch.allclose(later.factor, torch.tensor((YEAR / 20) ** 0.05), rtol=1e-4)
    assert later.factor.shape == (() if per == "layer" else (6,))
    assert torch.allclose(later.weight, column.weight, rtol=1e-3, atol=2e-3)
    exact = inputs_of(macro).double() @ weights_of(macro).double().t()
    lost = age(layer_of(macro.model_copy(update={"compensation": None})), YEAR)
    for plan in ("folded", "reference"):
        assert (read(macro, column=later, plan=plan) - exact).abs().max() < 1e-3 * exact.abs().max()
        assert (read(macro, column=lost, plan=plan) - exact).abs().max() > 0.1 * exact.abs().max()


def test_a_factor_an_output_undoes_what_a_factor_a_layer_cannot() -> None:
    """Cells of one output hold low states, which drift faster than the others'."""
    drift = PowerLawDrift(nu=StatePolynomial(coefficients=(0.2, -0.15)))
    macro = base("s", weights=TwosComplementWeight(bits=4, cell_bits=3), cell=Cell(drift=drift))
    w = torch.full((6, 53), 7.0)
    w[2] = 1.0
    errors = {}
    for per in ("layer", "column"):
        _, later = aged(macro.model_copy(update={"compensation": Compensation(per=per)}), YEAR, w)
        errors[per] = float(((later.weight - w) / w).abs().max())
    assert errors["column"] < 2e-3 < 0.3 < errors["layer"]


def test_reference_reads_are_noisy() -> None:
    cell = DRIFTING.model_copy(update={"read_sigma": 0.3})
    w = weights_of(base("n"))
    factors = []
    for reads in (None, 1, 10_000):
        macro = base("n", cell=cell, compensation=Compensation(per="column", reads=reads))
        factors.append(age(program(w, macro, CHIP, Site("layer")), YEAR).factor)
    exact, one, many = factors
    assert float((one - exact).abs().mean()) > 20 * float((many - exact).abs().mean()) > 0
    assert float((many / exact - 1).abs().max()) < 5e-3


@pytest.mark.parametrize("per", ["layer", "column"])
def test_compensated_codes_are_equal_in_kernel_and_reference(per) -> None:
    digital = OffsetWeight(bits=4, cell_bits=2, subtract="digital")
    macro = base("k", weights=digital, compensation=Compensation(per=per),
                 converter=Adc(bits=6, range=CalibratedRange(learn=True), noise=0.3),
                 cell=Cell(errors=(GaussianCell(sigma=0.05),), drift=PowerLawDrift(nu=0.05, nu_sigma=0.02)),
                 )  # fmt: skip
    later = age(layer_of(macro), YEAR)
    x, converters = inputs_of(macro), converters_of(macro)
    keys = Reads(5, CHIP, 0, torch.arange(len(x))).keys("layer")
    keep = Keep(inside=True, step=True)
    runs = [plan.run(x, later, Dense(), keys, converters, keep) for plan in (fused, reference)]
    assert torch.equal(runs[0].y, runs[1].y)
    assert torch.equal(runs[0].step, runs[1].step)
    young = reference.run(x, layer_of(macro), Dense(), keys, converters)
    assert not torch.equal(young.y, runs[1].y)


def test_compensation_scales_codes_not_converters() -> None:
    """y = factor · Σ (low + step · code) + corrections."""
    macro = base("y", converter=Adc(bits=7, range=FullRange()), compensation=Compensation(), cell=DRIFTING)
    later = age(layer_of(macro), YEAR)
    bare = age(layer_of(macro.model_copy(update={"compensation": None})), YEAR)
    found, expected = (read(macro, column=column, plan="reference") for column in (later, bare))
    assert torch.allclose(found, expected * later.factor, rtol=1e-6)


def test_what_cannot_be_compensated() -> None:
    with pytest.raises(ValidationError, match=r"compensation of drift: describe cell\.drift, or measured cells"):
        base("c", compensation=Compensation())
    table = MeasuredCell(table="rram-b", seconds=1.0).table
    late = table.model_copy(update={"seconds": table.seconds[1:], "quantiles": table.quantiles[1:]})
    cell = Cell(errors=(MeasuredCell(table=late, seconds=1.0),))
    with pytest.raises(ValidationError, match="was not measured"):
        base("c", cell=cell, compensation=Compensation())


def test_measured_cells_are_compensated_too() -> None:
    macro = presets.load("rram-a-128").model_copy(update={"compensation": Compensation(per="column")})
    young = macro.model_copy(update={"cell": macro.cell.aged(0.0, 298.15)})
    w = weights_of(macro)
    assert program(w, young, CHIP, Site("layer")).factor is None
    hot = program(w, macro.model_copy(update={"cell": macro.cell.aged(5e3, 533.15)}), CHIP, Site("layer"))
    assert (hot.factor > 1.1).all()
    assert (hot.factor < 10).all()


def test_shared_silicon_ages_as_its_own() -> None:
    macro = base("r", placement=Reload(arrays=2), cell=Cell(drift=PowerLawDrift(nu=0.05, nu_sigma=0.02)))
    column = program(weights_of(macro), macro, CHIP, Site("a", 0, 2))
    assert not torch.equal(age(column, YEAR).cells, column.cells)


def test_a_network_on_drifting_cells() -> None:
    """Without compensation outputs of two layers shrink as the cells do; with it, all but the spread comes back."""
    torch.manual_seed(3)
    layer = nn.Conv2d(2, 16, 3, bias=False)
    net = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(144, 20, bias=False))
    x = torch.rand(16, 2, 5, 5)
    macro = presets.load("pcm-128").model_copy(update={"converter": None})
    scale, lost = {}, {}
    for name, remedy in (("nothing", None), ("layer", Compensation()), ("column", Compensation(per="column"))):
        model = convert(net, macro.model_copy(update={"compensation": remedy}))
        calibrate(model, [x])
        silicon(model).begin(torch.arange(16))
        with torch.no_grad():
            young = model(x)
            use(model, lambda m: m.aged(YEAR))
            silicon(model).begin(torch.arange(16))
            old = model(x)
        scale[name] = float((old * young).sum() / young.square().sum())
        lost[name] = float((old - young).norm() / young.norm())
    assert scale["nothing"] == pytest.approx((YEAR / 20) ** (-2 * 0.049), rel=0.1)
    assert scale["layer"] == pytest.approx(1, abs=0.15)
    assert scale["column"] == pytest.approx(1, abs=0.15)
    assert max(lost["layer"], lost["column"]) < 0.6 * lost["nothing"]


def test_numbers_stay_numbers_in_a_configuration() -> None:
    drift = PowerLawDrift(nu=0.05)
    assert drift.model_dump(mode="json")["nu"] == 0.05
    assert drift.nu == StateConstant(value=0.05)
    assert LogTimeDrift.model_validate({"mu": -1e-3}).mu == StateConstant(value=-1e-3)
