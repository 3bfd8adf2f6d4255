"""The samples table: what it refuses, what it selects, and that a file gives back the table that was written."""

import io
import re
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bitline.samples import Samples

FORMATS = pytest.mark.parametrize("suffix", [".parquet", ".csv"])


def table(rows: int = 12, **changes: Any) -> Samples:
    rng = np.random.default_rng(7)
    index = np.arange(rows)
    values: dict[str, Any] = {
        "ideal": rng.integers(-64, 64, rows),
        "code": rng.integers(0, 16, rows),
        "chip": index // 6,
        "column": index // 2 % 3,
        "read": index % 2,
        "conditions": {"temperature": np.where(index % 2, 300.0, 358.15), "time": rng.random(rows) * 1e-7},
        "units": {"temperature": "K", "time": "s"},
        "provenance": {"source": "bench 3: “left”\nsecond line", "seed": 7, "grid": [1, 2.5], "version": "7"},
    }
    return Samples(**(values | changes))


def vectors(rows: int = 12) -> dict[str, Any]:
    x = np.arange(rows * 4, dtype=np.uint8).reshape(rows, 4)
    return {"x": x, "w": x.astype(np.int8) - 20}


@FORMATS
@pytest.mark.parametrize(
    "changes", [{}, vectors(), {"pattern": np.arange(12)}, {"chip": None, "conditions": {}, "units": {}}]
)
def test_round_trip(tmp_path: Path, suffix: str, changes: dict[str, Any]) -> None:
    samples = table(**changes)
    samples.save(tmp_path / f"t{suffix}")
    again = Samples.load(tmp_path / f"t{suffix}")
    assert again == samples
    assert again.units == samples.units
    assert again.provenance == samples.provenance
    assert again.code.dtype == np.int64
    assert [file.name for file in tmp_path.iterdir()] == [f"t{suffix}"]


@FORMATS
def test_round_trip_of_no_rows(tmp_path: Path, suffix: str) -> None:
    samples = table(**vectors()).select(chip=99)
    assert len(samples) == 0
    assert repr(samples) == "<Samples: 0 rows>"
    samples.save(tmp_path / f"t{suffix}")
    assert Samples.load(tmp_path / f"t{suffix}") == samples


def test_parquet_keeps_narrow_vectors_and_fixed_lists(tmp_path: Path) -> None:
    table(**vectors()).save(tmp_path / "t.parquet")
    assert Samples.load(tmp_path / "t.parquet").w.dtype == np.int8
    assert pq.read_schema(tmp_path / "t.parquet").field("x").type == pa.list_(pa.field("element", pa.uint8()), 4)


def test_csv_written_by_hand(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "# unit.supply: V\n#provenance.source: bench\nideal,code,x[0],x[1],supply\n3,1,0,1,0.9\n4,2,1,1,1\n"
    )
    samples = Samples.load(tmp_path / "t.csv")
    assert samples.provenance == {"source": "bench"}
    assert samples.units == {"supply": "V"}
    assert samples.x is not None
    assert samples.x.tolist() == [[0, 1], [1, 1]]
    assert samples["supply"].tolist() == [0.9, 1.0]


@FORMATS
@pytest.mark.parametrize("left", [0.0, 0.3, 0.9, -1])
def test_truncated_file(tmp_path: Path, suffix: str, left: float) -> None:
    path = tmp_path / f"t{suffix}"
    table(200).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * left) if left >= 0 else -1])
    with pytest.raises(ValueError, match=path.name):
        Samples.load(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ideal,chip\n1,0\n", "'code' is missing; found: ideal, chip"),
        ("ideal,code\n1,2\n3,nan\n", "'code' row 1: nan"),
        ("ideal,code\n1,2\n3,\n", "'code' row 1: nan"),
        ("ideal,code\n1,2.5\n", "'code' row 0: 2.5 is not an integer"),
        ("ideal,code,supply\n1,2,high\n", "'supply' holds object"),
        ("ideal,code\n1,2\n3\n", "Expected 2 columns"),
        ("# unit.speed: V\nideal,code\n1,2\n", "unit given for 'speed'"),
        ("ideal,code,x[1]\n1,2,3\n", "cannot name a condition"),
    ],
)
def test_bad_csv_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"t\.csv: .*{re.escape(words)}"):
        Samples.load(tmp_path / "t.csv")


