"""What a board can be asked: each command is one declaration, and both protocols are made from it.

A command's fields are packed one after the other in the binary protocol and written with commas in SCPI; its array
follows them, as the rest of the payload or as a definite-length block (IEEE 488.2). Arrays are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bitline.lab.errors import LinkError

Number = int | float
Values = dict[str, Number]


@dataclass(frozen=True)
class Layout:
    """Named numbers in a row, each of a ``struct`` code (B, H, I, Q, i, d), then perhaps an array of one type."""

    fields: tuple[tuple[str, str], ...] = ()
    data: str | None = None  # NumPy type of the array; None: there is none

    @property
    def codes(self) -> struct.Struct:
        """The fields as bytes."""
        return struct.Struct("<" + "".join(code for _, code in self.fields))

    def pack(self, values: Values, data: np.ndarray | None) -> bytes:
        """Bytes of the fields and the array; raises ValueError naming a field that is missing or does not fit."""
        parts = []
        for name, code in self.fields:
            try:
                parts.append(struct.pack("<" + code, values[name]))
            except (KeyError, struct.error) as error:
                raise ValueError(f"{name} = {values.get(name)!r} is no number for {code!r}: {error}") from None
        if self.data is not None:
            parts.append(np.ascontiguousarray(data if data is not None else [], dtype=self.data).tobytes())
        return b"".join(parts)

    def unpack(self, payload: bytes) -> tuple[Values, np.ndarray | None]:
        """The inverse; raises ValueError where the length is wrong."""
        codes = self.codes
        if len(payload) < codes.size or (self.data is None and len(payload) > codes.size):
            raise ValueError(f"{len(payload)} bytes where {codes.size} are needed")
        values = dict(zip((name for name, _ in self.fields), codes.unpack_from(payload), strict=True))
        return values, None if self.data is None else self.array(payload[codes.size :])

    def array(self, payload: bytes) -> np.ndarray:
        """The array of these bytes; raises ValueError where they are no whole number of entries."""
        kind = np.dtype(self.data)
        if len(payload) % kind.itemsize:
            raise ValueError(f"{len(payload)} bytes are no whole number of {kind.name}")
        return np.frombuffer(payload, dtype=kind)


@dataclass(frozen=True)
class Command:
    """One thing a board can be asked: ``kind`` in frames, ``scpi`` its header in SCPI."""

    name: str
    kind: int
    scpi: str
    asks: Layout = Layout()
    answers: Layout = Layout()

    @property
    def query(self) -> bool:
        """Whether SCPI expects an answer."""
        return self.scpi.endswith("?")


def _u32(names: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, "I") for name in names.split())


OPEN = Command(  # binary only: a session keeps sequence numbers and answers over a lost connection
    "open", 0x01, "", Layout((("most", "I"),)), Layout(_u32("boots known expected window most"))
)
IDENTIFY = Command(
    "identify",
    0x02,
    "SYST:IDEN?",
    answers=Layout(
        (
            *_u32("boots arrays rows active_rows columns lanes conversions legs reserved level_high"),
            *(("digit_low", "i"), ("digit_high", "i"), ("input_low", "i"), ("input_high", "i")),
            *_u32("passes codes verifies"),
        ),
        "u1",
    ),
)
STATUS = Command("status", 0x03, "STAT:COND?", answers=Layout((*_u32("boots writes errors"), ("conversions", "Q"))))
WRITE = Command("write", 0x10, "CELL:DATA", Layout(_u32("array row column rows columns"), "u1"))
RECALL = Command(
    "recall", 0x11, "CELL:DATA?", Layout(_u32("array row column rows columns")), Layout(_u32("rows columns"), "u1")
)
CONVERTER = Command("converter", 0x12, "CONV:RANG", Layout((("array", "I"), ("low", "d"), ("step", "d"))))
DRIVER = Command("driver", 0x13, "DRIV:LEV", Layout((), "<f8"))
READ = Command(
    "read",
    0x20,
    "READ:VECT?",
    Layout(_u32("array row rows first lanes mode vectors"), "<i2"),
    Layout(_u32("vectors passes lanes"), "<i4"),
)
COMMANDS = {command.name: command for command in (OPEN, IDENTIFY, STATUS, WRITE, RECALL, CONVERTER, DRIVER, READ)}
BY_KIND = {command.kind: command for command in COMMANDS.values()}

Mode = Literal["digits", "codes", "sums"]
MODES: tuple[Mode, ...] = ("digits", "codes", "sums")  # the number of a mode is its place
OK, BAD_COMMAND, BAD_FIELD, NOT_THERE, OUT_OF_ORDER, BUSY, NO_SESSION, BAD_VERSION, TOO_LONG, FAULT = range(10)
CODES = (
    *("ok", "unknown command", "bad field", "address not on the board", "out of order", "busy", "unknown session"),
    *("unknown version", "too long", "board fault"),
)


@dataclass(frozen=True)
class Request:
    """A command with its fields and array."""

    command: Command
    values: Values
    data: np.ndarray | None = None


@dataclass(frozen=True)
class Reply:
    """What a board answered."""

    values: Values
    data: np.ndarray | None = None

    def array(self) -> np.ndarray:
        """The array, which the command promises."""
        if self.data is None:
            raise LinkError("the reply holds no array")
        return self.data
