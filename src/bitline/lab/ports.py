"""Streams of bytes to a board: a TCP socket, a serial line, or whatever PyVISA reaches."""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

CHUNK = 1 << 16


class Port(Protocol):
    """A stream of bytes; losing it raises ConnectionError, after which ``reopen`` may bring it back."""

    address: str

    def send(self, data: bytes) -> None:
        """Send all of it."""

    def receive(self, seconds: float) -> bytes:
        """What has arrived, after at most so long; nothing if nothing came."""

    def reopen(self) -> None:
        """Start anew, without what was still under way; raises OSError where that fails."""

    def close(self) -> None:
        """Let go."""


class TcpPort:
    """A TCP connection; ``seconds`` is how long connecting and sending may take."""

    def __init__(self, host: str, port: int, seconds: float = 5.0) -> None:
        self.address, self._where, self._seconds = f"tcp://{host}:{port}", (host, port), seconds
        self._socket: socket.socket | None = None
        self.reopen()

    def send(self, data: bytes) -> None:
        held = self._held()
        try:
            held.settimeout(self._seconds)
            held.sendall(data)
        except OSError as error:
            raise ConnectionError(f"{self.address}: {error}") from None

    def receive(self, seconds: float) -> bytes:
        held = self._held()
        try:
            held.settimeout(max(seconds, 1e-3))
            data = held.recv(CHUNK)
        except TimeoutError:
            return b""
        except OSError as error:
            raise ConnectionError(f"{self.address}: {error}") from None
        if not data:
            raise ConnectionError(f"{self.address}: the board closed the connection")
        return data

    def reopen(self) -> None:
        self.close()
        self._socket = socket.create_connection(self._where, timeout=self._seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def _held(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionError(f"{self.address}: not connected")
        return self._socket


class SerialPort:
    """A serial line by pySerial."""

    def __init__(self, device: str, baud: int = 115200, seconds: float = 5.0) -> None:
        try:
            import serial
        except ImportError as error:
            raise ImportError("a board on a serial line needs pySerial: pip install 'bitline[lab]'") from error
        self.address = f"serial:{device}"
        self._open = lambda: serial.Serial(device, baud, timeout=0, write_timeout=seconds)
        self._line: Any = self._open()

    def send(self, data: bytes) -> None:
        try:
            self._line.write(data)
        except OSError as error:
            raise ConnectionError(f"{self.address}: {error}") from None

    def receive(self, seconds: float) -> bytes:
        try:
            self._line.timeout = max(seconds, 1e-3)
            first: bytes = self._line.read(1)
            return first + self._line.read(self._line.in_waiting) if first else b""
        except OSError as error:
            raise ConnectionError(f"{self.address}: {error}") from None

    def reopen(self) -> None:
        self.close()
        self._line = self._open()
        self._line.reset_input_buffer()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._line.close()


class VisaPort:
    """An instrument by PyVISA: TCP sockets, VXI-11, serial, USB, GPIB."""

    def __init__(self, resource: str, seconds: float = 5.0) -> None:
        try:
            import pyvisa
        except ImportError as error:
            raise ImportError("VISA instruments need PyVISA: pip install 'bitline[lab]'") from error
        self._pyvisa, self.address, self._seconds = pyvisa, f"visa:{resource}", seconds
        try:
            self._manager = pyvisa.ResourceManager()
        except (OSError, ValueError):  # no VISA library of a vendor
            self._manager = pyvisa.ResourceManager("@py")
        self._resource: Any = None
        self.reopen()

    def send(self, data: bytes) -> None:
        try:
            self._resource.timeout = self._seconds * 1e3
            self._resource.write_raw(data)
        except self._pyvisa.errors.Error as error:
            raise ConnectionError(f"{self.address}: {error}") from None

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
        if self._resource is not None:
            with contextlib.suppress(self._pyvisa.errors.Error):
                self._resource.close()
            self._resource = None


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
