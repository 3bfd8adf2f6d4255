"""Streams of bytes to a board: a TCP socket, a serial line, or whatever PyVISA reaches."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable
from urllib.parse import parse_qs, urlsplit

CHUNK = 1 << 16
WRITTEN = 1 << 12  # bytes written at once
EARLY = 1 << 24  # bytes that may arrive while others are sent
PATIENCE = 5.0  # seconds


@runtime_checkable
class Port(Protocol):
    """A stream of bytes; losing it raises ConnectionError, after which ``reopen`` may bring it back."""

    address: str

    def send(self, data: bytes, seconds: float = PATIENCE) -> None:
        """Send all of it; raises TimeoutError where the board takes nothing for so long."""

    def receive(self, seconds: float) -> bytes:
        """What has arrived, after at most so long; nothing if nothing came."""

    def reopen(self) -> None:
        """Start anew, without what was still under way; raises OSError where that fails."""

    def close(self) -> None:
        """Let go."""


def _both(
    stream: Any,
    data: bytes,
    write: Callable[[memoryview], int],
    read: Callable[[], bytes],
    early: bytearray,
    seconds: float,
) -> bool:
    """Write ``data`` to a stream that does not block; False where nothing of it was taken for ``seconds``.

    What arrives meanwhile goes to ``early``: a board that waits for its answers to be taken takes no more questions,
    and who only writes would wait forever.
    """
    view, end = memoryview(data), time.monotonic() + seconds
    while view:
        room = [stream] if len(early) < EARLY else []
        readable, writable, _ = select.select(room, [stream], [], max(0.0, end - time.monotonic()))
        if readable:
            early += read()
        if writable:
            with suppress(BlockingIOError):
                view = view[write(view[:WRITTEN]) :]
                end = time.monotonic() + seconds
        elif time.monotonic() >= end:
            return False
    return True


def _first(early: bytearray) -> bytes:
    data = bytes(early[:CHUNK])
    del early[:CHUNK]
    return data


def _stuck(address: str, seconds: float) -> TimeoutError:
    return TimeoutError(f"{address}: the board has taken nothing for {seconds:g} s")


class TcpPort:
    """A TCP connection; ``seconds`` is how long connecting may take."""

    def __init__(self, host: str, port: int, seconds: float = PATIENCE) -> None:
        self.address, self._where, self._seconds = f"tcp://{host}:{port}", (host, port), seconds
        self._socket: socket.socket | None = None
        self._early = bytearray()
        self.reopen()

    def send(self, data: bytes, seconds: float = PATIENCE) -> None:
        held = self._held()
        try:
            sent = _both(held, data, held.send, lambda: self._taken(held), self._early, seconds)
        except OSError as error:
            raise ConnectionError(f"{self.address}: {error}") from None
        if not sent:
            raise _stuck(self.address, seconds)

    def receive(self, seconds: float) -> bytes:
        if self._early:
            return _first(self._early)
        held = self._held()
        try:
            if not select.select([held], [], [], max(seconds, 1e-3))[0]:
                return b""
            return self._taken(held)
        except OSError as error:
            raise ConnectionError(f"{self.address}: {error}") from None

    def _taken(self, held: socket.socket) -> bytes:
        data = held.recv(CHUNK)
        if not data:
            raise ConnectionError("the board closed the connection")
        return data

    def reopen(self) -> None:
        self.close()
        self._socket = socket.create_connection(self._where, timeout=self._seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)

    def close(self) -> None:
        self._early.clear()
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
            self._socket = None

    def _held(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionError(f"{self.address}: not connected")
        return self._socket


class SerialPort:
    """A serial line by pySerial."""

    def __init__(self, device: str, baud: int = 115200) -> None:
        try:
            import serial
        except ImportError as error:
            raise ImportError("a board on a serial line needs pySerial: pip install 'bitline[lab]'") from error
        self.address = f"serial:{device}"
        self._open = lambda: serial.Serial(device, baud, timeout=0, write_timeout=PATIENCE)
        self._early = bytearray()
        self._line: Any = self._open()

    def send(self, data: bytes, seconds: float = PATIENCE) -> None:
        line = self._line
        try:
            if not hasattr(line, "fileno"):  # Windows: the driver's own buffers
                line.write(data)
                return
            sent = _both(
                line,
                data,
                lambda part: os.write(line.fileno(), part),
                lambda: bytes(line.read(max(1, line.in_waiting))),
                self._early,
                seconds,
            )
        except OSError as error:
            raise ConnectionError(f"{self.address}: {error}") from None
        if not sent:
            raise _stuck(self.address, seconds)

    def receive(self, seconds: float) -> bytes:
        if self._early:
            return _first(self._early)
        try:
            self._line.timeout = max(seconds, 1e-3)
            first: bytes = self._line.read(1)
            self._line.timeout = 0
            return first + self._line.read(self._line.in_waiting) if first else b""
        except OSError as error:
            raise ConnectionError(f"{self.address}: {error}") from None

    def reopen(self) -> None:
        self.close()
        self._line = self._open()
        self._line.reset_input_buffer()

    def close(self) -> None:
        self._early.clear()
        with suppress(Exception):  # termios.error too, where the device is gone
            self._line.reset_output_buffer()  # else closing waits for a board that does not read
        with suppress(OSError):
            self._line.close()


class VisaPort:
    """An instrument by PyVISA: TCP sockets, VXI-11, serial, USB, GPIB.

    A thread of its own writes: a VISA library may wait without end for a board that stops reading, as PyVISA-py does on
    sockets. ``seconds``, ``PATIENCE`` at least, are those of the whole message.
    """

    def __init__(self, resource: str) -> None:
        try:
            import pyvisa
        except ImportError as error:
            raise ImportError("VISA instruments need PyVISA: pip install 'bitline[lab]'") from error
        self._pyvisa, self.address = pyvisa, f"visa:{resource}"
        try:
            self._manager = pyvisa.ResourceManager()
        except (OSError, ValueError):  # no VISA library of a vendor
            self._manager = pyvisa.ResourceManager("@py")
        self._resource: Any = None
        self._writer: threading.Thread | None = None
        self.reopen()

    def send(self, data: bytes, seconds: float = PATIENCE) -> None:
        resource, failed, seconds = self._resource, list[Exception](), max(seconds, PATIENCE)

        def write() -> None:
            try:
                resource.timeout = seconds * 1e3
                resource.write_raw(data)
            except Exception as error:
                failed.append(error)

        self._writer = threading.Thread(target=write, name=self.address, daemon=True)
        self._writer.start()
        self._writer.join(seconds)
        if self._writer.is_alive():
            raise _stuck(self.address, seconds)
        if failed:
            raise ConnectionError(f"{self.address}: {failed[0]}")

    def receive(self, seconds: float) -> bytes:
        errors = self._pyvisa.errors
        try:
            self._resource.timeout = max(seconds * 1e3, 1.0)
            data, _ = self._resource.visalib.read(self._resource.session, CHUNK)
            return bytes(data)
        except errors.VisaIOError as error:
            if error.error_code == self._pyvisa.constants.StatusCode.error_timeout:
                return b""
            raise ConnectionError(f"{self.address}: {error}") from None
        except errors.Error as error:
            raise ConnectionError(f"{self.address}: {error}") from None

    def reopen(self) -> None:
        self.close()
        try:
            name = self.address.removeprefix("visa:")
            self._resource = self._manager.open_resource(name, read_termination="\n", write_termination="")
        except self._pyvisa.errors.Error as error:
            raise ConnectionError(f"{self.address}: {error}") from None

    def close(self) -> None:
        if self._resource is None:
            return
        if self._writer is not None and self._writer.is_alive():
            with suppress(Exception):  # PyVISA-py's socket: what waits for it to take more goes on waiting otherwise
                self._resource.visalib.sessions[self._resource.session].interface.shutdown(socket.SHUT_RDWR)
        with suppress(self._pyvisa.errors.Error):
            self._resource.close()
        self._resource = self._writer = None


def open_port(address: str) -> tuple[Port, str]:
    """(the stream, ``frames`` or ``scpi``) behind an address.

    ``tcp://host:port`` and ``serial:/dev/ttyUSB0?baud=115200`` speak the binary protocol, ``scpi+tcp://…`` and
    ``scpi+serial:…`` SCPI on the same streams, ``visa:TCPIP0::host::5025::SOCKET`` SCPI through PyVISA. Raises
    ValueError for another address, OSError where nothing answers.
    """
    if address.startswith("visa:"):
        return VisaPort(address.removeprefix("visa:")), "scpi"
    protocol = "scpi" if address.startswith("scpi+") else "frames"
    parts = urlsplit(address.removeprefix("scpi+"))
    try:
        if parts.scheme == "tcp" and parts.hostname and parts.port:
            return TcpPort(parts.hostname, parts.port), protocol
        if parts.scheme == "serial" and parts.path:
            return SerialPort(parts.path, int(parse_qs(parts.query).get("baud", ["115200"])[0])), protocol
    except ValueError as error:
        raise ValueError(f"address {address!r}: {error}") from None
    raise ValueError(
        f"address {address!r}: expected tcp://host:port, serial:/dev/…?baud=…, scpi+tcp://…, scpi+serial:… or "
        "visa:<resource>"
    )
