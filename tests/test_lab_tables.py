"""Tables of the whole macro, of a bank or of a column, from samples to the replay; on a hidden die and on their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from yaml import safe_dump

from bitline import lab
from bitline.lab.counts import Counts
from bitline.macro import Chip, Macro, coverage, fit_table
from bitline.macro.enough import distance, expected_distance
from bitline.macro.kinds import TableColumn
from bitline.nn import calibrate, convert
from bitline.samples import Samples
from test_lab_loop import command, digits, emulated, network

ARRAYS, LOW, CODES, BANK = 2, -2.0, 64, 4
HIDDEN: dict[str, Any] = {
    "name": "hidden",
    "rows": 60,
    "columns": 64,
    "columns_per_adc": BANK,
    "inputs": {"kind": "unsigned", "bits": 3},
    "weights": {"kind": "twos_complement", "bits": 4},
    "column": {
        "kind": "curve",
        "sigma": {"kind": "polynomial", "coefficients": [0.1]},
        "gain_sigma": 0.001,
        "offset_sigma": 0.1,
    },
    "converter": {
        "kind": "adc",
        "bits": 6,
        "offset_sigma": 0.2,
        "range": {"kind": "fixed", "low": LOW, "high": LOW + CODES - 1},
    },
}
DIE = Chip(31, 2)
HOW: dict[str, dict[str, Any]] = {
    "pooled": {"per": "pooled"},
    "bank": {"per": "bank", "bank": BANK, "assign": "physical"},
    "column": {"per": "column", "assign": "physical"},
}


@dataclass
class Measured:
    """A die's samples, and a network that its tables are put under."""

    samples: Samples
    net: torch.nn.Module
    images: Tensor
    labels: Tensor

    def macro(self, per: str) -> Macro:
        table = fit_table(self.samples, low=LOW, codes=CODES, least=4, reach=8, **HOW[per])
        kept = {name: HIDDEN[name] for name in ("rows", "columns", "columns_per_adc", "inputs", "weights")}
        placement = {"kind": "reload", "arrays": ARRAYS}
        return Macro.model_validate({**kept, "name": f"per {per}", "column": table, "placement": placement})

    def bundle(self, per: str, **how: Any) -> lab.Bundle:
        model = calibrate(convert(self.net, self.macro(per)), [self.images[:256]], 1)
        return lab.export(model, images=(self.images[1497:], self.labels[1497:]), **how)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    out = tmp_path_factory.mktemp("tables") / "chip.parquet"
    board = lab.Board(Macro.model_validate(HIDDEN), DIE, ARRAYS)
    lab.characterize(lab.Instrument(board), out, conversions=120_000, low=LOW)
    images, labels = digits()
    return Measured(Samples.load(out), network(images[:1197], labels[:1197]), images, labels)


def hidden(number: int = DIE.number, drifted: dict[int, float] | None = None) -> lab.Instrument:
    return lab.Instrument(lab.Board(Macro.model_validate(HIDDEN), Chip(DIE.seed, number), ARRAYS, drifted=drifted))


@pytest.mark.parametrize("per", HOW)
def test_the_chain_from_samples_to_replay(per: str, measured: Measured) -> None:
    """The table's own board and the hidden die read as the table says; another die and a drifted bank do not, as far as
    the table tells columns apart."""
    how = HOW[per]
    covered = coverage(measured.samples, how["per"], low=LOW, codes=CODES, least=4, reach=8, bank=how.get("bank"))
    assert not covered.missing.any()
    bundle = measured.bundle(per)
    own = lab.Instrument(lab.Board(bundle.macro, Chip(9, 9), ARRAYS))
    for instrument in (own, hidden()):
        found = lab.replay(bundle, instrument, alpha=1e-3)
        assert found.agreement is not None
        assert found.agreement.agrees
        assert found.agrees or instrument is not own  # a table that redraws what is frozen may miss a die's accuracy
        assert found.accuracy > 35
        assert found.agreement.per == per
        assert found.agreement.columns == {"pooled": 1, "bank": 32, "column": 128}[per]
        assert all(line.covered > 0.9 for line in found.agreement.layers)
    drifted = lab.replay(bundle, hidden(drifted=dict.fromkeys(range(72, 76), 1.0)), alpha=1e-3).agreement
    assert drifted is not None
    named = {
        "pooled": set(),  # one bank in 32 is within what columns differ by
        "bank": {"array 1 columns 8–11"},
        "column": {f"array 1 column {column}" for column in range(8, 12)},
    }[per]
    assert {line.name for line in drifted.drifted} == named
    other = lab.replay(bundle, hidden(DIE.number + 1), alpha=1e-3).agreement
    assert other is not None
    assert len(other.drifted) >= {"pooled": 0, "bank": 1, "column": 5}[per]


def test_the_die_s_samples_tell_more_than_a_bank_s_table(measured: Measured) -> None:
    """With the characterised codes in the bundle, columns are compared one by one, whatever the macro's table."""
    bundle = measured.bundle("bank", samples=measured.samples)
    found = lab.replay(bundle, hidden(drifted={73: 0.8}), alpha=1e-3).agreement
    assert found is not None
    assert found.per == "column"
    assert [line.name for line in found.drifted] == ["array 1 column 9"]


def test_tables_of_a_lot_do_not_describe_a_die(measured: Measured) -> None:
    bundle = measured.bundle("bank")
    lot = bundle.macro.column.model_copy(update={"assign": "drawn", "places": None})
    bundle = lab.Bundle(
        bundle.record.model_copy(update={"macro": bundle.macro.model_copy(update={"column": lot})}), bundle.tensors
    )
    found = lab.replay(bundle, hidden())
    assert found.agreement is None
    assert found.why == "the macro's tables are drawn from a lot; fit this die's: per bank, assign: physical"


