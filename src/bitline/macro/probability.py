"""Tables P(code | ideal code): their numbers, how they are written, and how codes are drawn from them."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from jaxtyping import Float, Int32, Int64, UInt32
from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

BLOCK = 2048  # rows worked on at once: they stay in the cache


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

    seen = array > 0
    first, end = seen.argmax(2), array.shape[2] - seen[:, :, ::-1].argmax(2)

    def row(table: int, ideal: int) -> str:
        begin = first[table, ideal]
        return f"{begin}: " + " ".join(map(repr, array[table, ideal, begin : end[table, ideal]].tolist()))

    tables, ideals = map(range, array.shape[:2])
    return {"codes": array.shape[2], "rows": [[row(table, ideal) for ideal in ideals] for table in tables]}


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


def aliases(probability: Float[np.ndarray, "T I J"]) -> Int32[np.ndarray, "rows bins"]:
    """Words of T · I rows in 2^k bins, as ``column.Law`` describes them, by Walker's method (Electronics Letters 10(8),
    1974). Probabilities are multiples of 2^-32, of largest remainder."""
    codes = probability.shape[2]
    flat = probability.reshape(-1, codes)
    parts = [slice(first, first + BLOCK) for first in range(0, len(flat), BLOCK)]
    left = np.zeros((len(flat), 1 << max(1, (codes - 1).bit_length())), dtype=np.int64)
    for part in parts:
        left[part, :codes] = _whole(flat[part])
    words = np.empty(left.shape, dtype=np.uint32)
    seen = np.count_nonzero(left, axis=1)
    order = np.argsort(seen, kind="stable")  # rows of as many codes together
    for part in parts:
        rows = order[part]
        words[rows] = _filled(left[rows], int(seen[rows[-1]]))
    return words.view(np.int32)


def _whole(flat: Float[np.ndarray, "rows codes"]) -> Int64[np.ndarray, "rows codes"]:
    """Probabilities as whole multiples of 2^-32 that sum to 1."""
    share = flat * 2.0**32
    whole = np.floor(share).astype(np.int64)
    missing = (1 << 32) - whole.sum(1, keepdims=True)
    order = np.argsort(whole - share, axis=1, kind="stable")
    more = np.take_along_axis(whole, order, 1) + (np.arange(whole.shape[1]) < missing)
    np.put_along_axis(whole, order, more, 1)
    return whole


def _filled(left: Int64[np.ndarray, "rows bins"], most: int) -> UInt32[np.ndarray, "rows bins"]:
    """Each bin with the least is filled up from the one with the most; at most ``most`` bins of a row hold anything.

    Bins that hold nothing come first, so that only the others need to be searched.
    """
    rows, bins = left.shape
    bits = bins.bit_length() - 1
    room, row, start = 1 << (32 - bits), np.arange(rows), np.arange(rows) * most
    order = np.argsort(left != 0, axis=1, kind="stable")
    empty, bin_of = order[:, : bins - most], np.sort(order[:, bins - most :], axis=1)
    high = np.take_along_axis(left, bin_of, 1)
    words = np.empty((rows, bins), dtype=np.uint32)
    held, name = high.reshape(-1), bin_of.reshape(-1)
    for number in range(bins - most):
        giver = start + high.argmax(1)
        held[giver] -= room
        words[row, empty[:, number]] = name[giver]
    low = high.copy()  # as `high`, but what is closed is never the least
    open_held = low.reshape(-1)
    for _ in range(most):
        taker, giver = start + low.argmin(1), start + high.argmax(1)
        own = np.minimum(held[taker], room)
        words[row, name[taker]] = np.where(own == room, name[taker], own << bits | name[giver])
        held[giver] -= room - own
        open_held[giver] = held[giver]
        held[taker], open_held[taker] = -1, 1 << 62
    return words
