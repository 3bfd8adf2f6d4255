"""The same commands as SCPI: lines of text with definite-length blocks (IEEE 488.2), and the host's end of it.

    CELL:DATA 0,0,0,64,128,#48192<8192 bytes>
    READ:VECT? 0,0,64,0,128,1,32,#44096<4096 bytes>   →   32,4,128,#565536<65536 bytes>
    SYST:ERR?                                         →   0,"No error"

The host asks SYST:ERR? after every command. SCPI has neither checks nor sequence numbers: a command that got no answer
is sent again as a whole, which writes the same cells again, or reads anew.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import numpy as np

from bitline.lab.commands import COMMANDS, FAULT, IDENTIFY, STATUS, Command, Layout, Reply, Request, Values
from bitline.lab.errors import BoardReset, BoardTimeout, LinkError, Refused
from bitline.lab.ports import Port

MOST = 1 << 20  # bytes of a block
LINE = 1 << 12  # bytes of a line beside its block
BY_HEADER = {command.scpi: command for command in COMMANDS.values() if command.scpi}
ERROR = b"SYST:ERR?\n"


def block(data: bytes) -> bytes:
    """A definite-length block: #, the number of digits, the length, the bytes."""
    size = str(len(data)).encode()
    return b"#" + str(len(size)).encode() + size + data


def write(layout: Layout, values: Values, data: np.ndarray | None) -> bytes:
    """Fields and array as SCPI arguments; raises ValueError as ``Layout.pack`` does."""
    packed = layout.pack(values, data)  # checks the fields
    parts = [repr(values[name]).encode() for name, _ in layout.fields]
    if layout.data is not None:
        parts.append(block(packed[layout.codes.size :]))
    return b",".join(parts)


def read(layout: Layout, text: bytes) -> tuple[Values, np.ndarray | None]:
    """The inverse of ``write``; raises ValueError where there is more or less than promised."""
    *parts, rest = text.split(b",", len(layout.fields)) if layout.fields else [text]
    if layout.data is None:
        parts, rest = ([*parts, rest] if layout.fields else []), b""
    if len(parts) != len(layout.fields):
        raise ValueError(f"{len(parts)} numbers where {len(layout.fields)} are needed")
    values: Values = {}
    for (name, code), part in zip(layout.fields, parts, strict=True):
        values[name] = float(part) if code == "d" else int(part)
    layout.pack(values, None)
    if layout.data is None:
        return values, None
    if not rest.startswith(b"#"):
        raise ValueError("a block is missing")
    digits = int(rest[1:2])
    body = rest[2 + digits :]
    if int(rest[2 : 2 + digits] or b"0") != len(body):
        raise ValueError(f"a block of {len(body)} bytes announces {rest[2 : 2 + digits]!r}")
    return values, layout.array(body)


