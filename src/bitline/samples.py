"""The one table of measured reads: what SPICE, the bench and Monte Carlo write, and what `fit` and `report` read.

One row is one read of one column: the integer sum it should have given and the code it gave. Chip, column and read
stay apart, because a table that pools them takes frozen error for fresh noise.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Num, Shaped

if TYPE_CHECKING:
    import pyarrow as pa

INTEGERS = ("ideal", "code", "chip", "column", "read", "pattern")
VECTORS = ("x", "w")


@dataclass(frozen=True, eq=False, repr=False)
class Samples:
    """n reads, checked when made: equal lengths, integers where integers, nothing NaN or infinite.

    `ideal` is the exact integer sum and `code` the converter's answer. `chip`, `column` and `read` say which die,
    which physical column and which repetition; None means that the source did not tell them apart. The cause of
    `ideal` is recorded as input and weight vectors `x`, `w` (n × R), or as the number of a `pattern`. `conditions`
    holds one float a row for each quantity that was varied, in SI units named in `units`. `provenance` is any
    JSON object. Arrays are read-only; errors are ValueErrors that name the column and its first bad row.
    """

    ideal: Integer[np.ndarray, " n"]
    code: Integer[np.ndarray, " n"]
    chip: Integer[np.ndarray, " n"] | None = None
    column: Integer[np.ndarray, " n"] | None = None
    read: Integer[np.ndarray, " n"] | None = None
    x: Integer[np.ndarray, "n R"] | None = None
    w: Integer[np.ndarray, "n R"] | None = None
    pattern: Integer[np.ndarray, " n"] | None = None
    conditions: Mapping[str, Float[np.ndarray, " n"]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*INTEGERS, *VECTORS):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _integers(name, value))
        for name in self.conditions:
            if name in (*INTEGERS, *VECTORS) or not name or set(name) & set("[]:#,\n"):
                raise ValueError(f"{name!r} cannot name a condition: the name is taken or holds one of '[]:#,'")
        conditions = {name: _floats(name, value) for name, value in self.conditions.items()}
        object.__setattr__(self, "conditions", conditions)
        object.__setattr__(self, "units", {name: " ".join(unit.split()) for name, unit in self.units.items()})
        object.__setattr__(self, "provenance", _plain(self.provenance))

        columns = self.columns()
        for name, values in columns.items():
            if len(values) != len(self.ideal):
                raise ValueError(f"column {name!r} has {len(values)} rows, 'ideal' has {len(self.ideal)}")
        if self.pattern is not None and (self.x is not None or self.w is not None):
            raise ValueError("give 'x' and 'w' or 'pattern', not both")
        if unknown := sorted(set(self.units) - set(columns)):
            raise ValueError(f"unit given for {unknown[0]!r}, which is no column; columns: {', '.join(columns)}")

    def columns(self) -> dict[str, Shaped[np.ndarray, "n ..."]]:
        """The columns that are there, by name, conditions last."""
        present = {name: getattr(self, name) for name in (*INTEGERS, *VECTORS)}
        return {name: values for name, values in present.items() if values is not None} | dict(self.conditions)

    def __len__(self) -> int:
        return len(self.ideal)

    def __getitem__(self, name: str) -> Shaped[np.ndarray, "n ..."]:
        columns = self.columns()
        if name not in columns:
            raise KeyError(f"no column {name!r}; columns: {', '.join(columns)}")
        return columns[name]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Samples):
            return NotImplemented
        mine, theirs = self.columns(), other.columns()
        return (
            mine.keys() == theirs.keys()
            and all(np.array_equal(mine[name], theirs[name]) for name in mine)
            and self.units == other.units
            and self.provenance == other.provenance
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self.summary()}>"

    def summary(self) -> str:
        """One line on what the table covers: rows, chips, columns, reads, codes, sums and conditions."""
        parts = [f"Samples: {len(self)} rows"]
        if not len(self):
            return parts[0]
        for name in ("chip", "column", "read", "pattern"):
            values = getattr(self, name)
            parts.append(f"{name}s not told apart" if values is None else f"{len(np.unique(values))} {name}s")
        if self.pattern is None:
            parts.pop()
        for name in ("code", "ideal"):
            values = getattr(self, name)
            parts.append(f"{name} {values.min()}…{values.max()} ({len(np.unique(values))} seen)")
        for name, values in self.conditions.items():
            parts.append(f"{name} {values.min():g}…{values.max():g} {self.units.get(name, '')}".rstrip())
        return ", ".join(parts)

    def select(self, **conditions: float | Sequence[float] | Num[np.ndarray, " k"]) -> "Samples":
        """The rows where each named column equals the value, or one of the values: `select(chip=[0, 1], read=0)`."""
        keep = np.ones(len(self), dtype=bool)
        for name, wanted in conditions.items():
            values = self[name]
            if values.ndim != 1:
                raise ValueError(f"select goes by a column of one number a row; {name!r} has {values.shape[1]}")
            keep &= np.isin(values, wanted)
        return self.take(keep)

    def take(self, rows: Bool[np.ndarray, " n"] | Integer[np.ndarray, " k"]) -> "Samples":
        """Some rows: those marked, or by number in the order given."""
        return _table({name: values[rows] for name, values in self.columns().items()}, self.units, self.provenance)

    @classmethod
    def concat(cls, tables: Sequence["Samples"]) -> "Samples":
        """The rows of all tables in order. Columns and units must agree, and so must the numbering of the chips.

        Provenance that all share is kept; where it differs, `parts` lists what each table had of its own.
        """
        if not tables:
            raise ValueError("concat needs at least one table")
        first, provenance = tables[0], tables[0].provenance
        for index, table in enumerate(tables):
            if table.columns().keys() != first.columns().keys():
                raise ValueError(f"table {index} has the columns {list(table.columns())}, not {list(first.columns())}")
            if table.units != first.units:
                raise ValueError(f"table {index} has the units {table.units}, the first one {first.units}")
        if any(table.provenance != provenance for table in tables):
            shared = {
                key: value
                for key, value in provenance.items()
                if all(key in table.provenance and table.provenance[key] == value for table in tables)
            }
            own = [{key: value for key, value in t.provenance.items() if key not in shared} for t in tables]
            provenance = shared | {"parts": own}
        columns = {name: np.concatenate([table[name] for table in tables]) for name in first.columns()}
        return _table(columns, first.units, provenance)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Samples":
        """The table in a `.parquet` or `.csv` file. In CSV a vector is spread over `x[0]`, `x[1]`, …

        Raises FileNotFoundError, or ValueError that names the file and what is wrong in it.
        """
        path = Path(path)
        reader = _format(path)[0]
        try:
            return _table(*reader(path))
        except ValueError as error:  # pyarrow's own errors are ValueErrors too
            raise ValueError(f"{path}: {error}") from error

    @staticmethod
    def check(path: str | os.PathLike[str]) -> None:
        """Raise ValueError where samples are not kept in files of this name."""
        _format(Path(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `.parquet` or `.csv`; the file appears whole or not at all."""
        path = Path(path)
        writer = _format(path)[1]
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            writer(self, part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _table(columns: Mapping[str, Any], units: Mapping[str, str], provenance: Mapping[str, Any]) -> Samples:
    """Samples from all columns by name: those it does not know are conditions."""
    for name in ("ideal", "code"):
        if name not in columns:
            raise ValueError(f"column {name!r} is missing; found: {', '.join(columns)}")
    known = {name: _integers(name, columns[name]) for name in (*INTEGERS, *VECTORS) if name in columns}
    conditions = {name: _floats(name, values) for name, values in columns.items() if name not in known}
    return Samples(**known, conditions=conditions, units=units, provenance=provenance)


def _numbers(name: str, values: Any, axes: int) -> Num[np.ndarray, "..."]:
    array = np.asarray(values)
    if not array.size:
        array = np.empty(array.shape, dtype=np.int64)  # a file without rows does not say what it would hold
    if array.ndim != axes:
        raise ValueError(f"column {name!r} needs {axes} axes, not the shape {array.shape}")
    if array.dtype.kind not in "iuf":
        raise ValueError(f"column {name!r} holds {array.dtype}, not numbers")
    _check(name, array, np.isfinite(array), "is not finite")
    return array


def _check(name: str, array: np.ndarray, good: np.ndarray, complaint: str) -> None:
    if not good.all():
        at = tuple(int(i) for i in np.argwhere(~good)[0])
        raise ValueError(f"column {name!r} row {at[0]}: {array[at]} {complaint}")


def _integers(name: str, values: Any) -> Integer[np.ndarray, "..."]:
    """Read-only integers: int64, or for vectors whatever integer type keeps them small."""
    array = _numbers(name, values, 2 if name in VECTORS else 1)
    _check(name, array, array == np.round(array), "is not an integer")
    return _frozen(array, array.dtype if name in VECTORS and array.dtype.kind in "iu" else np.dtype(np.int64))


def _floats(name: str, values: Any) -> Float[np.ndarray, " n"]:
    return _frozen(_numbers(name, values, 1), np.dtype(np.float64))


def _frozen(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    view = array.astype(dtype, copy=False).view()
    view.flags.writeable = False
    return view


def _plain(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance as JSON will give it back, so that a table equals its file."""
    for key in provenance:
        if not isinstance(key, str) or not key or set(key) & set(":\n"):
            raise ValueError(f"provenance key {key!r} must be a string without colon or line break")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(provenance), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"provenance is not a JSON object: {error}") from None
    return plain


_Parts = tuple[dict[str, Any], dict[str, str], dict[str, Any]]
_Format = tuple[Callable[[Path], _Parts], Callable[[Samples, Path], None]]


def _format(path: Path) -> _Format:
    formats: dict[str, _Format] = {
        ".parquet": (_read_parquet, _write_parquet),
        ".csv": (_read_csv, _write_csv),
    }
    if path.suffix not in formats:
        raise ValueError(
            f"{path}: samples are kept in .parquet or .csv, not {path.suffix or 'a file without suffix'!r}"
        )
    return formats[path.suffix]


@contextmanager
def _pyarrow() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError("reading and writing samples needs pyarrow: pip install pyarrow") from error


def _write_parquet(samples: Samples, path: Path) -> None:
    with _pyarrow():
        import pyarrow as pa
        import pyarrow.parquet as pq
    arrays = {
        name: pa.array(values)
        if values.ndim == 1
        else pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        for name, values in samples.columns().items()
    }
    metadata = {"bitline.units": json.dumps(samples.units), "bitline.provenance": json.dumps(samples.provenance)}
    pq.write_table(pa.table(arrays).replace_schema_metadata(metadata), path, compression="zstd")


def _read_parquet(path: Path) -> _Parts:
    with _pyarrow():
        import pyarrow as pa
        import pyarrow.parquet as pq
    with pa.OSFile(str(path)) as file:  # no Python file: a reading thread that holds one at exit aborts the process
        table = pq.read_table(file)
    metadata = table.schema.metadata or {}
    units, provenance = (json.loads(metadata.get(key, b"{}")) for key in (b"bitline.units", b"bitline.provenance"))
    return {name: _array(name, table[name]) for name in table.column_names}, units, provenance


def _array(name: str, column: "pa.ChunkedArray") -> np.ndarray:
    """A column as NumPy: one axis for numbers, two for lists of one length; an empty cell becomes NaN."""
    import pyarrow as pa
    import pyarrow.compute

    if not (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)):
        return column.to_numpy()
    lists = column.combine_chunks()
    widths = np.asarray(pyarrow.compute.list_value_length(lists).to_numpy(zero_copy_only=False))
    if len(widths) and not (widths == widths[0]).all():
        row = int(np.argmax(widths != widths[0]))
        raise ValueError(f"column {name!r} row {row}: {widths[row]} entries, the first row has {widths[0]}")
    width = int(widths[0]) if len(widths) else getattr(column.type, "list_size", 0)
    return lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), width)


def _write_csv(samples: Samples, path: Path) -> None:
    with _pyarrow():
        import pyarrow as pa
        import pyarrow.csv
    flat: dict[str, np.ndarray] = {}
    for name, values in samples.columns().items():
        flat |= {name: values} if values.ndim == 1 else {f"{name}[{r}]": values[:, r] for r in range(values.shape[1])}
    header = [f"# rows: {len(samples)}"]
    header += [f"# unit.{name}: {unit}" for name, unit in samples.units.items()]
    header += [f"# provenance.{key}: {json.dumps(value)}" for key, value in samples.provenance.items()]
    with path.open("wb") as file:
        file.write("\n".join([*header, ""]).encode())
        options = pyarrow.csv.WriteOptions(quoting_style="none", quoting_header="none")
        pyarrow.csv.write_csv(pa.table(flat), file, options)


def _read_csv(path: Path) -> _Parts:
    with _pyarrow():
        import pyarrow.csv
    header: dict[str, str] = {}
    with path.open("rb") as file:
        start = 0
        while (line := file.readline()).startswith(b"#"):
            key, _, value = line[1:].decode().partition(":")
            header[key.strip()] = value.strip()
            start = file.tell()
        file.seek(start)
        table = pyarrow.csv.read_csv(file)
        file.seek(-1, os.SEEK_END)
        ended = file.read() == b"\n"
    if "rows" in header and (not ended or header["rows"] != str(table.num_rows)):
        raise ValueError(f"the file is truncated: {header['rows']} rows announced, {table.num_rows} found")
    columns: dict[str, Any] = {}
    for name in table.column_names:
        stem = name.partition("[")[0]
        vector = stem in VECTORS and name == f"{stem}[{len(columns.get(stem, ()))}]"
        if vector:
            columns.setdefault(stem, []).append(table[name].to_numpy())
        else:
            columns[name] = table[name].to_numpy()
    columns |= {name: np.stack(columns[name], axis=1) for name in VECTORS if name in columns}
    units = {key.removeprefix("unit."): value for key, value in header.items() if key.startswith("unit.")}
    notes = {key.removeprefix("provenance."): value for key, value in header.items() if key.startswith("provenance.")}
    return columns, units, {key: _value(text) for key, text in notes.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # written by hand, without quotes
        return text
