"""D-MAC-EM: tables from logs, what covers them, what of them is frozen, the Gaussian rival, and how many reads do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitline.encode import UnsignedInput, UnsignedWeight
from bitline.macro import Chip, Dense, Macro, Plan, Reads, Site, choose, ideal, mac, program, simulate
from bitline.macro.dmacem import coverage, fit_gaussian, split_table
from bitline.macro.enough import distance, expected_distance, learning_curve, reads_for
from bitline.macro.fused import native
from bitline.macro.kinds import TableColumn
from bitline.macro.read import Converters
from bitline.macro.tables import count_codes, falls, fit_table
from bitline.report.error_tables import table_picture
from bitline.samples import Samples
from contracts import table

CODES = 128
PLANS = ["reference", *(["fused"] if native.missing() is None else [])]


def skewed(codes: int = CODES, compression: float = 0.15, spread: float = 2.5) -> np.ndarray:
    """A law of the D-NAT macro's kind: compressed at large sums, wider there, with a tail to one side only."""
    i, j = np.arange(codes)[:, None], np.arange(codes)
    mean = i - compression * i**2 / (codes - 1)
    sigma = 0.5 + spread * i / (codes - 1)
    z = (j - mean) / sigma
    p = np.exp(-0.5 * np.where(z > 0, z / 0.6, z / 1.6) ** 2)
    return p / p.sum(1, keepdims=True)


def drawn(law: np.ndarray, pairs: int, seed: int = 3) -> Samples:
    """Pairs with ideal codes uniform, codes drawn from ``law`` by its cumulative sums."""
    generator = np.random.default_rng(seed)
    codes = len(law)
    ideal_code = generator.integers(0, codes, pairs)
    edges = (law.cumsum(1) + np.arange(codes)[:, None]).ravel()
    code = np.searchsorted(edges, ideal_code + generator.random(pairs)) - ideal_code * codes
    return Samples(ideal=ideal_code, code=np.clip(code, 0, codes - 1))


# ------------------------------------------------------------------------------------------------- A2.1: round trip


def test_a_known_table_comes_back_from_four_million_pairs() -> None:
    law = skewed()
    fitted = fit_table(drawn(law, 4_000_000), codes=CODES)
    away = 0.5 * np.abs(fitted.probability[0] - law).sum(1)
    print(f"largest total variation of a row {away.max():.4f}, mean {away.mean():.4f}")
    assert away.max() <= 0.02
    assert len(falls(fitted)) == 0
    assert fitted.mean[0] == pytest.approx(law @ np.arange(CODES), abs=0.06)
    assert fitted.deviation[0] == pytest.approx(
        np.sqrt(law @ np.arange(CODES) ** 2 - (law @ np.arange(CODES)) ** 2), abs=0.05
    )


# ------------------------------------------------------------------------------------------------- A2.2: the sampler