def test_no_other_thread_reads_a_python_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that outlives the call with it aborts a short script at exit."""
    readers = []

    class Watched(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            readers.append(threading.get_ident())
            return super().read(size)

    path = tmp_path / "s.parquet"
    table(1000).save(path)
    monkeypatch.setattr(Path, "open", lambda self, mode: Watched(self, mode))
    assert Samples.load(path) == table(1000)
    assert set(readers) <= {threading.get_ident()}


def test_ragged_lists_in_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"ideal": [1, 2], "code": [1, 2], "x": [[1, 2], [3]]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="'x' row 1: 1 entries, the first row has 2"):
        Samples.load(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"code": np.arange(11)}, "'code' has 11 rows, 'ideal' has 12"),
        ({"conditions": {"time": np.zeros(3)}, "units": {}}, "'time' has 3 rows"),
        ({"conditions": {"time": np.full(12, np.inf)}}, "'time' row 0: inf is not finite"),
        ({"conditions": {"chip": np.zeros(12)}, "units": {}}, "'chip' cannot name a condition"),
        ({"pattern": np.arange(12), **vectors()}, "not both"),
        ({"units": {"speed": "m/s"}}, "unit given for 'speed'"),
        ({"provenance": {"a:b": 1}}, "'a:b'"),
        ({"provenance": {"drift": float("nan")}}, "not a JSON object"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_refuses(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        table(**changes)


def test_unknown_suffix_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.parquet or \.csv, not '\.txt'"):
        table().save(tmp_path / "t.txt")
    for suffix in ("parquet", "csv"):
        with pytest.raises(FileNotFoundError):
            Samples.load(tmp_path / f"missing.{suffix}")


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    table().save(path)
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("pyarrow.csv.write_csv", full_disk)
    with pytest.raises(OSError, match="no space"):
        table(5).save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.csv", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        table().save(tmp_path / "t.csv")


def test_select() -> None:
    samples = table(**vectors())
    assert set(samples.select(chip=1).chip.tolist()) == {1}
    some = samples.select(column=[0, 2], temperature=300.0)
    assert set(some.column.tolist()) == {0, 2}
    assert set(some["temperature"].tolist()) == {300.0}
    assert some.units == samples.units
    assert some.x.shape == (len(some), 4)
    with pytest.raises(KeyError, match="no column 'supply'; columns: ideal, code"):
        samples.select(supply=0.9)
    with pytest.raises(ValueError, match="'x' has 4"):
        samples.select(x=1)


def test_concat() -> None:
    left, right = table(), table(6, provenance={"seed": 7, "source": "spice"})
    both = Samples.concat([left, right])
    assert len(both) == 18
    assert both.provenance["seed"] == 7
    assert [part["source"] for part in both.provenance["parts"]] == [left.provenance["source"], "spice"]
    assert Samples.concat([left]) == left
    halves = [left.select(chip=0), left.select(chip=1)]
    assert Samples.concat(halves) == left
    with pytest.raises(ValueError, match="at least one"):
        Samples.concat([])
    with pytest.raises(ValueError, match="table 1 has the columns"):
        Samples.concat([left, table(chip=None)])
    with pytest.raises(ValueError, match="table 1 has the units"):
        Samples.concat([left, table(units={})])


def test_frozen_and_summarised() -> None:
    samples = table()
    with pytest.raises(ValueError, match="read-only"):
        samples.code[0] = 1
    assert samples != table(code=np.zeros(12, dtype=np.int64))
    assert "12 rows, 2 chips, 3 columns, 2 reads" in samples.summary()
    assert "temperature 300…358.15 K" in samples.summary()
    assert "chips not told apart" in table(chip=None).summary()
