"""Boards that lie, flood and fall silent, at once or in mid-sweep: what they cost a host in time and memory."""

from __future__ import annotations

import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import pytest

from bitline.lab import Board, Instrument, LinkError, characterize, connect
from bitline.lab.commands import BUSY, NO_SESSION, OPEN, OUT_OF_ORDER
from bitline.lab.faults import Line
from bitline.lab.frames import HEADER, MAGIC, VERSION, Frame, Parser
from bitline.lab.link import MOST, FrameLink
from bitline.lab.ports import CHUNK, EARLY, TcpPort
from bitline.lab.responder import Responder
from bitline.lab.scpi import ScpiLink
from bitline.lab.serve import Served, Stream
from bitline.samples import Samples
from test_lab_link import MACRO, board

MEMORY = 8 << 20  # bytes; the largest payload is 1 MiB
ZEROS, ONES = bytes(1 << 16), b"1" * (1 << 16)


@contextmanager
def bounded(memory: int = MEMORY) -> Iterator[None]:
    """What is done within takes so much memory at most."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < memory


def hostile(talk: Callable[[socket.socket], None]) -> str:
    """The address of a board that says what ``talk`` sends to each that connects."""
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with server:
            for _ in range(40):
                connection, _ = server.accept()
                with connection:
                    try:
                        talk(connection)
                    except OSError:
                        continue

    threading.Thread(target=run, daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


def endless(data: bytes, first: bytes = b"") -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(data)

    return talk


def once(data: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        connection.sendall(data)
        while connection.recv(1 << 16):
            pass

    return talk


def header(length: int) -> bytes:
    """A sound header, its check too, that promises ``length`` bytes."""
    head = HEADER.pack(MAGIC, VERSION, 0x81, 9, 0, length)
    return head + zlib.crc32(head).to_bytes(4, "little")


# --------------------------------------------------------------------------------------------------------- while opened

HUGE = header(2**32 - 1)
NOBODY = "nothing answers in version 1"
TALKS = {
    "junk without end": (endless(bytes(1 << 16)), NOBODY),
    "headers without end": (endless(b"\xb1\x7e\x01" * 1000), NOBODY),
    "frames nobody asked for": (endless(Frame(0x90, 9, 77, b"\0\0\0\0").encode() * 100), NOBODY),
    "a length beyond all bounds": (once(HUGE), NOBODY),
    "a length beyond all bounds, and bytes": (endless(ZEROS, HUGE), NOBODY),
    "lengths beyond all bounds without end": (endless(HUGE * 100), NOBODY),
    "a reply that never ends": (endless(ZEROS, header(MOST)), NOBODY),
    "promises without end": (endless(header(MOST) * 100), NOBODY),
    "a reply without status": (once(Frame(0x81, 9, 0, b"").encode()), "a reply of 0 bytes has no status"),
    "a reply cut short": (once(Frame(0x81, 9, 0, b"\0\0\1\0\0\0").encode()), "reply to open: 2 bytes where 20"),
    "nothing": (once(b""), NOBODY),
}


@pytest.mark.parametrize("talk", TALKS)
def test_a_hostile_board_can_neither_hang_nor_exhaust_the_host(talk: str) -> None:
    said, told = TALKS[talk]
    port, started = TcpPort(*_split(hostile(said))), time.monotonic()
    with bounded(), pytest.raises(LinkError, match=told):
        FrameLink(port, timeout=0.1, retries=2, session=9)
    assert time.monotonic() - started < 5
    port.close()


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def test_a_length_beyond_what_was_agreed_is_damage_and_hides_nothing() -> None:
    """A header is held until its payload has come, or is thrown away: the length alone decides."""
    good = Frame(1, 2, 3, b"more")
    for length, junk in ((1000, 0), (1001, len(HUGE)), (2**32 - 1, len(HUGE))):
        parser = Parser(1000)
        assert parser.feed(header(length)) == []
        assert parser.junk == junk
        assert parser.feed(good.encode()) == ([good] if junk else [])
    opened = Responder(board()).answer(Frame(OPEN.kind, 9, 0, OPEN.asks.pack({"most": MOST}, None)))
    assert opened is not None
    link = FrameLink(TcpPort(*_split(hostile(once(HUGE + opened)))), timeout=60.0, retries=0, session=9)
    assert link.boots == 1
    link.close()


def test_promises_within_promises_cost_no_more_than_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each header of 20 bytes promises 100 000: all but a few are dropped unread."""
    checked, crc32 = 0, zlib.crc32

    def counted(data: bytes) -> int:
        nonlocal checked
        checked += len(data)
        return crc32(data)

    most, stream, parser, good = 100_000, header(100_000) * 20_000, Parser(100_000), Frame(1, 2, 3, b"more")
    monkeypatch.setattr("bitline.lab.frames.zlib.crc32", counted)
    for start in range(0, len(stream), CHUNK):
        assert parser.feed(stream[start : start + CHUNK]) == []
    assert checked < 4 * len(stream) + 10 * most
    found = [frame for _ in range(most // 1000 + 200) for frame in parser.feed(good.encode() * 30)]
    assert found[-1] == good


def test_a_flood_while_sending_is_held_up_to_a_bound() -> None:
    port, much = TcpPort(*_split(hostile(endless(ZEROS)))), bytes(1 << 26)
    with bounded(2 * EARLY):
        with pytest.raises(TimeoutError, match="has taken nothing"):
            port.send(much, 0.5)
        held = 0
        while held < EARLY:
            held += len(piece := port.receive(60.0))
            assert 0 < len(piece) <= CHUNK
    port.close()


LINES = {
    "a line without end": endless(b"1" * 1000),
    "a block beyond all bounds": once(b"#9999999999\n"),
    "a block beyond all bounds, and bytes": endless(ZEROS, b"#9999999999"),
    "a block that never ends": endless(ONES, b"#71048576"),
    "a block of no digits": once(b"#0\n"),
    "numbers that are none": once(b"x,y,z\n" * 10),
    "too few numbers": once(b"1,2\n" * 10),
}


@pytest.mark.parametrize("talk", LINES)
def test_a_hostile_scpi_board_neither(talk: str) -> None:
    port, started = TcpPort(*_split(hostile(LINES[talk]))), time.monotonic()
    with bounded(), pytest.raises(LinkError):
        ScpiLink(port, timeout=0.1, retries=2)
    assert time.monotonic() - started < 5
    port.close()


HUGE_BOARDS = {
    "a field": ({"lanes": 1 << 31}, "which no board can be"),
    "cells": (dict.fromkeys(("rows", "active_rows", "columns", "lanes"), 1 << 16), "1 arrays of 65536 × 65536 cells"),
    "lanes": ({"arrays": 1 << 16, "columns": 512, "lanes": 512}, "65536 arrays .* and 512 lanes; up to .* in all are"),
}


@pytest.mark.parametrize("lie", HUGE_BOARDS)
def test_a_board_that_describes_itself_absurdly_is_refused(lie: str) -> None:
    """Field by field, and where fields that pass ask for more together than a host can hold."""
    values, told = HUGE_BOARDS[lie]

    class Liar(Board):
        def _identify(self, *given):  # type: ignore[no-untyped-def, override]
            reply = super()._identify(*given)
            return type(reply)({**reply.values, **values}, reply.data)

    with pytest.raises(LinkError, match=told):
        Instrument(Liar(MACRO))


def test_the_largest_board_is_accepted() -> None:
    """4096 arrays of 4096 × 4096 cells, both bounds themselves."""

    class Large(Board):
        def _identify(self, *given):  # type: ignore[no-untyped-def, override]
            reply = super()._identify(*given)
            much = dict.fromkeys(("arrays", "rows", "columns", "lanes"), 1 << 12)
            return type(reply)({**reply.values, **much}, reply.data)

    assert Instrument(Large(MACRO)).identity.arrays == 1 << 12


# --------------------------------------------------------------------------------------------- in the middle of a sweep

STEPS, KEPT, CODES = 8, 5, 32 * 24  # steps of the sweep, those before the board turns, and the codes of each
Lie = Callable[[bytes], Iterable[bytes]]


class Turning(Served):
    """A board that sends a lie in place of each answer, from the read after those kept on, until it is ``good``."""

    def __init__(self, lie: Lie) -> None:
        super().__init__(board())
        self.lie, self.good = lie, False

    def _respond(self, stream: Stream, outward: Line | None, answer: Callable[[], bytes | None]) -> None:
        reply = answer()
        if self.good or self.board.silicon.conversions <= KEPT * CODES:
            super()._respond(stream, outward, lambda: reply)
        else:
            for part in self.lie(reply or b""):
                stream.send(part)


def changed(reply: bytes, **changes: int | bytes) -> bytes:
    (frame,) = Parser(MOST).feed(reply)
    return replace(frame, **changes).encode()  # type: ignore[arg-type]


def payload(reply: bytes) -> bytes:
    return Parser(MOST).feed(reply)[0].payload


def status(code: int) -> Lie:
    return lambda reply: [changed(reply, payload=bytes([code, 0, 8, 0]))]


FLOOD = "bytes came that are no frames|no answer to read after 3 tries"  # whichever is first
SILENCE = "no answer to read after 3 tries"
LIES: dict[str, tuple[Lie, str]] = {
    "junk without end": (lambda reply: repeat(ZEROS), FLOOD),
    "replies to nobody without end": (lambda reply: repeat(changed(reply, sequence=77_000) * 9), SILENCE),
    "a length beyond all bounds, and bytes": (lambda reply: chain([HUGE], repeat(ZEROS)), FLOOD),
    "a reply that never ends": (lambda reply: chain([header(MOST)], repeat(ZEROS)), FLOOD),
    "promises without end": (lambda reply: repeat(header(MOST) * 100), FLOOD),
    "no status": (lambda reply: [changed(reply, payload=b"")], "a reply of 0 bytes has no status"),
    "half a code": (lambda reply: [changed(reply, payload=payload(reply)[:-2])], "reply to read: .* no whole number"),
    "a code too few": (lambda reply: [changed(reply, payload=payload(reply)[:-4])], "767 numbers, announced as"),
    "half a frame": (lambda reply: [reply[: len(reply) // 2]], SILENCE),
    "busy without end": (status(BUSY), SILENCE),
    "out of order without end": (status(OUT_OF_ORDER), SILENCE),
    "a reset without end": (status(NO_SESSION), "the board started anew"),
    "silence": (lambda reply: [], SILENCE),
}
SCPI_LIES: dict[str, tuple[Lie, str]] = {
    "a line without end": (lambda reply: repeat(ONES), "bytes without the end of a line"),
    "a block beyond all bounds, and bytes": (lambda reply: chain([b"#9999999999"], repeat(ZEROS)), "block announces"),
    "a block that never ends": (lambda reply: chain([b"32,1,24,#71048576"], repeat(ONES)), "something else than the"),
    "numbers that are none": (lambda reply: [b"x,y,z\n"], "reply to"),
    "too few numbers": (lambda reply: [b"1,2\n"], "numbers where"),
    "silence": (lambda reply: [], "no answer in 0.5 s"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """The sweep of the board itself; it has no fresh noise."""
    return characterize(Instrument(board()), tmp_path_factory.mktemp("whole") / "chip.csv", conversions=STEPS * CODES)


@pytest.mark.parametrize(
    ("protocol", "name"), [*(("frames", name) for name in LIES), *(("scpi", name) for name in SCPI_LIES)]
)
def test_a_sweep_ends_where_a_board_turns_hostile_and_goes_on_with_a_good_one(
    protocol: str, name: str, tmp_path: Path, whole: Samples
) -> None:
    lie, told = (LIES if protocol == "frames" else SCPI_LIES)[name]
    here = Turning(lie)
    address = f"{'scpi+' if protocol == 'scpi' else ''}tcp://127.0.0.1:{here.listen(protocol)}"
    before, out = set(threading.enumerate()), tmp_path / "chip.csv"
    instrument = connect(address, timeout=60.0, retries=2)
    started = time.monotonic()

    def turning(done: int, total: int) -> None:
        nonlocal started
        if done == KEPT:
            instrument.link.timeout, started = 0.5, time.monotonic()  # type: ignore[attr-defined]
            tracemalloc.start()

    try:
        with pytest.raises(LinkError, match=told):
            characterize(instrument, out, conversions=STEPS * CODES, progress=turning)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < 10
    instrument.link.close()
    for conversation in set(threading.enumerate()) - before:
        conversation.join(60)
        assert not conversation.is_alive()
    kept = sorted((tmp_path / "chip.csv.parts").glob("0*"))
    assert [file.name for file in kept] == [f"{number:06d}.parquet" for number in range(KEPT)]
    here.good, made = True, here.board.silicon.conversions
    again = connect(address, timeout=60.0)
    assert characterize(again, out, conversions=STEPS * CODES) == whole
    assert here.board.silicon.conversions - made == (STEPS - KEPT) * CODES  # none measured again
    again.link.close()
    here.close()