def read_codes(law: np.ndarray, reads: int, plan: str, **more: object) -> np.ndarray:
    """Codes read for each ideal code through ``mac``: (codes, reads). A weight a row group: each sum is one row's."""
    codes = len(law)
    macro = Macro.model_validate(
        {
            "name": "m",
            "rows": 1,
            "columns": 4,
            "inputs": UnsignedInput(bits=7, digit_bits=7),
            "weights": UnsignedWeight(bits=1),
            "column": TableColumn(probability=law, **more),
        }
    )
    column = program(torch.ones(4, 1), macro, Chip(3, 1), Site("layer"))
    x = torch.arange(codes).float().view(1, codes, 1).expand(reads // 4, codes, 1)
    keys = Reads(7, Chip(3, 1), 0, torch.arange(reads // 4)).keys("layer")
    y = mac(x.contiguous(), column, Dense(), keys, plan=Plan(plan))
    return y.permute(1, 0, 2).reshape(codes, -1).numpy().astype(np.int64)


def p_value(observed: np.ndarray, expected: np.ndarray) -> float:
    """Of Pearson's chi-square, codes expected less than ten times taken together."""
    rare = expected < 10
    seen = np.append(observed[~rare], observed[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    if wanted[-1] < 1e-6:
        assert seen[-1] == 0
        seen, wanted = seen[:-1], wanted[:-1]
    chi2 = ((seen - wanted) ** 2 / wanted).sum()
    freedom = torch.tensor((len(wanted) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, torch.tensor(chi2 / 2)))


def holm(values: np.ndarray) -> float:
    """Smallest of the p-values, corrected for their number (Holm, 1979)."""
    ordered = np.sort(values)
    return float(np.minimum(1, ordered * np.arange(len(values), 0, -1)).min())


@pytest.mark.parametrize("plan", PLANS)
def test_codes_are_drawn_from_the_table(plan: str) -> None:
    law = skewed()
    reads = 40_000
    found = read_codes(law, reads, plan)
    counts = np.stack([np.bincount(row, minlength=CODES) for row in found])
    p = holm(np.array([p_value(seen, reads * row) for seen, row in zip(counts, law, strict=True)]))
    planted = law.copy()  # 2 % of the reads of every code read one code lower
    planted[:, :-1] += 0.02 * law[:, 1:]
    planted[:, 1:] -= 0.02 * law[:, 1:]
    wrong = holm(np.array([p_value(seen, reads * row) for seen, row in zip(counts, planted, strict=True)]))
    print(f"{plan}: p = {p:.3f}, against a table with 2 % moved {wrong:.1e}")
    assert p > 0.01
    assert wrong < 0.01


@pytest.mark.parametrize("plan", PLANS)
def test_the_identity_is_ideal_cim(plan: str) -> None:
    macro = Macro.model_validate(
        {
            "name": "m",
            "rows": 20,
            "columns": 16,
            "inputs": UnsignedInput(bits=4, digit_bits=2),
            "weights": UnsignedWeight(bits=2, cell_bits=1),
            "column": TableColumn(probability=np.eye(16), step=4.0),
        }
    )
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 16, (9, 5, 47), generator=generator).float()
    w = torch.randint(0, 4, (8, 47), generator=generator).float()
    keys = Reads(7, Chip(3, 1), 0, torch.arange(9)).keys("layer")
    exact = Converters(torch.tensor(0.0), torch.tensor(4.0))
    y = mac(x, program(w, macro, Chip(3, 1), Site("layer")), Dense(), keys, plan=Plan(plan))
    paper = mac(x, program(w, ideal(macro), Chip(3, 1), Site("layer")), Dense(), keys, exact, plan=Plan("reference"))
    assert torch.equal(y.double(), paper.double())
    assert not torch.equal(y, x @ w.T)  # codes four counts wide


# ----------------------------------------------------------------------------------------- banks, coverage, monotone


def columns_apart(columns: int = 12, reads: int = 400, bank: int = 4, codes: int = 16) -> tuple[Samples, np.ndarray]:
    """Columns of three banks with offsets of -2, 0 and 2 codes, and ±0.3 codes of fresh noise."""
    generator = np.random.default_rng(1)
    axes = (np.arange(n) for n in (columns, codes, reads))
    column, code, _ = (a.ravel() for a in np.meshgrid(*axes, indexing="ij"))
    offset = 2 * (column // bank) - 2
    read = code + offset + np.round(0.4 * generator.standard_normal(len(code))).astype(np.int64)
    return Samples(ideal=code, code=np.clip(read, 0, codes - 1), column=column), offset


def test_a_table_a_bank() -> None:
    samples, _ = columns_apart()
    fitted = fit_table(samples, "bank", bank=4, codes=16, assign="physical")
    assert fitted.probability.shape == (3, 16, 16)
    assert fitted.mean[:, 8] == pytest.approx([6, 8, 10], abs=0.05)
    macro = Macro.model_validate(
        {
            "name": "m", "rows": 4, "columns": 12, "inputs": UnsignedInput(bits=4, digit_bits=4),
            "weights": UnsignedWeight(bits=1), "column": fitted,
        }
    )  # fmt: skip
    found = simulate(macro, Chip(1, 0), 12, 400, (8,)).code.reshape(400, 12).mean(0)
    assert found == pytest.approx(np.repeat([6, 8, 10], 4), abs=0.15)
    drawn_banks = fitted.model_copy(update={"assign": "drawn"})
    means = [
        simulate(macro.model_copy(update={"column": drawn_banks}), Chip(1, chip), 12, 100, (8,))
        .code.reshape(100, 3, 4)
        .mean(0)
        for chip in range(6)
    ]
    assert all(np.ptp(of_bank) < 0.5 for mean in means for of_bank in mean)  # columns of a bank share a table
    assert len({tuple(np.round(mean[:, 0])) for mean in means}) > 1  # and dies differ
    with pytest.raises(ValueError, match="bank = None"):
        fit_table(samples, "bank", codes=16)
    some = fit_table(samples.select(column=[0, 1, 8, 9]), "bank", bank=4, codes=16, assign="physical")
    assert some.places == (0, 2)
    with pytest.raises(ValueError, match="bank 1 was never read, and the macro has a conversion there"):
        simulate(macro.model_copy(update={"column": some}), Chip(1, 0), 12, 4, (8,))
    with pytest.raises(ValueError, match=r"column.bank = 5 does not divide columns = 12"):
        Macro.model_validate(macro.dump() | {"column": {**fitted.model_dump(), "bank": 5}})


def test_what_is_not_covered_is_named() -> None:
    samples, _ = columns_apart()
    kept = samples.ideal < 10
    part = Samples(ideal=samples.ideal[kept], code=samples.code[kept], column=samples.column[kept])
    found = coverage(part, "bank", bank=4, codes=16, reach=3)
    assert found.missing.sum() == 3 * 3
    assert found.borrowed.sum() == 3 * 3
    assert "chip 0, bank 2: ideal codes not read and without a neighbour in reach: 13–15; borrowed" in found.text()
    assert "10–12" in found.text()
    with pytest.raises(ValueError, match="chip 0, bank 0: ideal code 13 was read 0 times"):
        fit_table(part, "bank", bank=4, codes=16, reach=3)
    assert coverage(samples, codes=16).text().endswith("all codes covered")


def test_falls_beyond_chance_are_told_from_accidents() -> None:
    law = np.eye(16)
    law[[8, 9]] = law[[9, 8]]
    found = coverage(drawn(0.98 * law + 0.02 / 16, 16 * 100), codes=16)
    assert found.falls.tolist() == [[0, 8]]
    assert "mean code falls after: 8" in found.text()
    flat = np.full((16, 16), 1 / 16)  # every fall is chance
    samples = drawn(flat, 16 * 100)
    assert len(falls(fit_table(samples, codes=16)))
    assert len(coverage(samples, codes=16).falls) == 0


# --------------------------------------------------------------------------------------------------- frozen and fresh


def test_frozen_and_fresh_are_split() -> None:
    samples, offset = columns_apart(reads=60)
    middle = samples.select(ideal=list(range(4, 12)))
    found = split_table(middle, codes=16, reach=16)
    assert found.columns.probability.shape == (12, 16, 16)
    assert found.shift[:, 8] == pytest.approx(np.repeat([-2, 0, 2], 4), abs=0.3)
    assert np.isnan(found.shift[:, 0]).all()
    fresh = np.sqrt(np.mean((middle.code - middle.ideal - offset[np.isin(samples.ideal, range(4, 12))]) ** 2))
    assert found.fresh.deviation[0, 8] == pytest.approx(fresh, rel=0.1)
    assert found.share == pytest.approx(8 / 3 / (8 / 3 + fresh**2), abs=0.06)
    pooled = fit_table(middle, codes=16, reach=16)
    assert pooled.deviation[0, 8] > 3 * found.fresh.deviation[0, 8]
    with pytest.raises(ValueError, match="do not tell columns apart"):
        split_table(Samples(ideal=samples.ideal, code=samples.code), codes=16)


# ------------------------------------------------------------------------------------------------------- the rival


def test_the_gaussian_of_a_gaussian_is_itself() -> None:
    known = table(CODES, 3.0)[0]
    samples = drawn(known, 1_000_000)
    for spread in ("one", "converters"):
        fitted = fit_gaussian(samples, codes=CODES, spread=spread)
        away = distance(fitted, TableColumn(probability=known))[0]
        assert away[20:-20].max() < 0.03
        assert fitted.deviation[0, 64] == pytest.approx(3.0, rel=0.03)


def test_the_gaussian_keeps_the_variance_and_misses_the_shape() -> None:
    law = skewed()
    samples = drawn(law, 1_000_000)
    reads = count_codes(samples, codes=CODES).reads[0]
    measured = fit_table(samples, codes=CODES)
    one = fit_gaussian(samples, codes=CODES, spread="one")
    inside = slice(20, 100)
    ends = measured.probability[0, :, [0, -1]].sum(0)
    pooled = np.sqrt(np.average(measured.deviation[0] ** 2, weights=reads * (ends <= 1e-3)))
    assert one.deviation[0, inside] == pytest.approx(pooled, rel=0.01)
    assert one.mean[0, inside] == pytest.approx(np.arange(CODES)[inside], abs=1e-6)  # zero mean: no compression
    both = fit_gaussian(samples, codes=CODES)
    assert both.deviation[0, inside] == pytest.approx(measured.deviation[0, inside], rel=0.25)
    rms = fit_gaussian(samples, codes=CODES, spread="one", match="rms")
    assert rms.deviation[0, 64] > 1.5 * one.deviation[0, 64]
    true = TableColumn(probability=law)
    assert distance(measured, true).max() < 0.05 < 0.4 < distance(both, true)[0, 100:].min()


# --------------------------------------------------------------------------------------------------- how many reads


def test_the_error_falls_as_predicted_and_reaches_the_tolerance() -> None:
    law = skewed(32)
    samples = drawn(law, 600_000)
    found = learning_curve(samples, (1000, 10_000, 100_000), codes=32, score=lambda column: float(column.mean[0, 20]))
    print(found.text())
    assert found.mean == pytest.approx(found.expected, rel=0.12)
    assert found.mean[0] > 2.5 * found.mean[1] > 5 * found.mean[2]
    assert found.score is not None
    assert found.score[-1] == pytest.approx(float(law[20] @ np.arange(32)), abs=0.05)
    assert abs(found.score[-1] - found.held_out) < 0.05
    needed = reads_for(TableColumn(probability=law), 0.03)[0]
    generator = np.random.default_rng(0)
    for code in (2, 15, 31):
        fits = generator.multinomial(needed[code], law[code], size=400) / needed[code]
        assert (0.5 * np.abs(fits - law[code]).sum(1)).mean() == pytest.approx(0.03, rel=0.1)
        assert expected_distance(law[code], np.array(float(needed[code]))) == pytest.approx(0.03, rel=0.1)
    with pytest.raises(ValueError, match="numbers from 1 to 300000"):
        learning_curve(samples, (400_000,), codes=32)


# ---------------------------------------------------------------------------------------------------- picture, plans


def test_the_picture_shows_both() -> None:
    samples = drawn(skewed(32), 100_000)
    measured, gaussian = fit_table(samples, codes=32), fit_gaussian(samples, codes=32)
    svg = table_picture([("measured", measured), ("fitted Gaussian", gaussian)], "a <macro>")
    assert svg.startswith("<svg")
    assert "a &lt;macro&gt;" in svg
    assert "fitted Gaussian" in svg
    assert svg.count('class="mean"') == 2
    assert svg.count('class="cell"') >= 8
    assert len(svg) < 60_000
    with pytest.raises(ValueError, match="one shape"):
        table_picture([("a", measured), ("b", TableColumn(probability=np.eye(4)))])


def test_table_macros_run_fused() -> None:
    macro = Macro.model_validate(
        {
            "name": "m", "rows": 8, "columns": 8, "inputs": UnsignedInput(bits=2, digit_bits=2),
            "weights": UnsignedWeight(bits=1), "column": TableColumn(probability=skewed(16)),
        }
    )  # fmt: skip
    assert choose(macro).name == PLANS[-1]
