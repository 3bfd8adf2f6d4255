"""Converters and drivers, against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bitline.converters import Adc, CalibratedRange, Driver, FixedRange, FullRange
from bitline.macro import Chip, Converters, Dense, Macro, Plan, Reads, Site, mac, program

CPU = torch.device("cpu")
CHIP = Chip(0, 0)


def macro(adc: Adc, rows: int = 60, columns: int = 12, sharing: int = 1, **more: object) -> Macro:
    """One count a row: the sum is the number of rows driven whose weight is one."""
    return Macro.model_validate(
        {
            "name": "counting",
            "rows": rows,
            "columns": columns,
            "columns_per_adc": sharing,
            "inputs": {"kind": "unsigned", "bits": 1},
            "weights": {"kind": "unsigned", "bits": 1},
            "converter": adc,
            **more,
        }
    )


def transfer(
    adc: Adc, outputs: int = 1, chip: Chip = CHIP, rows: int = 60, reads: int = 1, **more: object
) -> np.ndarray:
    """Value read for sums 0 … rows, (sums · reads, outputs)."""
    design = macro(adc, rows, **more)
    column = program(torch.ones(outputs, rows), design, chip, Site("layer"))
    x = torch.tril(torch.ones(rows + 1, rows), -1).repeat(reads, 1)
    low, step = adc.range.start(adc, *design.value_range)
    keys = Reads(0, chip, 0, torch.arange(len(x))).keys("layer")
    y = mac(
        x[:, None], column, Dense(), keys, Converters(torch.tensor(low), torch.tensor(step)), plan=Plan("reference")
    )
    return y[:, 0].double().numpy()


def normals(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


SUMS = np.arange(61.0)


# ----------------------------------------------------------------------------------------------------------- ranges


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8])
def test_half_up_over_a_fixed_range(bits):
    adc = Adc(bits=bits, range=FixedRange(low=4, high=4 + 2.5 * (2**bits - 1)))
    code = np.clip(np.floor((SUMS - 4) / 2.5 + 0.5), 0, 2**bits - 1)
    assert np.allclose(transfer(adc)[:, 0], 4 + 2.5 * code, rtol=1e-6)


def test_full_range_covers_whole_counts():
    assert np.array_equal(transfer(Adc(bits=6))[:, 0], SUMS)
    assert np.array_equal(transfer(Adc(bits=16))[:, 0], SUMS)
    coarse = transfer(Adc(bits=4))[:, 0]
    assert np.allclose(coarse, np.floor(SUMS / 4 + 0.5) * 4)


def test_starts_of_ranges():
    adc = Adc(bits=8)
    assert FullRange().start(adc, 0.0, 100.0) == (0.0, 1.0)
    assert FullRange().start(adc, 0.0, 510.0) == (0.0, 2.0)
    assert FullRange().start(adc, -100.0, 100.0) == (-128.0, 1.0)
    low, step = FullRange().start(adc, -1000.0, 1000.0)
    assert low / step == -128
    assert low <= -1000
    assert low + 255 * step >= 1000
    assert FixedRange(low=1, high=52).start(adc, 0, 9) == (1.0, 0.2)
    assert CalibratedRange().start(adc, 0.0, 51.0) == pytest.approx((0.0, 0.2))
    with pytest.raises(ValueError, match="1-bit converter"):
        FullRange().start(Adc(bits=1), -1.0, 1.0)


def test_bipolar_halves_round_up():
    """-0.5, 0.5 and 1.5 steps go to 0, 1 and 2."""
    adc = Adc(bits=4, range=FixedRange(low=-16, high=14))
    design = macro(adc, weights={"kind": "differential", "bits": 2})
    column = program(torch.tensor([[1.0] * 30 + [-1.0] * 30]), design, Chip(0, 0), Site("layer"))
    x = torch.zeros(5, 1, 60)
    for i, (up, down) in enumerate([(0, 1), (1, 0), (3, 0), (0, 3), (30, 0)]):
        x[i, 0, :up], x[i, 0, 30 : 30 + down] = 1, 1
    y = mac(x, column, Dense(), None, Converters(torch.tensor(-16.0), torch.tensor(2.0)))
    assert y.flatten().tolist() == [0, 2, 4, -2, 14]


# ------------------------------------------------------------------------------------------------------------ errors


def test_gain_and_offset():
    adc = Adc(bits=12, gain_sigma=0.02, offset_sigma=5.0, range=FixedRange(low=0, high=409.5))
    y = transfer(adc, outputs=2000, columns=2000, rows=40)
    places = y[:, :] / 0.1
    gain = (places[40] - places[0]) / 400
    seen = places[0] > 0  # clipped at the first code otherwise
    assert gain[seen].std() == pytest.approx(0.02, rel=0.1)
    assert gain[seen].mean() == pytest.approx(1, abs=4 * 0.02 / seen.sum() ** 0.5)
    assert (places[0] > 0).mean() == pytest.approx(0.46, abs=0.05)
    assert np.sqrt((places[0][seen] ** 2).mean()) == pytest.approx(5.0, rel=0.1)


@pytest.mark.parametrize("bits", [1, 2, 5, 10])
def test_random_steps_rise_and_end_at_the_end_points(bits):
    dnl = normals(500, 2**bits - 2)
    wild = Adc(bits=bits, dnl_sigma=0.5).thresholds(dnl, CPU)
    edges = Adc(bits=bits, dnl_sigma=0.1).thresholds(dnl, CPU)
    for each in (wild, edges):
        assert each.shape == (500, 2**bits - 1)
        assert (each.diff(dim=1) >= 0).all()
    assert torch.allclose(edges[:, 0], torch.tensor(0.5))
    assert torch.allclose(edges[:, -1], torch.tensor(2**bits - 1.5), atol=1e-3)


def test_random_steps_have_their_sigma():
    edges = Adc(bits=8, dnl_sigma=0.1).thresholds(normals(4000, 254), CPU).double()
    assert float((edges.diff(dim=1) - 1).std()) == pytest.approx(0.1, rel=0.02)
    inl = (edges - torch.arange(255) - 0.5)[:, 127]
    assert float(inl.std()) == pytest.approx(0.1 * np.sqrt(127 * 127 / 254), rel=0.05)  # Brownian bridge


def test_one_bit_with_random_steps():
    adc = Adc(bits=1, dnl_sigma=0.2, range=FixedRange(low=0, high=40))
    assert np.array_equal(transfer(adc)[:, 0], np.where(SUMS >= 20, 40, 0))


def test_common_inl():
    curve = (0.0, 1.5, -0.7, 0.0)
    edges = Adc(bits=6, inl=curve).thresholds(None, CPU)[0].double().numpy()
    at = np.arange(63)
    oracle = at + 0.5 + np.interp(at / 62 * 3, np.arange(4), curve)
    assert np.allclose(edges, np.maximum.accumulate(oracle), atol=1e-5)
    y = transfer(Adc(bits=6, inl=curve))[:, 0]
    assert np.array_equal(y, np.searchsorted(oracle, SUMS, side="right"))


def test_uneven_levels():
    rng = np.random.default_rng(0)
    levels = np.r_[0, np.sort(rng.uniform(0.02, 0.98, 14)), 1]
    y = transfer(Adc(bits=4, levels=tuple(levels), range=FixedRange(low=0, high=60)))[:, 0]
    nearest = levels[np.abs(SUMS[:, None] / 60 - levels).argmin(1)] * 60
    assert np.allclose(y, nearest, rtol=1e-5, atol=1e-4)


def test_even_levels_are_the_plain_converter():
    levels = tuple(i / 31 for i in range(32))
    span = FixedRange(low=0, high=62)
    plain, uneven = (transfer(Adc(bits=5, range=span, levels=given))[:, 0] for given in (None, levels))
    assert np.array_equal(plain[::2], uneven[::2])  # in between lie the edges, where a level's rounding decides
    assert np.abs(plain - uneven).max() <= 2


def test_noise_is_as_large_as_stated():
    adc = Adc(bits=16, noise=3.0, range=FixedRange(low=-327.68, high=327.67))
    y = transfer(adc, outputs=8, reads=300, rows=40).reshape(300, 41, 8)
    error = (y - np.arange(41.0)[:, None]) / 0.01
    assert error.std() == pytest.approx(np.hypot(3.0, 12**-0.5), rel=0.01)
    assert abs(error.mean()) < 4 * 3 / error.size**0.5
    flat = error.reshape(300, -1)
    assert np.abs(np.corrcoef(flat[:, :40].T) - np.eye(40)).max() < 5 / 300**0.5


def test_shared_converters_share_their_errors():
    """Five columns to a converter: columns of one converter read alike, of two not."""
    adc = Adc(bits=6, gain_sigma=0.05, offset_sigma=2.0, dnl_sigma=0.2)
    y = transfer(adc, outputs=20, columns=23, sharing=5)
    group = np.arange(20) // 5
    for a in range(20):
        for b in range(20):
            assert np.array_equal(y[:, a], y[:, b]) == (group[a] == group[b])


def test_converters_of_arrays_differ():
    y = transfer(Adc(bits=6, offset_sigma=2.0), outputs=8, columns=4, sharing=4)
    assert np.array_equal(y[:, 0], y[:, 3])
    assert not np.array_equal(y[:, 0], y[:, 4])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bits": 17}, "less than or equal to 16"),
        ({"bits": 2, "levels": [0, 0.5, 1]}, "3 given, 2\\^bits = 4 needed"),
        ({"bits": 2, "levels": [0, 0.5, 0.5, 1]}, "must rise"),
        ({"bits": 2, "levels": [0, 0.4, 0.5, 0.9]}, "from 0 to 1, not 0 to 0.9"),
        ({"bits": 2, "range": {"kind": "fixed", "low": 3, "high": 3}}, "low = 3 must be below high = 3"),
        ({"bits": 2, "range": {"kind": "auto"}}, "'full', 'fixed', 'calibrated'"),
        ({"bits": 2, "noise": 0}, "greater than 0"),
    ],
)
def test_bad_converters(config, message):
    with pytest.raises(ValidationError, match=message):
        Adc.model_validate(config)


# ----------------------------------------------------------------------------------------------------------- drivers


def driven(driver: Driver, rows: int = 4, chip: Chip = CHIP) -> np.ndarray:
    """What each row reads for digits 0 … 7, (digits, rows)."""
    design = Macro.model_validate(
        {
            "name": "driven",
            "rows": rows,
            "columns": rows,
            "inputs": {"kind": "unsigned", "bits": 3, "digit_bits": 3},
            "weights": {"kind": "unsigned", "bits": 1},
            "driver": driver,
        }
    )
    column = program(torch.eye(rows), design, chip, Site("layer"))
    x = torch.arange(8.0)[:, None, None].expand(8, 1, rows)
    return mac(x, column, Dense())[:, 0].double().numpy()


def test_driver_levels():
    levels = (0.0, 1.1, 1.9, 3.2, 4.0, 4.9, 6.0, 6.8)
    assert np.allclose(driven(Driver(levels=levels)), np.array(levels)[:, None], atol=1e-5)


def test_driver_curve():
    at = np.arange(8)
    expected = at + np.interp(at / 7 * 2, [0, 1, 2], [0.0, 0.4, -0.1])
    assert np.allclose(driven(Driver(inl=(0.0, 0.4, -0.1)))[:, 0], expected, atol=1e-5)


def test_drivers_apart():
    y = driven(Driver(inl_sigma=0.1), rows=600) - np.arange(8)[:, None]
    assert (y[0] == 0).all()  # a row that is off
    assert y[1:].std() == pytest.approx(0.1, rel=0.04)
    assert abs(np.corrcoef(y[1:])[0, 1:]).max() < 4.5 / 600**0.5
    assert np.array_equal(y, driven(Driver(inl_sigma=0.1), rows=600) - np.arange(8)[:, None])


def test_wrong_number_of_driver_levels():
    with pytest.raises(ValueError, match=r"driver\.levels: 3 given, digits 0 to 7 need 8"):
        driven(Driver(levels=(0, 1, 2)))


def test_the_step_learns_by_lsq() -> None:
    """Gradient of a learned step (Esser et al., 2020): code - place inside the range, the code itself where clipped."""
    macro = Macro.model_validate(
        {
            "name": "m",
            "rows": 5,
            "columns": 8,
            "inputs": {"kind": "unsigned", "bits": 2, "digit_bits": 2},
            "weights": {"kind": "unsigned", "bits": 2, "cell_bits": 2},
            "converter": {"bits": 3, "range": {"kind": "calibrated", "learn": True}},
        }
    )
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 4, (6, 2, 13), generator=generator).float()
    w = torch.randint(0, 4, (3, 13), generator=generator).float()
    column = program(w, macro, Chip(0, 0), Site("l"))
    step = torch.tensor(2.3, requires_grad=True)
    weights = torch.rand(6, 2, 3, generator=generator)
    (mac(x, column, Dense(), None, Converters(torch.zeros(()), step)) * weights).sum().backward()
    expected = 0.0
    for start in range(0, 13, 5):
        place = x[..., start : start + 5] @ w[:, start : start + 5].t() / 2.3
        code = (place + 0.5).floor().clamp(0, 7)
        expected += float((weights * torch.where((place + 0.5).floor() == code, code - place, code)).sum())
    assert float(step.grad) == pytest.approx(expected, rel=1e-5)
