"""The host's end of the binary protocol: sessions, sequence numbers, windows, time-outs, resending, reconnecting.

A request keeps its sequence number however often it is sent, and the board answers a number it knows from memory: so
everything is done exactly once, whatever the link loses, doubles, delays or damages, and over a lost connection too.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Protocol, runtime_checkable

from bitline.lab.commands import BUSY, CODES, NO_SESSION, OK, OPEN, OUT_OF_ORDER, Command, Reply, Request
from bitline.lab.errors import BoardReset, BoardTimeout, LinkError, Refused
from bitline.lab.frames import REPLY, VERSION, Frame, Parser
from bitline.lab.ports import Port

MOST = 1 << 20  # bytes of a payload this host takes
WINDOW = 64  # requests in flight at most, whatever a board grants
JUNK = 1 << 24  # bytes that are no frame before a board is given up


@runtime_checkable
class Link(Protocol):
    """Whatever carries commands to a board and its answers back."""

    most: int  # bytes of fields and array that fit one message

    def calls(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """The replies in order; requests are taken as the board has room for them."""

    def restart(self) -> None:
        """Begin anew with a board that was reset."""

    def close(self) -> None:
        """Let go of the board."""


@dataclass
class _Sent:
    """A request without an answer; ``out``: sent since its last time-out, ``before``: sent at all."""

    command: Command
    frame: bytes
    out: bool = False
    before: bool = False


class FrameLink:
    """A board behind the binary protocol.

    ``timeout`` seconds without an answer, or without the board taking a byte of what it is sent, and all that is
    unanswered is sent again, ``retries`` times in a row; then BoardTimeout. What the board refuses raises Refused, a
    board that lost its session BoardReset, and a breach of the protocol LinkError. Neither a reply's size nor their
    number can make the host wait longer or take more memory.
    """

    def __init__(self, port: Port, timeout: float = 2.0, retries: int = 4, session: int | None = None) -> None:
        self.port, self.timeout, self.retries = port, timeout, retries
        self.session = session if session is not None else secrets.randbits(31) | 1
        self.most, self.window, self.boots = MOST, 1, -1
        self._remembered = 1  # answers that the board has kept
        self.resent = 0  # requests sent more than once, for who wants to know how good the link is
        self._parser = Parser(MOST)
        self._longest = 0  # bytes of a frame sent
        self._sequence = 0
        self._stuck = False  # the board takes nothing more: what was sent last is not with it
        self._open()

    def __enter__(self) -> FrameLink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the port; the board keeps the session for a while."""
        self.port.close()

    def restart(self) -> None:
        """Begin a new session, after BoardReset: what was under way is given up."""
        self.session = secrets.randbits(31) | 1
        self._parser.clear()
        self._open()

    def calls(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """As ``Link``; with an error nothing more is sent, and what is under way is waited for first."""
        source, pending = iter(requests), OrderedDict[int, _Sent]()
        answered: dict[int, Frame] = {}
        commands: dict[int, Command] = {}
        following, more = self._sequence, True
        while True:
            while more and self._room(pending) and not (pending and self._stuck):
                request = next(source, None)
                if request is None:
                    more = False
                    break
                self._add(request, pending, commands)
                self._send(pending)
            if not pending and not answered:
                return
            if following not in answered:
                self._await(pending, answered)
            while following in answered:
                frame, command = answered.pop(following), commands.pop(following)
                following += 1
                try:
                    yield self._reply(frame, command)
                except Refused:
                    while pending:
                        self._await(pending, answered)
                    raise

    def _room(self, pending: OrderedDict[int, _Sent]) -> bool:
        """Whether one more may be asked: the board has room, and does not forget its answer to the oldest."""
        oldest = next(iter(pending), self._sequence)
        return len(pending) < self.window and self._sequence - oldest < self._remembered

    def _add(self, request: Request, pending: OrderedDict[int, _Sent], commands: dict[int, Command]) -> None:
        payload = request.command.asks.pack(request.values, request.data)
        if len(payload) > self.most:
            raise ValueError(f"{request.command.name}: {len(payload)} bytes, the board takes {self.most} at once")
        frame = Frame(request.command.kind, self.session, self._sequence, payload).encode()
        pending[self._sequence], commands[self._sequence] = _Sent(request.command, frame), request.command
        self._sequence += 1

    def _send(self, pending: OrderedDict[int, _Sent], filler: bytes = b"") -> None:
        """Send what is not out, in order, while the board has room; up to what is not taken for ``timeout`` seconds.
        ``filler`` goes before it."""
        self._stuck = False
        room = self.window - sum(sent.out for sent in pending.values())
        due = [sent for sent in pending.values() if not sent.out][: max(0, room)]
        try:
            for sent in due:
                self.port.send(filler + sent.frame, self.timeout)
                filler, self._longest = b"", max(self._longest, len(sent.frame))
                self.resent += sent.before
                sent.out = sent.before = True
        except TimeoutError:
            self._stuck = True
        except ConnectionError:
            pass  # found again, and mended, when the answer is waited for

    def _send_again(self, pending: OrderedDict[int, _Sent], filler: bytes = b"") -> None:
        """Send from the first on, whatever was sent before."""
        for sent in pending.values():
            sent.out = False
        self._send(pending, filler)

    def _deadline(self) -> float:
        """When to send again; where the board took nothing for ``timeout`` seconds that time is over."""
        return time.monotonic() + (0.0 if self._stuck else self.timeout)

    def _await(self, pending: OrderedDict[int, _Sent], answered: dict[int, Frame]) -> None:
        """Wait until one more request is answered, sending again what is not.

        A frame that lost its end swallows what comes next, on either side: where nothing was heard twice in a row the
        host gives up the one it holds, and completes one that the board may hold by zeros.
        """
        tries, silent, ordered, found = 0, 0, False, list[Frame]()
        if not self._stuck:
            self._send(pending)
        deadline = self._deadline()
        while True:
            left = deadline - time.monotonic()
            again = left <= 0
            try:
                frames = found + self._parser.feed(self.port.receive(0.0 if found else max(left, 0.0)))
            except ConnectionError:
                self._reconnect(pending)
                frames, again = [], True
            found = []
            if self._parser.junk > JUNK:
                raise LinkError(f"{self.port.address}: {self._parser.junk} bytes came that are no frames")
            progress = False
            for frame in frames:
                status = self._status(frame, pending)
                silent = silent if status is None else -1
                if status == OUT_OF_ORDER:
                    again, ordered = again or not ordered, True  # one before it was lost
                elif status is not None and status != BUSY:
                    answered[frame.sequence] = frame
                    del pending[frame.sequence]
                    progress = True
            if progress:
                self._parser.junk = 0
                return
            if again:
                tries += 1
                if tries > self.retries:
                    raise BoardTimeout(
                        f"{self.port.address}: no answer to {next(iter(pending.values())).command.name} after "
                        f"{tries} tries of {self.timeout:g} s"
                    )
                silent += 1
                found = self._parser.skip() if silent > 1 else []
                self._send_again(pending, bytes(self._longest if silent > 1 else 0))
                deadline = self._deadline()

    def _status(self, frame: Frame, pending: OrderedDict[int, _Sent]) -> int | None:
        """Status of a reply that is waited for; None for any other frame."""
        if frame.version != VERSION:
            raise LinkError(f"{self.port.address} speaks version {frame.version} of the protocol, this host {VERSION}")
        sent = pending.get(frame.sequence)
        if sent is None or frame.session != self.session or frame.kind != sent.command.kind | REPLY:
            return None
        if len(frame.payload) < 4:
            raise LinkError(f"{self.port.address}: a reply of {len(frame.payload)} bytes has no status")
        status, credit = (int.from_bytes(frame.payload[i : i + 2], "little") for i in (0, 2))
        if status == NO_SESSION:
            raise BoardReset(f"{self.port.address}: the board started anew; program and configure it again")
        self.window = max(1, min(credit, WINDOW))
        return status

    def _reply(self, frame: Frame, command: Command) -> Reply:
        status, body = int.from_bytes(frame.payload[:2], "little"), frame.payload[4:]
        if status != OK:
            name = CODES[status] if status < len(CODES) else f"status {status}"
            text = body[:256].decode("utf-8", "replace")
            raise Refused(status, f"{self.port.address} refused {command.name}: {name}{': ' if text else ''}{text}")
        try:
            return Reply(*command.answers.unpack(body))
        except ValueError as error:
            raise LinkError(f"{self.port.address}: reply to {command.name}: {error}") from None

    def _reconnect(self, pending: OrderedDict[int, _Sent]) -> None:
        """The connection again, with the same session; raises BoardTimeout where the board stays away."""
        self._parser.clear()
        end = time.monotonic() + self.timeout * (self.retries + 1)
        while True:
            try:
                self.port.reopen()
                break
            except OSError as error:
                if time.monotonic() >= end:
                    raise BoardTimeout(f"{self.port.address}: the board is gone: {error}") from None
                time.sleep(min(0.05, self.timeout / 4))
        self._open(resume=True)

    def _open(self, resume: bool = False) -> None:
        """Begin or take up the session."""
        request = Request(OPEN, {"most": MOST})
        frame = Frame(OPEN.kind, self.session, 0, OPEN.asks.pack(request.values, None)).encode()
        pending = OrderedDict({0: _Sent(OPEN, frame)})
        for attempt in count(1):
            self._send_again(pending)
            deadline = self._deadline()
            while (left := deadline - time.monotonic()) > 0:
                try:
                    frames = self._parser.feed(self.port.receive(left))
                except ConnectionError:
                    self._parser.clear()
                    break
                for found in frames:
                    if self._status(found, pending) is not None:
                        return self._opened(self._reply(found, OPEN), resume)
            if attempt > self.retries:
                raise BoardTimeout(f"{self.port.address}: nothing answers in version {VERSION} of the protocol")
            if left > 0:  # the connection was lost
                try:
                    self.port.reopen()
                except OSError:
                    time.sleep(min(0.05, left))
        return None

    def _opened(self, reply: Reply, resume: bool) -> None:
        if resume and not reply.values["known"]:
            raise BoardReset(f"{self.port.address}: the board started anew; program and configure it again")
        self.boots = int(reply.values["boots"])
        self.window = self._remembered = max(1, min(int(reply.values["window"]), WINDOW))
        self.most = max(1024, min(int(reply.values["most"]), MOST))
        if not resume:
            self._sequence = int(reply.values["expected"])
