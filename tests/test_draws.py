"""Random numbers: published words, distributions, independence of all that is meant to be independent."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bitline import draws
from bitline.macro import Chip, Reads

N = 1_000_000
WORDS = 250_000
HALF = draws.LANES
SIGNS = 0x0000FFFF0000FFFF  # bits of a word that are signs
MASK = 2**64 - 1


def counters(stream: int, words: int = WORDS) -> torch.Tensor:
    """States of the first words of a stream, as plans make them."""
    return torch.arange(words) * draws.GOLDEN + stream


def fresh(stream: int, words: int = WORDS) -> np.ndarray:
    """(words, 32) draws of one stream, float64."""
    return draws.read_normals(counters(stream, words)).view(words, 2 * HALF).numpy().astype(np.float64)


def state_of(word: int) -> int:
    """The counter whose word this is: SplitMix64's finaliser, undone."""

    def unshift(z: int, by: int) -> int:
        back = z
        for _ in range(64 // by):
            back = z ^ (back >> by)
        return back

    z = unshift(word, 31) * pow(0x94D049BB133111EB, -1, 1 << 64) & MASK
    z = unshift(z, 27) * pow(0xBF58476D1CE4E5B9, -1, 1 << 64) & MASK
    return unshift(z, 30)


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each column of a with each of b."""
    a, b = ((v - v.mean(0)) / v.std(0) for v in (a, b))
    return a.T @ b / len(a)


# ------------------------------------------------------------------------------------------------------ distributions

FROZEN = draws.normal(77, torch.arange(N)).numpy()
FRESH = fresh(78).ravel()  # 8 million


@pytest.mark.parametrize("values", [FROZEN, FRESH[:N], FRESH], ids=["frozen", "fresh", "8 million fresh"])
def test_normals(values):
    n = len(values)
    assert abs(values.mean()) < min(4 / n**0.5, 0.005)
    assert abs(values.std() - 1) < min(4 * 0.5**0.5 / n**0.5, 0.005)
    assert abs(stats.skew(values)) < 4 * (6 / n) ** 0.5
    assert abs(stats.kurtosis(values)) < 4 * (24 / n) ** 0.5
    assert stats.kstest(values, "norm").pvalue > 0.01
    for sigma in (1.0, 2.0, 3.0, 3.5, 4.0):
        share = stats.norm.sf(sigma)
        for tail in (values > sigma, values < -sigma):
            assert abs(tail.sum() - n * share) < 4 * math.sqrt(n * share)


def test_the_table_of_magnitudes():
    table = draws.magnitudes(torch.device("cpu")).double()
    assert table.shape == (4096, HALF)
    quantiles = table.flatten().sort().values.numpy()
    exact = stats.norm.isf((np.arange(65536)[::-1] + 0.5) / 131072)
    assert np.abs(quantiles / exact - 1).max() < 1e-5  # float32, and scaled to unit variance
    assert float(table.square().mean()) == pytest.approx(1, abs=1e-6)
    assert float(table.pow(4).mean()) == pytest.approx(3, abs=0.005)
    assert float(table.min()) > 0
    assert float(table.max()) == pytest.approx(4.4754, abs=1e-3)  # in the middle of the last of the bins


@pytest.mark.parametrize("lane", range(HALF))
def test_each_lane_alone_is_normal(lane):
    """Whatever the place of an output in its vector, its noise has the same distribution.

    A lane has one magnitude of each 16 neighbours, 4096 in all: its own tail comes in steps of 1/8192, and its
    largest magnitude, the same at every read, lies between 3.67 and 4.48.
    """
    column = draws.magnitudes(torch.device("cpu"))[:, lane].double().numpy()
    assert np.square(column).mean() == pytest.approx(1, abs=0.002)
    assert 3.66 < column.max() < 4.48
    assert stats.kstest(np.r_[column, -column], "norm").statistic < 1.01 / len(column)  # of 4096 magnitudes at best 0.5
    drawn = fresh(5).reshape(-1, HALF)[:, lane]
    assert abs(drawn.mean()) < 4 / len(drawn) ** 0.5
    assert drawn.var() == pytest.approx(1, abs=0.005)
    assert stats.kstest(drawn, "norm").pvalue > 0.001


def test_a_word_and_its_draws():
    """Bit l of a half is the sign of its lane l, bits 16 … 27 choose the magnitudes."""
    table = draws.magnitudes(torch.device("cpu")).numpy()
    seen = fresh(9, 100)
    for word, row in zip(draws.words(9, torch.arange(100)).tolist(), seen, strict=True):
        for half in range(2):
            bits = (word & MASK) >> 32 * half & 0xFFFFFFFF
            signs = np.array([-1.0 if bits >> lane & 1 else 1.0 for lane in range(HALF)])
            assert np.array_equal(row[half * HALF : (half + 1) * HALF], signs * table[bits >> 16 & 4095])


def test_fresh_normals_are_exactly_symmetric():
    """Words that differ in the bits of signs alone draw the same, with the other sign."""
    every_row = torch.tensor([signed(state_of(row << 48 | (4095 - row) << 16 | row)) for row in range(4096)])
    opposite = torch.tensor(
        [signed(state_of((row << 48 | (4095 - row) << 16 | row) ^ SIGNS)) for row in range(4096)]
    )  # fmt: skip
    there, back = draws.read_normals(every_row.clone()), draws.read_normals(opposite)
    assert torch.equal(there, -back)
    size, order = there.abs().view(4096, 2, HALF), torch.arange(4096)
    table = draws.magnitudes(torch.device("cpu"))
    assert torch.equal(size[:, 1], table)
    assert torch.equal(size[:, 0], table[4095 - order])


def test_uniforms():
    values = draws.uniform(5, torch.arange(N)).numpy()
    assert values.min() > 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 0.01


@pytest.mark.parametrize("shift", [24, 12, 0], ids=["high byte", "middle", "low byte"])
def test_words_are_uniform(shift):
    found = draws.read_words(counters(6, N // 2))
    assert len(found) == N
    assert int(found.min()) >= 0
    assert int(found.max()) < 1 << 32
    assert stats.chisquare(np.bincount((found >> shift & 255).numpy(), minlength=256)).pvalue > 0.01
    pairs = (found >> shift & 15).view(-1, 2).numpy()  # both of a word
    assert stats.chisquare(np.bincount(pairs @ np.array([16, 1]), minlength=256)).pvalue > 0.01


# ------------------------------------------------------------------------------------------------------ independence

NEAR = 4.8 / WORDS**0.5  # of 1024 correlations of so many words


def test_lanes_of_a_word_are_not_correlated():
    """Neighbouring outputs, and both halves: neighbouring passes."""
    found = correlations(*[fresh(1)] * 2) - np.eye(2 * HALF)
    assert np.abs(found).max() < NEAR


def test_squares_of_lanes_of_a_half_are_slightly_correlated():
    """The one dependence there is: the 16 draws of a half share a row of magnitudes.

    Each pair of lanes has a correlation of its own, of the size of 1/√4096: below 6 %, of either sign, and none on
    average. Over all pairs the sum of 16 squares varies 2 % less than that of independent draws.
    """
    table = draws.magnitudes(torch.device("cpu")).double().numpy()
    squares = np.square(fresh(2))
    found = correlations(squares, squares)
    pairs = np.triu_indices(HALF, 1)
    for power in (1, 2):
        fixed = correlations(table**power, table**power)[pairs]
        assert np.abs(fixed).max() < 0.06
        assert fixed.std() < 0.02
        assert abs(fixed.mean()) < 0.005
    for half in (slice(0, HALF), slice(HALF, 2 * HALF)):
        assert np.abs(found[half, half][pairs] - fixed).max() < NEAR
    assert np.square(table).sum(1).var() == pytest.approx(2 * HALF, rel=0.05)
    assert np.abs(found[:HALF, HALF:]).max() < NEAR  # halves are independent


@pytest.mark.parametrize("power", [1, 2], ids=["values", "squares"])
@pytest.mark.parametrize(
    "other",
    [
        lambda: fresh(1)[1:],
        lambda: fresh(1)[2:],
        lambda: fresh(1)[64:],
        lambda: fresh(2),
        lambda: fresh(0),
        lambda: fresh(signed((1 << 63) + 1)),
        lambda: fresh(Chip(0, 0).stream("x", "y")),
    ],
    ids=["next word", "second next", "64 on", "next key", "key before", "highest bit", "a real key"],
)
def test_words_are_not_correlated(other, power):
    """Words of successive counters, and those of streams with neighbouring keys, lane by lane."""
    values = other()
    found = correlations(fresh(1)[: len(values)] ** power, values**power)
    assert np.abs(found).max() < NEAR


def test_neighbouring_samples_are_not_correlated():
    """Noise of sample i and sample i + 1 of a data set, of one read and the next, at the same place."""
    keys = [Reads(0, Chip(0, 0), read, torch.arange(WORDS)).keys("layer") for read in (0, 1)]
    here, again = (draws.read_normals(k.clone()).view(WORDS, 2 * HALF).double().numpy() for k in keys)
    for power in (1, 2):
        assert np.abs(correlations(here[:-1] ** power, here[1:] ** power)).max() < NEAR
        assert np.abs(correlations(here**power, again**power)).max() < NEAR


def test_averages_of_many_reads():
    """A hundred thousand reads of one position average to nothing, at each of many positions."""
    reads = 100_000
    keys = draws.words(3, torch.arange(reads))
    values = draws.read_normals(keys[:, None] + torch.arange(4) * draws.GOLDEN).double()
    means = values.mean(0).numpy() * reads**0.5
    assert means.shape == (128,)
    assert np.abs(means).max() < 4
    assert stats.kstest(means, "norm").pvalue > 0.01
    assert np.abs(values.var(0).numpy() - 1).max() < 4 * (2 / reads) ** 0.5


def test_lags():
    values = FROZEN, FRESH[:N]
    for lag in (1, 2, 3, 4, 5, 8, 64, 1000):
        for v in values:
            assert abs(np.corrcoef(v[:-lag], v[lag:])[0, 1]) < 4.5 / N**0.5


def test_chips_are_independent():
    chips = np.stack([draws.normal(Chip(0, i).stream("x", "y"), torch.arange(20000)).numpy() for i in range(12)])
    assert np.abs(np.corrcoef(chips) - np.eye(12)).max() < 4.5 / 20000**0.5


# --------------------------------------------------------------------------------------------------------- addresses


def test_samples_are_drawn_apart():
    """The noise of a sample depends on its key and the place in it: on no batch, order or size."""
    keys = Reads(1, Chip(2, 3), 0, torch.arange(7)).keys("layer")
    whole = draws.sample_normals(keys, torch.Size([7, 3, 5, 9]))
    assert whole.dtype == torch.float32
    for part in (slice(0, 1), slice(2, 6), slice(6, 7)):
        assert torch.equal(draws.sample_normals(keys[part], torch.Size([len(keys[part]), 3, 5, 9])), whole[part])
    order = torch.tensor([3, 3, 0, 6])
    assert torch.equal(draws.sample_normals(keys[order], torch.Size([4, 3, 5, 9])), whole[order])
    assert torch.equal(draws.sample_normals(keys, torch.Size([7, 40])), whole.flatten(1)[:, :40])
    assert draws.sample_normals(keys, torch.Size([7, 0])).shape == (7, 0)
    long = draws.sample_normals(keys, torch.Size([7, 150_000])).double().numpy()
    assert stats.kstest(long.ravel(), "norm").pvalue > 0.01
    assert np.abs(np.corrcoef(long) - np.eye(7)).max() < 4.5 / 150_000**0.5


def test_many_draws_are_those_of_each_part():
    """On a CPU they are made block by block."""
    many = 2 * draws.BLOCK * torch.get_num_threads() + 5
    counter = torch.arange(3, 3 + many).view(1, -1).expand(2, -1)
    for draw in (draws.normal, draws.uniform):
        found = draw(11, counter)
        assert found.shape == counter.shape
        parts = [draw(11, part) for part in counter[0].split(1001)]
        assert torch.equal(found, torch.cat(parts).expand_as(found))


def test_no_samples():
    assert draws.sample_normals(torch.zeros(0, dtype=torch.int64), torch.Size([0, 5])).shape == (0, 5)


def test_known_words():
    """SplitMix64's published sequence for seed 1234567."""
    seen = [int(w) & MASK for w in draws.words(1234567, torch.arange(1, 6))]
    assert seen == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [state_of(word) for word in seen] == [(1234567 + i * draws.GOLDEN) & MASK for i in range(1, 6)]


def test_words_in_halves():
    """``read_words``: the low half of a word first."""
    whole = [int(w) & MASK for w in draws.words(8, torch.arange(20))]
    halves = draws.read_words(counters(8, 20)).tolist()
    assert halves == [half for w in whole for half in (w & 0xFFFFFFFF, w >> 32)]


def test_keys_are_the_same_in_every_process():
    assert draws.key("chip", 1, "effect") == draws.key("chip", 1, "effect")
    assert draws.key("ab", "c") != draws.key("a", "bc")
    assert draws.key("chip", 0, 0, "cell", "layer conv") == -3778040413084116775
