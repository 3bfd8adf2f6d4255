"""``bitline lab emulate``: a virtual board in a process of its own, behind both protocols, on sockets and a pty."""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from bitline.lab import scpi
from bitline.lab.board import Board
from bitline.lab.commands import CODES
from bitline.lab.errors import LinkError, Refused
from bitline.lab.faults import Faults, Line
from bitline.lab.frames import Parser
from bitline.lab.responder import Responder

CHUNK = 1 << 16
NO_ERROR = '0,"No error"'


@runtime_checkable
class Stream(Protocol):
    """Bytes in and out; ``receive`` gives none at the end."""

    def receive(self) -> bytes:
        """What has arrived, at least one byte; none where the stream has ended."""

    def send(self, data: bytes) -> None:
        """Send all of it."""


class SocketStream:
    """A connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self) -> bytes:
        return self._socket.recv(CHUNK)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)


class PtyStream:
    """The board's end of a pseudo-terminal; ``name`` is the device the host opens."""

    def __init__(self) -> None:
        import tty

        self._board, self._host = os.openpty()  # the host's end stays open: closing it does not end the line
        tty.setraw(self._host)
        self.name = os.ttyname(self._host)

    def receive(self) -> bytes:
        return os.read(self._board, CHUNK)

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._board, view) :]


class Served:
    """A board behind its protocols, one command at a time whoever asks, with the faults of its links.

    ``happened`` counts the messages that something happened to, by kind of fault.
    """

    def __init__(self, board: Board, faults: Faults | None = None, window: int = 8) -> None:
        self.board, self.faults = board, faults or Faults()
        self.responder = Responder(board, window, faults=self.faults)
        self.happened = Counter[str]()
        self._lock = threading.Lock()
        self._asked = 0
        self._closed = threading.Event()
        self._sockets: list[socket.socket] = []
        torch.broadcast_shapes((1,), (1,))  # imports for seconds, the first time: now, not while a host waits

    def listen(self, protocol: str, host: str = "127.0.0.1", port: int = 0) -> int:
        """Serve ``frames`` or ``scpi`` on a TCP port (0: any that is free); returns its number."""
        server = socket.create_server((host, port))
        self._sockets.append(server)
        threading.Thread(target=self._accept, args=(server, protocol), daemon=True).start()
        return int(server.getsockname()[1])

    def pty(self, protocol: str = "frames") -> str:
        """Serve on a pseudo-terminal; returns the device to open."""
        stream = PtyStream()
        threading.Thread(target=self._converse, args=(stream, protocol), daemon=True).start()
        return stream.name

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        for server in self._sockets:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # else the thread that accepts keeps it open
            server.close()

    def _accept(self, server: socket.socket, protocol: str) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=self._connected, args=(connection, protocol), daemon=True).start()

    def _connected(self, connection: socket.socket, protocol: str) -> None:
        with connection:
            self._converse(SocketStream(connection), protocol)

    def _converse(self, stream: Stream, protocol: str) -> None:
        answers = self._frames if protocol == "frames" else self._lines
        try:
            answers(stream)
        except (OSError, LinkError):
            return  # the host is gone, or talks nonsense: the connection ends, the board stays

    def _frames(self, stream: Stream) -> None:
        inward, outward = (Line(self.faults, name, self.happened) for name in ("in", "out"))
        parser = Parser(self.board.most)
        damaged = Parser(self.board.most)  # behind the faults of the line
        while data := self._heard(stream):
            messages = [message for frame in parser.feed(data) for message in inward.passes(frame.encode())]
            messages.insert(0, bytes(parser.junk))  # what is no frame
            parser.junk = 0
            for message in messages:
                for request in damaged.feed(message):
                    self._respond(stream, outward, lambda request=request: self.responder.answer(request))  # type: ignore[misc]

    def _heard(self, stream: Stream) -> bytes:
        """What has arrived; a board that is deaf holds the stream and reads nothing."""
        if self.faults.deaf is not None and self._asked >= self.faults.deaf:
            self._closed.wait()
            return b""
        return stream.receive()

    def _lines(self, stream: Stream) -> None:
        lines, queue = scpi.Lines(self.board.most), list[str]()
        while data := self._heard(stream):
            lines.feed(data)
            while (line := lines.take()) is not None:
                self._respond(stream, None, lambda line=line: self._scpi(line, queue))  # type: ignore[misc]

    def _respond(self, stream: Stream, outward: Line | None, answer: Callable[[], bytes | None]) -> None:
        faults = self.faults
        with self._lock:
            self._asked += 1
            if faults.reset == self._asked:
                self.responder.reset()
            reply = answer()
            if faults.stall is not None and self._asked >= faults.stall:
                return
            broken = faults.disconnect == self._asked
        if not reply:
            return
        if broken:
            stream.send(reply[: len(reply) // 2])
            raise ConnectionResetError("as asked by the faults")
        for message in [reply] if outward is None else outward.passes(reply):
            stream.send(message)

    def _scpi(self, line: bytes, queue: list[str]) -> bytes | None:
        """The answer to one line; errors wait in the queue for SYST:ERR?."""
        text = line.strip().upper()
        if text in (b"", b"*CLS", b"*RST"):
            queue.clear()
            return None
        if text == b"SYST:ERR?":
            return (queue.pop(0) if queue else NO_ERROR).encode() + b"\n"
        if text == b"*OPC?":
            return b"1\n"
        if text == b"*IDN?":
            return f"Bitline,{self.board.macro.name},{self.board.serial},1\n".encode()
        try:
            command, values, data = scpi.parse(line)
        except ValueError as error:
            queue.append(_queued(113, str(error)))
            return None
        try:
            reply = self.board.answer(command, values, data)
        except Refused as error:
            name = CODES[error.code] if error.code < len(CODES) else ""
            queue.append(_queued(error.code, f"{name}: {error}"))
            return None
        return scpi.write(command.answers, reply.values, reply.data) + b"\n" if command.query else None


def _queued(code: int, text: str) -> str:
    clean = "".join(c for c in text if c.isprintable() and c not in '"#')
    return f'-{code},"{clean[:200]}"'


def announce(path: Path | None, addresses: dict[str, str]) -> str:
    """The addresses as a line of JSON; also written to ``path``, whole or not at all."""
    import json

    from bitline.files import write_atomic

    line = json.dumps(addresses)
    if path is not None:
        write_atomic(path, line + "\n")
    return line