class Lines:
    """Lines in a stream, blocks and all. Raises LinkError for a line or a block that is longer than allowed."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held = bytearray()

    def feed(self, data: bytes) -> None:
        """More of the stream."""
        self._held += data

    def clear(self) -> None:
        """Forget half a line."""
        self._held.clear()

    def take(self) -> bytes | None:
        """The next whole line without its end; None while it is not whole."""
        held = self._held
        end, start = held.find(b"\n"), held.find(b"#")
        if start >= 0 and (end < 0 or start < end) and start + 1 < len(held):
            digits = held[start + 1] - ord("0")
            if not 1 <= digits <= 9:
                raise LinkError(f"a block announces {digits} digits; 1 to 9 are allowed")
            size = bytes(held[start + 2 : start + 2 + digits])
            if len(size) < digits:
                return None
            if not size.isdigit() or int(size) > self.most:
                raise LinkError(f"a block announces {size!r} bytes; up to {self.most} are allowed")
            end = start + 2 + digits + int(size)
            if len(held) <= end:
                return None
            if held[end] != ord("\n"):
                raise LinkError("a block is followed by something else than the end of its line")
        if end < 0:
            if start < 0 and len(held) > LINE:
                raise LinkError(f"{len(held)} bytes without the end of a line")
            return None
        line = bytes(held[:end])
        del held[: end + 1]
        return line.rstrip(b"\r") if start < 0 or start > end else line


class ScpiLink:
    """A board behind SCPI; arguments and errors as ``FrameLink``."""

    def __init__(self, port: Port, timeout: float = 2.0, retries: int = 4) -> None:
        self.port, self.timeout, self.retries = port, timeout, retries
        self.most, self.boots = MOST // 4, -1
        self._lines = Lines(MOST)
        self.restart()

    def restart(self) -> None:
        """Take the board as it is now."""
        self.boots = int(self._tried(Request(IDENTIFY, {})).values["boots"])

    def close(self) -> None:
        """Close the port."""
        self.port.close()

    def calls(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """As ``Link``: one after the other."""
        for request in requests:
            yield self._tried(request)

    def _tried(self, request: Request) -> Reply:
        missed: Exception | None = None
        for attempt in range(self.retries + 1):
            try:
                if attempt:
                    self._again()
                return self._asked(request)
            except BoardReset:
                raise
            except (LinkError, ConnectionError, TimeoutError) as error:
                missed = error
        raise BoardTimeout(
            f"{self.port.address}: no good answer to {request.command.name} in {self.retries + 1} tries: {missed}"
        )

    def _again(self) -> None:
        """A clean start after a failure; raises BoardReset if the board was reset meanwhile."""
        self._lines.clear()
        end = time.monotonic() + self.timeout
        while True:
            try:
                self.port.reopen()
                break
            except OSError:
                if time.monotonic() >= end:
                    raise ConnectionError(f"{self.port.address}: the board is gone") from None
                time.sleep(min(0.05, self.timeout / 4))
        if self.boots >= 0 and self._asked(Request(STATUS, {})).values["boots"] != self.boots:
            raise BoardReset(f"{self.port.address}: the board started anew; program and configure it again")

    def _asked(self, request: Request) -> Reply:
        command = request.command
        arguments = write(command.asks, request.values, request.data)
        self.port.send(command.scpi.encode() + (b" " + arguments if arguments else b"") + b"\n" + ERROR, self.timeout)
        deadline = time.monotonic() + self.timeout
        line = self._line(deadline)
        refused = _error(line)
        if refused is not None or not command.query:
            code, text = refused or (FAULT, f"{line[:40]!r} in place of an error number")
            if code == 0 and not command.query:
                return Reply({})
            if refused is None or code == 0:
                raise LinkError(f"{self.port.address}: {command.name}: {text}")
            raise Refused(-code, f"{self.port.address} refused {command.name}: {text}")
        try:
            reply = Reply(*read(command.answers, line))
        except ValueError as error:
            raise LinkError(f"{self.port.address}: reply to {command.name}: {error}") from None
        if (_error(self._line(deadline)) or (FAULT, ""))[0] != 0:
            raise LinkError(f"{self.port.address}: {command.name} was answered, and an error with it")
        return reply

    def _line(self, deadline: float) -> bytes:
        while (line := self._lines.take()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise LinkError(f"{self.port.address}: no answer in {self.timeout:g} s")
            self._lines.feed(self.port.receive(left))
        return line


def _error(line: bytes) -> tuple[int, str] | None:
    """(number, text) of an answer to SYST:ERR?; None for any other line."""
    number, comma, text = line.partition(b',"')
    if not comma or not number.lstrip(b"-").isdigit():
        return None
    return int(number), text.rstrip(b'"').decode("utf-8", "replace")


def parse(line: bytes) -> tuple[Command, Values, np.ndarray | None]:
    """A command as a board reads it; raises ValueError for one it does not know or that is not whole."""
    header, _, arguments = line.partition(b" ")
    command = BY_HEADER.get(header.decode("ascii", "replace").upper())
    if command is None:
        raise ValueError(f"undefined header {header[:40]!r}")
    return command, *read(command.asks, arguments)
