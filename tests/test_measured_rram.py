"""The RRAM arrays A and B: what is fitted against the data, and against cells that were held out."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp, kstwo

from bitline.devices import (
    CellReads,
    Conductances,
    confusion,
    fit_conductances,
    fit_confusions,
    read_bake,
    read_confusions,
    read_errors,
    read_relaxation,
    shipped,
)
from bitline.devices.conductances import NORMAL_SCORES
from bitline.devices.confusion import below

STEP = {"a": 7.5e-6, "b": 4e-6}
EDGES = {name: (np.arange(15) + 0.5) * 2 * step for name, step in STEP.items()}  # midway between 16 levels


@pytest.fixture(scope="module")
def folder(data_dir: Path) -> Path:
    return data_dir / "measured"


@pytest.fixture(scope="module")
def aged(folder: Path) -> CellReads:
    return read_relaxation(folder / "rram_techB" / "relaxdata_10k.min.tsv.gz")


@pytest.fixture(scope="module")
def baked(folder: Path) -> CellReads:
    return read_bake(folder / "rram_techA" / "bake.tsv.gz", 240e-6)


def counted(reads: CellReads, seconds: float, name: str = "b") -> np.ndarray:
    """Counts (programmed, read) of 16 levels, of which each but the lowest has two of the 32."""
    now = reads.where(reads.seconds == seconds)
    counts = np.zeros((16, 16), dtype=np.int64)
    np.add.at(
        counts, (np.minimum((now.level + 1) // 2, 15), np.searchsorted(EDGES[name], now.siemens, side="right")), 1
    )
    return counts


def modelled(table: Conductances, seconds: float, name: str) -> np.ndarray:
    """Share of cells of each of 16 levels that reads as another, in the model."""
    return 1 - np.diag(confusion(table.at(seconds), EDGES[name], 2))


def holm(p: list[float]) -> float:
    """The smallest p-value by Holm's correction."""
    return min(1.0, min(p) * len(p))


# ------------------------------------------------------------------------------------------------------- level errors


def test_level_errors_of_array_a(folder: Path) -> None:
    """Within 2 points and two standard errors a level at each time; 1.5 points on average."""
    found = []
    for seconds, counts in read_confusions(folder / "rram_techA" / "confmats").items():
        share, error = read_errors(counts)
        off = 100 * np.abs(modelled(shipped("rram-a"), seconds, "a") - share)
        assert (off <= 2 + 200 * error).all(), (seconds, off)
        assert off.mean() <= 1.5, (seconds, off.mean())
        found.append(off.mean())
    assert len(found) == 8


def test_level_errors_of_array_b(aged: CellReads) -> None:
    for seconds in (0.0, 0.01, 0.1, 1.0, 100.0, 1e3, 1e4):
        share, error = read_errors(counted(aged, seconds))
        off = 100 * np.abs(modelled(shipped("rram-b"), seconds, "b") - share)
        assert (off <= 2 + 200 * error).all(), (seconds, off)
        assert off.mean() <= 1.5, (seconds, off.mean())


def test_level_errors_of_cells_held_out(aged: CellReads) -> None:
    """As above for each half of array B, the model fitted to the other; the standard error is that of both halves.

    On average over ages and levels; at a single age the counting noise of 500 cells a level alone is up to 1.8 points.
    """
    halves, mean = aged.halves(), []
    for fitted, held in (halves, halves[::-1]):
        table = fit_conductances(fitted, "half", STEP["b"] / 2, STEP["b"])
        for seconds in table.seconds:
            share, error = read_errors(counted(held, seconds))
            off = 100 * np.abs(modelled(table, seconds, "b") - share)
            own = read_errors(counted(fitted, seconds))[1]
            assert (off <= 2 + 200 * np.sqrt(error**2 + own**2)).all(), (seconds, off)
            mean.append(off.mean())
    assert np.mean(mean) <= 1.5


