"""An instrument: a board with arrays of cells and converters, whatever carries the commands to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Integer

from bitline.lab.commands import (
    CONVERTER,
    DRIVER,
    IDENTIFY,
    MODES,
    READ,
    RECALL,
    STATUS,
    WRITE,
    Command,
    Mode,
    Reply,
    Request,
)
from bitline.lab.errors import LinkError
from bitline.lab.link import FrameLink, Link
from bitline.lab.ports import open_port
from bitline.lab.scpi import ScpiLink

T = TypeVar("T", int, float)
AT_ONCE = 1 << 15  # conversions of one read
MOST_ARRAYS, MOST_EXTENT = 1 << 16, 1 << 16
MOST_CELLS, MOST_LANES = 1 << 24, 1 << 24  # cells of an array, lanes of all arrays: what a host can hold


@dataclass(frozen=True)
class Identity:
    """What a board says it is. A *lane* is what one converter code comes from: the columns that meet before it."""

    arrays: int
    rows: int
    active_rows: int  # rows on at once
    columns: int
    lanes: int  # conversions of one row group
    conversions: int  # lanes of one output
    legs: int  # columns of a lane, the first added, the second subtracted
    reserved: int  # reference columns, the last of each array, shared as second legs
    level_high: int
    digit_low: int
    digit_high: int
    input_low: int
    input_high: int
    passes: int
    codes: int  # number of converter codes
    verifies: int  # 1: cells can be read back
    name: str
    serial: str

    @property
    def stride(self) -> int:
        """Columns of its own that a lane has: the first column of lane q is stride · q."""
        return self.legs - (1 if self.reserved else 0)

    @property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """(first row, rows) of each row group of an array."""
        step = self.active_rows
        return tuple((row, min(step, self.rows - row)) for row in range(0, self.rows, step))


class Measured(Generic[T]):
    """A property of an instrument: a field of what a command answers, asked each time."""

    def __init__(self, command: Command, name: str, doc: str) -> None:
        self.command, self.name, self.__doc__ = command, name, doc

    def __get__(self, instrument: Instrument, owner: type[Instrument]) -> T:
        value: Any = instrument.ask(self.command).values[self.name]
        return value


class Instrument:
    """Identify, program, configure and read a board. Raises what its link raises; levels and codes are integers."""

    boots = Measured[int](STATUS, "boots", "How often the board has started.")
    writes = Measured[int](STATUS, "writes", "Blocks of cells written since it started.")
    faults = Measured[int](STATUS, "errors", "Commands it has refused.")
    conversions = Measured[int](STATUS, "conversions", "Conversions made since it started.")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.identity = self._identify()

    def ask(self, command: Command, data: np.ndarray | None = None, **values: float) -> Reply:
        """One command and its answer."""
        return next(iter(self.link.calls([Request(command, dict(values), data)])))

    def restart(self) -> None:
        """Begin anew after BoardReset; raises LinkError if another board answers."""
        self.link.restart()
        if (found := self._identify()) != self.identity:
            raise LinkError(f"another board answers: {found}")

    def _identify(self) -> Identity:
        reply = self.ask(IDENTIFY)
        name, _, serial = reply.array().tobytes().decode("utf-8", "replace").partition("\n")
        fields = {key: int(value) for key, value in reply.values.items() if key != "boots"}
        found = Identity(name=name[:128], serial=serial[:128], **fields)
        extents = (found.rows, found.active_rows, found.columns, found.lanes, found.conversions, found.legs)
        good = 1 <= found.arrays <= MOST_ARRAYS and all(1 <= n <= MOST_EXTENT for n in extents)
        good &= found.active_rows <= found.rows and found.legs <= 2 and 1 <= found.passes <= 64
        good &= 1 <= found.level_high <= 255 and found.digit_low <= 0 < found.digit_high <= 1 << 15
        good &= 2 <= found.codes <= 1 << 16 and found.lanes * found.stride + found.reserved <= found.columns
        if not good:
            raise LinkError(f"the board describes itself as {found}, which no board can be")
        if found.rows * found.columns > MOST_CELLS or found.arrays * found.lanes > MOST_LANES:
            raise LinkError(
                f"the board describes itself as {found.arrays} arrays of {found.rows} × {found.columns} cells and "
                f"{found.lanes} lanes; up to {MOST_CELLS} cells an array and {MOST_LANES} lanes in all are accepted"
            )
        return found

    def program(
        self, array: int, levels: Integer[np.ndarray, "rows columns"], row: int = 0, column: int = 0, tries: int = 0
    ) -> int:
        """Write a block of cells, its corner at (row, column). Returns how many blocks were written again.

        With ``tries`` the cells are read back and those that differ written again, so often; raises LinkError naming
        the first that still differs. Raises ValueError for levels the cells do not have.
        """
        high = self.identity.level_high
        if levels.size and (levels.min() < 0 or levels.max() > high):
            raise ValueError(f"levels {levels.min()} … {levels.max()}: the cells of the board hold 0 … {high}")
        for _ in self.link.calls(self._writes(array, levels, row, column)):
            pass
        for attempt in range(tries):
            wrong = np.argwhere(self.recall(array, row, column, *levels.shape) != levels)
            if not len(wrong):
                return attempt
            (top, left), (bottom, right) = wrong.min(0), wrong.max(0) + 1
            part = levels[top:bottom, left:right]
            for _ in self.link.calls(self._writes(array, part, row + int(top), column + int(left))):
                pass
        if tries and len(wrong := np.argwhere(self.recall(array, row, column, *levels.shape) != levels)):
            r, c = (int(i) for i in wrong[0])
            raise LinkError(
                f"array {array}: {len(wrong)} cells differ after {tries} more tries, the first at row {row + r}, "
                f"column {column + c}"
            )
        return tries

    def recall(self, array: int, row: int, column: int, rows: int, columns: int) -> Integer[np.ndarray, "rows columns"]:
        """The levels cells hold, as the board reads them back. Raises Refused where it cannot."""
        step = max(1, self.link.most // (2 * columns) if columns else 1)
        parts = []
        for first in range(0, rows, step):
            count = min(step, rows - first)
            reply = self.ask(RECALL, array=array, row=row + first, column=column, rows=count, columns=columns)
            parts.append(self._shaped(reply, "recall", count, columns))
        return np.concatenate(parts) if parts else np.zeros((0, columns), dtype=np.uint8)

    def configure(self, array: int, low: float, step: float) -> None:
        """Range of an array's converters: code c stands for low + step · c counts."""
        self.ask(CONVERTER, array=array, low=float(low), step=float(step))

    def drive(self, levels: np.ndarray) -> None:
        """What the word-line drivers give for the digits from lowest to highest, input steps."""
        self.ask(DRIVER, np.asarray(levels, dtype=np.float64))

    def read(
        self,
        array: int,
        row: int,
        x: Integer[np.ndarray, "vectors rows"],
        mode: Mode = "codes",
        first: int = 0,
        lanes: int | None = None,
    ) -> Integer[np.ndarray, "vectors passes lanes"]:
        """Codes of ``lanes`` lanes from ``first`` on, for vectors of inputs on the row group that begins at ``row``.

        ``mode``: ``digits`` drives x as it is, in one pass; ``codes`` drives its digits pass by pass and returns the
        codes of each; ``sums`` adds the passes up on the board, by radix. Rows beyond those given stay off.
        """
        lanes = self.identity.lanes - first if lanes is None else lanes
        passes = self.identity.passes if mode == "codes" else 1
        room = min(AT_ONCE // max(1, lanes * passes), self.link.most // max(4 * lanes * passes, 2 * x.shape[1]) - 1)
        step = max(1, room)

        def requests() -> Iterator[Request]:
            for start in range(0, len(x), step):
                part = x[start : start + step]
                values = {"array": array, "row": row, "rows": x.shape[1], "first": first, "lanes": lanes}
                values |= {"mode": MODES.index(mode), "vectors": len(part)}
                yield Request(READ, dict(values), part)

        found = np.empty((len(x), passes, lanes), dtype=np.int32)
        start = 0
        for reply in self.link.calls(requests()):
            count = min(step, len(x) - start)
            found[start : start + count] = self._shaped(reply, "read", count, passes, lanes)
            start += count
        return found

    @staticmethod
    def _shaped(reply: Reply, name: str, *shape: int) -> np.ndarray:
        data = reply.array()
        if tuple(reply.values.values()) != shape or data.size != np.prod(shape):
            raise LinkError(f"{name}: {data.size} numbers, announced as {reply.values}, where {shape} were asked for")
        return data.reshape(shape)

    def _writes(self, array: int, levels: np.ndarray, row: int, column: int) -> Iterator[Request]:
        rows, columns = levels.shape
        step = max(1, (self.link.most - 64) // max(1, columns))
        for first in range(0, rows, step):
            part = levels[first : first + step]
            values = {"array": array, "row": row + first, "column": column, "rows": len(part), "columns": columns}
            yield Request(WRITE, dict(values), part.astype(np.uint8))


def connect(address: str, timeout: float = 2.0, retries: int = 4) -> Instrument:
    """The instrument at an address, as ``ports.open_port`` reads it."""
    port, protocol = open_port(address)
    try:
        link: Link = FrameLink(port, timeout, retries) if protocol == "frames" else ScpiLink(port, timeout, retries)
        return Instrument(link)
    except BaseException:
        port.close()
        raise
