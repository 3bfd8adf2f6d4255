"""Tables P(code | ideal code): their numbers, how they are written, and how codes are drawn from them."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from jaxtyping import Float, Int64
from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema


def _written(value: dict[str, Any]) -> np.ndarray:
    """A table from its written form, {codes, rows: [tables] × ideal codes of "first code: P P P"}."""
    if set(value) != {"codes", "rows"} or not isinstance(value["codes"], int) or not value["rows"]:
        raise ValueError(
            f"a written probability table has `codes`, a number, and `rows`, not {sorted(value)}; or give it as numbers"
        )
    codes, rows = value["codes"], value["rows"]
    tables = [rows] if isinstance(rows[0], str) else rows
    if len({len(table) for table in tables}) > 1:
        raise ValueError(f"tables differ in ideal codes: {sorted({len(table) for table in tables})}")
    array = np.zeros((len(tables), len(tables[0]), codes))
    for table, ideal in np.ndindex(*array.shape[:2]):
        row = tables[table][ideal]
        try:
            first, shares = row.split(":")
            begin, found = int(first), [float(share) for share in shares.split()]
        except (AttributeError, ValueError):
            raise ValueError(
                f"table {table}, ideal code {ideal}: {row!r} is no row; write the first code read, a colon and the "
                f'probabilities from there on: "12: 0.25 0.5 0.25"'
            ) from None
        if begin < 0 or begin + len(found) > codes:
            raise ValueError(
                f"table {table}, ideal code {ideal}: codes {begin} … {begin + len(found) - 1} of {row!r} are not all "
                f"in 0 … {codes - 1}"
            )
        array[table, ideal, begin : begin + len(found)] = found
    return array


def _rows(array: np.ndarray) -> dict[str, Any]:
    """The written form: a row is a line, from its first code to its last with a probability."""

    def row(shares: np.ndarray) -> str:
        seen = np.flatnonzero(shares)
        return f"{seen[0]}: " + " ".join(repr(float(share)) for share in shares[seen[0] : seen[-1] + 1])

    return {"codes": array.shape[2], "rows": [[row(shares) for shares in table] for table in array]}


def _matrix(value: Any) -> np.ndarray:
    array = _written(value) if isinstance(value, dict) else np.asarray(value, dtype=np.float64)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(
            f"a probability table is (tables, ideal codes, codes) of numbers ≥ 0, not of shape {array.shape}"
        )
    off = np.abs(array.sum(axis=2) - 1)
    if off.max() > 1e-6:
        table, code = np.unravel_index(off.argmax(), off.shape)
        raise ValueError(
            f"table {table}: the probabilities of ideal code {code} sum to {array[table, code].sum():.6g}, not 1"
        )
    if off.max() > 1e-12:  # not again when a written configuration is read
        array = array / array.sum(axis=2, keepdims=True)
    else:
        array = array.copy()
    array.setflags(write=False)
    return array


Probability = Annotated[
    np.ndarray,
    BeforeValidator(_matrix),
    PlainSerializer(_rows, return_type=dict),
    WithJsonSchema(
        {
            "description": "P(code | ideal): [tables] × ideal codes × codes, rows sum to 1; or rows written as lines, "
            '"first code: P P P"',
            "anyOf": [
                {"type": "array"},
                {
                    "type": "object",
                    "properties": {"codes": {"type": "integer"}, "rows": {"type": "array"}},
                    "required": ["codes", "rows"],
                    "additionalProperties": False,
                },
            ],
        }
    ),
]


RowReads = Annotated[
    tuple[tuple[Annotated[int, Field(ge=0)], ...], ...],
    BeforeValidator(lambda value: [row.split() if isinstance(row, str) else row for row in value]),
    PlainSerializer(lambda reads: [" ".join(map(str, row)) for row in reads], return_type=list),
    WithJsonSchema({"type": "array", "description": '[tables] × ideal codes; or a table written "12 0 7"'}),
]


def aliases(
    probability: Float[np.ndarray, "T I J"],
) -> tuple[Int64[np.ndarray, "rows bins"], Int64[np.ndarray, "rows bins"]]:
    """(cut, alias) of each of T · I rows in 2^k bins, as ``column.Law`` describes them, by Walker's method (Electronics
    Letters 10(8), 1974). Probabilities are multiples of 2^-32, of largest remainder."""
    codes = probability.shape[2]
    flat = probability.reshape(-1, codes)
    bins = 1 << max(1, (codes - 1).bit_length())
    share = np.zeros((len(flat), bins))
    share[:, :codes] = flat * 2.0**32
    left = np.floor(share).astype(np.int64)
    order = np.argsort(left - share, axis=1, kind="stable")
    missing = (1 << 32) - left.sum(1)
    np.put_along_axis(left, order, np.take_along_axis(left, order, 1) + (np.arange(bins) < missing[:, None]), 1)
    room, rows = (1 << 32) // bins, np.arange(len(flat))
    cut, alias = np.full_like(left, room), np.broadcast_to(np.arange(bins), left.shape).copy()
    open_bins = np.ones(left.shape, dtype=bool)
    for _ in range(bins):  # the bin with the least is filled up from the one with the most
        low = np.where(open_bins, left, 1 << 62).argmin(1)
        high = np.where(open_bins, left, -1).argmax(1)
        held = left[rows, low]
        cut[rows, low], alias[rows, low] = np.minimum(held, room), high
        left[rows, high] -= room - cut[rows, low]
        open_bins[rows, low] = False
    return cut, alias