def test_whole_confusion_of_array_a(folder: Path) -> None:
    """Not the diagonal alone: on average fewer than 3 % of a level's cells read as another level than modelled."""
    for seconds, counts in read_confusions(folder / "rram_techA" / "confmats").items():
        model = confusion(shipped("rram-a").at(seconds), EDGES["a"], 2)
        away = np.abs(model - counts / counts.sum(1, keepdims=True)).sum(1) / 2
        assert away.mean() < 0.03, (seconds, away)


# ------------------------------------------------------------------------------------------------------ distributions


def compared(table: Conductances, fitted: CellReads, held: CellReads) -> list[tuple[float, float, float, float]]:
    """(mean distance of the model from held-out cells, of the halves from each other, p by Holm, seconds) a condition.

    A p-value is that of two samples: the model knows the distribution only as well as the cells it was fitted to.
    """
    found = []
    for i, (seconds, kelvin) in enumerate(fitted.conditions()):
        model, data, p = [], [], []
        for level in range(table.levels):
            one, two = (
                np.sort(r.siemens[(r.level == level) & (r.seconds == seconds) & (r.kelvin == kelvin)])
                for r in (fitted, held)
            )
            share, rank = below(table.quantiles[i, level], two), np.arange(len(two) + 1) / len(two)
            model.append(max((rank[1:] - share).max(), (share - rank[:-1]).max()))
            data.append(ks_2samp(one, two).statistic)
            p.append(float(kstwo.sf(model[-1], round(len(one) * len(two) / (len(one) + len(two))))))
        found.append((float(np.mean(model)), float(np.mean(data)), holm(p), seconds))
    return found


@pytest.mark.parametrize("name", ["a", "b"])
def test_cells_held_out_are_reproduced(name: str, aged: CellReads, baked: CellReads) -> None:
    """Kolmogorov-Smirnov at p > 0.01 by Holm over levels; distance at most 1.2 times that of the data's halves."""
    halves = (baked if name == "a" else aged).halves()
    for fitted, held in (halves, halves[::-1]):
        table = fit_conductances(fitted, name, STEP[name] / 2, STEP[name])
        for model, data, p, seconds in compared(table, fitted, held):
            assert p > 0.01, (seconds, p)
            assert model <= 1.2 * data, (seconds, model, data)


def test_the_test_sees_wrong_cells(aged: CellReads) -> None:
    """A planted fault: cells of another age, and cells moved by a third of a step."""
    fitted, held = aged.halves()
    table = fit_conductances(fitted, "b", STEP["b"] / 2, STEP["b"])
    wrong = table.model_copy(update={"quantiles": table.quantiles[::-1]})
    assert min(p for _, _, p, _ in compared(wrong, fitted, held)) < 1e-6
    moved = table.model_copy(update={"quantiles": table.quantiles + STEP["b"] / 3})
    assert max(p for _, _, p, _ in compared(moved, fitted, held)) < 1e-6


def distance(quantiles: np.ndarray, cells: list[np.ndarray]) -> float:
    """Mean Kolmogorov distance of levels from their sorted cells."""
    pairs = zip(quantiles, cells, strict=True)
    return float(np.mean([np.abs(below(q, c) - (np.arange(len(c)) + 0.5) / len(c)).max() for q, c in pairs]))


def test_ages_left_out_are_found_between_their_neighbours(aged: CellReads, folder: Path) -> None:
    """Interpolation in log time: closer to the cells of an age than what was measured at either neighbour."""
    table = shipped("rram-b")
    for seconds in (1.0, 1000.0):
        i = table.seconds.index(seconds)
        kept = [j for j in range(len(table.seconds)) if j != i]
        less = table.model_copy(
            update={"seconds": tuple(table.seconds[j] for j in kept), "quantiles": table.quantiles[kept]}
        )
        now = aged.where(aged.seconds == seconds)
        cells = [np.sort(now.siemens[now.level == level]) for level in range(32)]
        between = distance(less.at(seconds), cells)
        assert between < min(distance(table.quantiles[i + j], cells) for j in (-1, 1))
    counts = read_confusions(folder / "rram_techA" / "confmats")
    whole = shipped("rram-a")
    i = whole.seconds.index(1000.0)
    kept = [j for j in range(len(whole.quantiles)) if j != i]
    less = whole.model_copy(
        update={"seconds": tuple(s for s in whole.seconds if s != 1000.0), "quantiles": whole.quantiles[kept]}
    )
    off = 100 * np.abs(modelled(less, 1000.0, "a") - read_errors(counts[1000.0])[0])
    assert off.mean() <= 2.0