def test_a_macro_with_a_table_a_bank_is_emulated(measured: Measured, tmp_path: Path) -> None:
    """From YAML, in a process of its own, over TCP; and characterised again it has the same table."""
    bundle = measured.bundle("bank")
    (tmp_path / "measured.yaml").write_text(safe_dump(bundle.macro.dump()))
    lab.save(bundle, tmp_path / "bundle")
    out = tmp_path / "again.parquet"
    with emulated(tmp_path, macro="measured.yaml", arrays=ARRAYS) as addresses:
        done = command("replay", tmp_path / "bundle", addresses["tcp"], "--images", 100, "--alpha", 1e-4)
        assert done.exit_code == 0, done.output
        assert "0 of 32 banks drifted" in done.output
        done = command("characterize", addresses["tcp"], "--out", out, "--conversions", 120_000, "--low", LOW)
        assert done.exit_code == 0, done.output
    again = fit_table(Samples.load(out), low=LOW, codes=CODES, least=4, reach=8, **HOW["bank"])
    assert isinstance(bundle.macro.column, TableColumn)
    away = distance(again, bundle.macro.column)
    reads = np.minimum(np.array(again.reads), np.array(bundle.macro.column.reads))
    assert away[reads > 100].mean() == pytest.approx(
        expected_distance(bundle.macro.column.probability, np.array(again.reads, dtype=np.float64))[reads > 100].mean(),
        rel=0.1,
    )


@pytest.mark.parametrize("kind", ["differential", "offset"])
@pytest.mark.parametrize("per", ["bank", "column"])
def test_columns_without_a_conversion_need_no_table(kind: str, per: str, tmp_path: Path) -> None:
    """A pair's second column, and the reference columns, begin no conversion: they are in no sample."""
    small = {"rows": 16, "columns": 28, "inputs": {"kind": "unsigned", "bits": 2}, "weights": {"kind": kind, "bits": 3}}
    analog = {"column": {"kind": "curve", "offset_sigma": 0.5}, "converter": {"kind": "adc", "bits": 6}}
    macro = Macro.model_validate({"name": "pairs", **small, **analog})
    board = lab.Board(macro, Chip(1, 1), 2)
    low, step = (float(value) for value in (board.silicon.held[0].low, board.silicon.held[0].step))
    samples = lab.characterize(lab.Instrument(board), tmp_path / "s.csv", conversions=40_000, low=low, step=step)
    samples = Samples.load(tmp_path / "s.csv")
    assert samples.column is not None
    lanes = set(samples.column.tolist())
    assert lanes < set(range(2 * 28))
    table = fit_table(samples, low=low, step=step, codes=64, least=1, reach=64, **HOW[per])
    if per == "column":
        assert table.places == tuple(sorted(lanes))
    die = Macro.model_validate({"name": "die", **small, "column": table, "placement": {"kind": "reload", "arrays": 2}})
    emulated = lab.Instrument(lab.Board(die, Chip(0, 0), 2))
    again = lab.characterize(emulated, tmp_path / "a.csv", conversions=10_000, low=low, step=step)
    if per == "column":  # nothing is fresh in this die: the same reads give the same codes
        np.testing.assert_array_equal(again.code, samples.select(read=np.unique(again.read)).code)


@pytest.mark.parametrize(("per", "bank", "noise"), [("bank", 4, 0.4), ("bank", 4, 0.1), ("pooled", None, 0.4)])
def test_a_mixture_of_columns_is_rarely_doubted(per: Any, bank: int | None, noise: float) -> None:
    """Columns that differ for good, used unequally, against their banks' or the macro's table: p below 0.05 seldom."""
    rng = np.random.default_rng(1)
    doubted = named = 0
    for _ in range(80):
        offset = rng.normal(0, 0.4, 64)
        predicted, seen = Counts(), Counts()
        for counts, share in ((predicted, np.ones(64)), (seen, rng.random(64))):
            column = rng.choice(64, 20_000, p=share / share.sum())
            ideal = rng.integers(5, 15, 20_000)
            code = np.round(ideal + offset[column] + rng.normal(0, noise, 20_000)).astype(int)
            counts.add(column, ideal, code)
        found = lab.reconcile(predicted, {"a": seen}, 64, alpha=0.05, per=per, bank=bank)
        doubted += found.layers[0].p < 0.05
        named += bool(found.drifted)
    print(doubted, named)
    assert max(doubted, named) <= 9  # 4 expected; P(> 9) = 0.6 %


def test_reads_of_a_table_are_kept_and_checked(measured: Measured) -> None:
    table = measured.macro("bank").column
    assert isinstance(table, TableColumn)
    assert np.sum(table.reads) == len(measured.samples)
    written = table.model_dump()
    assert written["reads"][0].split()[10] == str(table.reads[0][10])  # type: ignore[index]
    assert TableColumn.model_validate(written) == table
    with pytest.raises(ValueError, match=r"reads are one a row, \(32, 64\), not of shape \(1, 64\)"):
        TableColumn.model_validate(written | {"reads": written["reads"][:1]})
    with pytest.raises(ValueError, match="31 places for 32 tables"):
        TableColumn.model_validate(written | {"places": list(range(31))})
    with pytest.raises(ValueError, match="places must rise"):
        TableColumn.model_validate(written | {"places": [1, 0, *range(2, 32)]})