def test_a_bake_left_out_is_nearer_than_its_neighbours(baked: CellReads) -> None:
    """Interpolation in 1/T. Not at 180 °C: cells fall fast from there on, and 140 °C is nearer than the line."""
    table = shipped("rram-a")
    ages = len(table.seconds)
    for i in (1, 3):
        bake = table.bakes[i]
        kept = [j for j in range(len(table.quantiles)) if j != ages + i]
        others = tuple(other for other in table.bakes if other != bake)
        less = table.model_copy(update={"bakes": others, "quantiles": table.quantiles[kept]})
        cells = [np.sort(baked.siemens[(baked.kelvin == bake.kelvin) & (baked.level == k)]) for k in range(32)]
        found = less.at(max(bake.seconds, min(other.seconds for other in others)), bake.kelvin)
        assert distance(found, cells) < min(distance(table.quantiles[ages + i + j], cells) for j in (-1, 1))


def test_shipped_tables_are_those_of_the_script(folder: Path, aged: CellReads, baked: CellReads) -> None:
    """The tables in the package come from these data; fits agree to a hundredth of a step."""
    fitted = fit_conductances(aged, "b", STEP["b"] / 2, STEP["b"])
    assert np.abs(fitted.quantiles - shipped("rram-b").quantiles).max() < 1e-9
    a = shipped("rram-a")
    hot = fit_conductances(baked, "a", STEP["a"] / 2, STEP["a"])
    assert np.abs(hot.quantiles - a.quantiles[-5:]).max() < 1e-9
    counts = {t: c for t, c in read_confusions(folder / "rram_techA" / "confmats").items() if t in (0.0, 0.01)}
    again = fit_confusions(counts, "a", 240e-6)
    assert np.abs(again.quantiles - a.quantiles[:2]).max() < 0.01 * STEP["a"]


def test_what_was_read(aged: CellReads, baked: CellReads, folder: Path) -> None:
    assert len(aged) == 100_930
    assert len(np.unique(aged.address)) == 15_961 - 426
    assert [seconds for seconds, _ in aged.conditions()] == [0.0, 0.01, 0.1, 1.0, 100.0, 1e3, 1e4]
    assert 5 * 16_384 - len(baked) == 663  # cells beyond the highest level
    assert [round(kelvin - 273.15) for _, kelvin in baked.conditions()] == [100, 140, 180, 220, 260]
    counts = read_confusions(folder / "rram_techA" / "confmats")
    assert all((counts[t].sum(1) == counts[0.0].sum(1)).all() for t in (0.1, 1.0, 1e3, 1e4, 1e5))  # the same cells
    assert read_errors(counts[0.0])[0].max() == 0


# ----------------------------------------------------------------------------------------------------------- bad files

GOOD = "7\t0.0\t1000\t0.001\t0.001\t3\t0.0\n"
BAKE = "7\t0.0\t1000\t0.001\t100\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"is empty; accepted are lines of address, time \(s\)"),
        (GOOD + "8\t0.0\t1000\n", "line 2: 3 columns; accepted are 7, tab-separated: address, time"),
        (GOOD + GOOD.replace("1000", "1k"), r"line 2: resistance \(ohm\) is '1k', not a number"),
        (
            GOOD.replace("0.001\t3", "nan\t3"),
            r"line 1: conductance as programmed \(S\) is nan; accepted is a finite number",
        ),
        (GOOD.replace("7\t", "7.5\t"), "line 1: address is 7.5; accepted is a whole number ≥ 0"),
        (
            GOOD.replace("\t0.001\t0.001", "\t-0.001\t0.001"),
            r"line 1: conductance \(S\) is -0.001; accepted is between 0",
        ),
        (GOOD.replace("1000", "900"), r"line 1: resistance · conductance is 0.9; accepted is 1 within 0.1 %"),
        (GOOD.replace("3\t0.0\n", "3.5\t0.0\n"), "line 1: programmed level is 3.5; accepted is a whole number"),
        (GOOD + GOOD, "line 2: cell 7 was read before at a nominal time of 0 s; accepted is one read"),
        (GOOD + "7\t1.0\t1000\t0.001\t0.002\t3\t1.0\n", r"line 2: cell 7 was programmed to 0.002 S, other lines say"),
    ],
)
def test_bad_relaxation_files(text: str, told: str, tmp_path: Path) -> None:
    for path in (tmp_path / "r.tsv", tmp_path / "r.tsv.gz"):
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
        with pytest.raises(ValueError, match=f"{path.name}.*{told}"):
            read_relaxation(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            BAKE.replace("\t100\n", "\t20\n"),
            r"line 1: bake temperature \(°C\) is 20; accepted is above room temperature",
        ),
        (BAKE + BAKE, "line 2: cell 7 was read before, likewise, at 100 °C; accepted is one read"),
        (BAKE, "cell 7 was not read both at time 0 and after the bake at 100 °C; accepted is one read of each"),
        (
            BAKE + BAKE.replace("7\t0.0\t", "8\t9.0\t"),
            "cell 7 was not read both at time 0 and after the bake at 100 °C",
        ),
    ],
)
def test_bad_bake_files(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "b.tsv").write_text(text)
    with pytest.raises(ValueError, match=told):
        read_bake(tmp_path / "b.tsv", 240e-6)
    with pytest.raises(ValueError, match=r"none\.tsv: cannot be read as tab-separated text"):
        read_bake(tmp_path / "none.tsv", 240e-6)
    (tmp_path / "cut.tsv.gz").write_bytes(gzip.compress(text.encode() * 99)[:-12])
    with pytest.raises(ValueError, match=r"cut\.tsv\.gz: cannot be read as tab-separated text"):
        read_bake(tmp_path / "cut.tsv.gz", 240e-6)


def test_bad_counts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no T\.npy files of counts"):
        read_confusions(tmp_path)
    for name, array, told in (
        ("soon", np.eye(16, dtype=int), "its name should be the age in seconds"),
        ("1", np.eye(16), "counts are whole numbers ≥ 0, not float64"),
        ("1", np.ones((3, 4), dtype=int), r"shape \(3, 4\); accepted is \(levels, levels\)"),
        ("1", np.diag([1, 0, 2]), "no cell of level 1 was programmed"),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(ValueError, match=told):
            read_confusions(tmp_path)
        (tmp_path / f"{name}.npy").unlink()
    with pytest.raises(ValueError, match="3 levels of counts; 16 are needed for 32 of cells"):
        fit_confusions({1.0: np.eye(3, dtype=np.int64)}, "few", 240e-6)


def test_too_few_cells(aged: CellReads) -> None:
    few = aged.where((aged.seconds == 0) & ((aged.level != 5) | (np.arange(len(aged)) < 100)))
    with pytest.raises(ValueError, match=r"few: \d+ cells of level 5 at 0 s and 298\.15 K; 20 are needed"):
        fit_conductances(few, "few", 2e-6, 4e-6)


def test_shares_below_are_those_of_draws() -> None:
    row = shipped("rram-b").at(100.0)[9]
    draws = np.interp(np.random.default_rng(0).standard_normal(200_000), NORMAL_SCORES, row)
    for at in np.quantile(draws, [0.01, 0.3, 0.9]):
        assert below(row, np.array([at]))[0] == pytest.approx((draws < at).mean(), abs=0.004)
