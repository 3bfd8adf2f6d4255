"""The link to a board: frames, faults, both protocols on every stream, and boards that misbehave."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitline.lab import Board, BoardReset, BoardTimeout, Instrument, LinkError, Recorder, Refused, Transcript, connect
from bitline.lab.commands import BUSY, COMMANDS, CONVERTER, IDENTIFY, OUT_OF_ORDER, READ, STATUS, WRITE, Layout, Request
from bitline.lab.faults import Faults, Line
from bitline.lab.frames import OVERHEAD, Frame, Parser
from bitline.lab.link import FrameLink
from bitline.lab.ports import TcpPort, open_port
from bitline.lab.responder import Responder
from bitline.lab.scpi import Lines, ScpiLink, parse, read, write
from bitline.lab.serve import Served
from bitline.macro import Chip, Macro

QUICK = {"timeout": 0.1, "retries": 8}
MACRO = Macro.model_validate(
    {
        "name": "bench",
        "rows": 16,
        "active_rows": 8,
        "columns": 24,
        "inputs": {"kind": "unsigned", "bits": 3},
        "weights": {"kind": "twos_complement", "bits": 3},
        "column": {"kind": "curve", "gain_sigma": 0.02, "offset_sigma": 0.4},
        "converter": {"kind": "adc", "bits": 4, "range": {"kind": "full"}},
    }
)
CELLS = np.random.default_rng(1).integers(0, 2, (16, 24))
X = np.random.default_rng(2).integers(0, 8, (40, 8))


def board() -> Board:
    return Board(MACRO, Chip(5, 2), 2)


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    """What the board reads; it has no fresh noise."""
    instrument = Instrument(board())
    instrument.program(1, CELLS)
    return instrument.read(1, 8, X)


@contextmanager
def served(faults: Faults | None = None, made: Board | None = None) -> Iterator[tuple[Served, str]]:
    here = Served(made or board(), faults)
    try:
        yield here, f"tcp://127.0.0.1:{here.listen('frames')}"
    finally:
        here.close()


def use(instrument: Instrument, codes: np.ndarray) -> None:
    """Write and read; what comes must be what the board reads, and each conversion made once."""
    assert instrument.program(1, CELLS, tries=1) == 0
    instrument.configure(1, 0.0, 1.0)
    before = instrument.conversions
    for _ in range(3):
        np.testing.assert_array_equal(instrument.read(1, 8, X), codes)
    assert instrument.conversions - before == 3 * codes.size


# --------------------------------------------------------------------------------------------------------------- frames


@given(
    st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=99), st.integers(1, 9)
)
def test_frames_round_trip_in_any_pieces(kind: int, session: int, sequence: int, payload: bytes, size: int) -> None:
    frame, parser = Frame(kind, session, sequence, payload), Parser(1000)
    data = frame.encode() * 2
    found = [f for i in range(0, len(data), size) for f in parser.feed(data[i : i + size])]
    assert found == [frame, frame]
    assert parser.junk == 0
    assert len(data) == 2 * (len(payload) + OVERHEAD)


def test_a_damaged_frame_is_never_taken_and_never_hides_the_next() -> None:
    bad, good = Frame(1, 2, 3, b"some cells").encode(), Frame(1, 2, 4, b"more")
    for place in range(len(bad)):
        for bit in range(8):
            damaged = bad[:place] + bytes([bad[place] ^ 1 << bit]) + bad[place + 1 :]
            assert Parser(1000).feed(damaged + good.encode()) == [good]
        assert Parser(1000).feed(bad[:place] + good.encode()) == [good]


@given(st.lists(st.binary(max_size=400), max_size=30))
def test_a_parser_holds_no_more_than_a_frame(pieces: list[bytes]) -> None:
    parser = Parser(100)
    for piece in pieces:
        parser.feed(piece + b"\xb1\x7e")
        assert len(parser._held) <= 100 + OVERHEAD + len(piece) + 2


@pytest.mark.parametrize("command", [c for c in COMMANDS.values() if c.scpi])
def test_a_command_is_the_same_in_both_protocols(command) -> None:  # type: ignore[no-untyped-def]
    for layout in (command.asks, command.answers):
        values = {name: 1.5 if code == "d" else 7 for name, code in layout.fields}
        data = None if layout.data is None else np.array([1, 35, 10], dtype=layout.data)  # 35, 10: "#" and line feed
        for found in (layout.unpack(layout.pack(values, data)), read(layout, write(layout, values, data))):
            assert found[0] == values
            np.testing.assert_array_equal(found[1], data)
    line = command.scpi.encode() + b" " + write(command.asks, {n: 1 for n, _ in command.asks.fields}, None)
    assert parse(line)[0] is command


def test_fields_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="array = -1"):
        CONVERTER.asks.pack({"array": -1, "low": 0.0, "step": 1.0}, None)
    with pytest.raises(ValueError, match="3 bytes are no whole number of int16"):
        READ.asks.unpack(bytes(31))
    with pytest.raises(ValueError, match="numbers where"):
        read(Layout((("a", "I"), ("b", "I"))), b"1")


# --------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("fault", ["drop", "corrupt", "duplicate", "truncate", "delay", "busy", "credit"])
def test_each_fault_is_survived(fault: str, codes: np.ndarray) -> None:
    with served(Faults.model_validate({fault: 0.1, "seed": 3})) as (_, address):
        instrument = connect(address, **QUICK)
        use(instrument, codes)
        assert instrument.faults == 0


def test_all_faults_at_once_lose_and_double_nothing(codes: np.ndarray) -> None:
    shares = dict.fromkeys(("drop", "corrupt", "duplicate", "truncate", "delay"), 0.01)
    with served(Faults(**shares, seed=1)) as (_, address):
        instrument = connect(address, **QUICK)
        use(instrument, codes)
        for row in range(150):
            np.testing.assert_array_equal(instrument.read(1, 8, X[row % 40][None]), codes[row % 40][None])
        assert instrument.conversions == 3 * codes.size + 150 * codes[0].size
        assert isinstance(instrument.link, FrameLink)
        assert instrument.link.resent > 0  # the faults did happen


def test_a_lost_answer_is_asked_for_while_the_board_has_it() -> None:
    """Many requests are under way: those after a lost answer must not make the board forget it."""
    with served(Faults(drop=0.05, seed=2)) as (here, address):
        link = connect(address, **QUICK).link
        x = {"array": 0, "row": 0, "rows": 8, "first": 0, "lanes": 24, "mode": 0, "vectors": 1}
        assert len(list(link.calls([Request(READ, x, X[:1] % 2)] * 200))) == 200
        assert here.board.silicon.conversions == 200 * 24


@pytest.mark.parametrize("side", ["board", "host"])
def test_a_frame_that_lost_its_end_does_not_swallow_what_follows(side: str, codes: np.ndarray) -> None:
    with served() as (_, address):
        instrument = connect(address, timeout=0.2, retries=4)
        use(instrument, codes)
        link = instrument.link
        assert isinstance(link, FrameLink)
        half = Frame(READ.kind | (0x80 if side == "host" else 0), link.session, 99, bytes(600)).encode()[:50]
        if side == "host":
            assert link._parser.feed(half) == []
        else:
            link.port.send(half)
        assert instrument.faults == 0  # five small questions and answers are no 600 bytes
        use(instrument, codes)


@pytest.mark.parametrize("at", range(1, 9))
def test_a_connection_lost_inside_an_answer_is_taken_up_again(at: int, codes: np.ndarray) -> None:
    with served(Faults(disconnect=at)) as (_, address):
        use(connect(address, **QUICK), codes)


def test_a_board_that_was_reset_is_noticed_and_can_be_taken_up_again(codes: np.ndarray) -> None:
    with served(Faults(reset=6)) as (_, address):
        instrument = connect(address, **QUICK)
        with pytest.raises(BoardReset, match="program and configure it again"):
            use(instrument, codes)
        instrument.restart()
        assert instrument.boots == 2
        use(instrument, codes)


@pytest.mark.parametrize("protocol", ["frames", "scpi"])
def test_a_stuck_board_is_reported_in_time(protocol: str) -> None:
    here = Served(board(), Faults(stall=3 if protocol == "frames" else 5))
    address = f"{'scpi+' if protocol == 'scpi' else ''}tcp://127.0.0.1:{here.listen(protocol)}"
    started = time.monotonic()
    instrument = connect(address, timeout=0.1, retries=2)
    with pytest.raises(BoardTimeout, match="3 tries"):
        instrument.read(0, 0, np.repeat(X, 9, axis=0))
    assert time.monotonic() - started < 3
    here.close()


class Sulking:
    """A port to a board that takes nothing while ``deaf``; its clock counts what is waited for."""

    address = "sulking"

    def __init__(self, window: int, faults: Faults | None = None) -> None:
        self.responder = Responder(board(), window, faults=faults)
        self.now, self.refused, self.deaf = 0.0, 0, set[int]()
        self._sent, self._parser, self._late = 0, Parser(1 << 16), bytearray()

    def monotonic(self) -> float:
        return self.now

    def send(self, data: bytes, seconds: float = 0.0) -> None:
        self._sent += 1
        if self._sent in self.deaf:
            self.now, self.refused = self.now + seconds, self.refused + 1
            raise TimeoutError("nothing was taken")
        for frame in self._parser.feed(data):
            self._late += self.responder.answer(frame) or b""

    def receive(self, seconds: float) -> bytes:
        data, self._late = bytes(self._late), bytearray()
        self.now += 0 if data else max(seconds, 1e-3)
        return data

    def reopen(self) -> None:
        raise AssertionError("the connection is not lost")

    def close(self) -> None:
        pass


@pytest.mark.parametrize("window", [1, 8, 64])
def test_a_board_that_takes_nothing_costs_one_wait_a_try(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    port = Sulking(window)
    monkeypatch.setattr("bitline.lab.link.time", port)
    link = FrameLink(port, timeout=2.0, retries=4, session=9)
    port.deaf = set(range(2, 1000))
    with pytest.raises(BoardTimeout, match="5 tries"):
        list(link.calls([Request(STATUS, {})] * 100))
    assert port.refused == 5
    assert port.now == pytest.approx(5 * 2.0, abs=0.1)


def test_a_board_that_takes_nothing_now_and_then_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    port = Sulking(8)
    monkeypatch.setattr("bitline.lab.link.time", port)
    link = FrameLink(port, timeout=2.0, retries=4, session=9)
    port.deaf = set(range(5, 1000, 7))
    x = {"array": 0, "row": 0, "rows": 8, "first": 0, "lanes": 24, "mode": 0, "vectors": 1}
    assert len(list(link.calls([Request(READ, x, X[:1] % 2)] * 50))) == 50
    assert port.refused > 5
    assert port.responder.board.silicon.conversions == 50 * 24


class Counting(Sulking):
    """It counts what the board has to hold: requests without an answer, and those sent before one is looked for."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(8, faults)
        self.credit, self.burst, self.statuses, self.granted = 1, 0, list[int](), set[int]()
        self._open, self._answers, self._line = dict[int, int](), Parser(1 << 16), Line(faults, "out")

    def send(self, data: bytes, seconds: float = 0.0) -> None:
        (frame,) = Parser(1 << 16).feed(data)
        self.burst += 1
        assert self.burst <= self.credit
        if frame.sequence not in self._open:
            self._open[frame.sequence] = frame.kind
            assert len(self._open) <= self.credit
        super().send(data, seconds)

    def receive(self, seconds: float) -> bytes:
        self.burst = 0
        data = b"".join(m for frame in self._answers.feed(super().receive(seconds)) for m in self._passes(frame))
        for frame in Parser(1 << 16).feed(data):
            if frame.sequence in self._open:
                status, self.credit = frame.payload[0], int.from_bytes(frame.payload[2:4], "little")
                self.statuses.append(status)
                self.granted.add(self.credit)
                if status not in (BUSY, OUT_OF_ORDER):
                    del self._open[frame.sequence]
        return data

    def _passes(self, frame: Frame) -> list[bytes]:
        return self._line.passes(frame.encode())


@pytest.mark.parametrize("drop", [0.0, 0.1])
def test_a_host_never_asks_more_than_is_granted(drop: float, monkeypatch: pytest.MonkeyPatch) -> None:
    port = Counting(Faults(busy=0.2, credit=0.5, drop=drop, seed=4))
    monkeypatch.setattr("bitline.lab.link.time", port)
    link = FrameLink(port, timeout=2.0, retries=40, session=9)
    x = {"array": 0, "row": 0, "rows": 8, "first": 0, "lanes": 24, "mode": 0, "vectors": 1}
    found = list(link.calls(Request(READ, x, X[i % 40][None] % 2) for i in range(120)))
    wanted = Instrument(board()).read(0, 0, X % 2, "digits")[:, 0]
    np.testing.assert_array_equal([reply.array() for reply in found], np.tile(wanted, (3, 1)))
    assert port.responder.board.silicon.conversions == 120 * 24
    assert port.statuses.count(BUSY) > 12
    assert port.granted == set(range(1, 9))


def visa(kind: str) -> None:
    pytest.importorskip("pyvisa", reason="PyVISA is not installed: no VISA instrument")
    pytest.importorskip("pyvisa_py", reason="PyVISA-py is not installed: no VISA library")
    if kind == "serial":
        pytest.importorskip("serial", reason="pySerial is not installed: no board on a serial line")


@pytest.mark.parametrize("stream", ["tcp", "serial", "scpi", "visa"])
def test_a_board_that_stops_reading_is_reported_in_time(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if stream == "serial":
        pytest.importorskip("serial", reason="pySerial is not installed: no board on a serial line")
    elif stream == "visa":
        visa("socket")
        monkeypatch.setattr("bitline.lab.ports.PATIENCE", 0.1)
    lines = stream in ("scpi", "visa")
    here = Served(board(), Faults(deaf=4 if lines else 2))
    number, started = here.listen("scpi" if lines else "frames"), time.monotonic()
    addresses = {"serial": "serial:", "scpi": f"scpi+tcp://127.0.0.1:{number}"}
    addresses |= {"tcp": f"tcp://127.0.0.1:{number}", "visa": f"visa:TCPIP0::127.0.0.1::{number}::SOCKET"}
    address = addresses[stream] + (here.pty() if stream == "serial" else "")
    link = connect(address, timeout=0.1, retries=2).link
    assert isinstance(link, FrameLink | ScpiLink)
    refused, send = [], link.port.send

    def counted(data: bytes, seconds: float) -> None:
        try:
            send(data, seconds)
        except TimeoutError:
            refused.append(seconds)
            raise

    link.port.send = counted  # type: ignore[method-assign]
    much = {"array": 0, "row": 0, "column": 0, "rows": 1, "columns": 1}
    data = np.zeros(1 << 24 if lines else link.most - 64, np.uint8)
    with pytest.raises(BoardTimeout, match="3 tries"):
        list(link.calls([Request(WRITE, much, data)] * 16))
    assert refused == ([0.1] if lines else [0.1] * 3)  # over SCPI later tries begin with a short question
    assert time.monotonic() - started < 5
    link.close()
    for writer in threading.enumerate():
        if writer.name == address:  # of VISA: the one that waited is not left behind
            writer.join(60)
            assert not writer.is_alive()
    here.close()


def test_a_board_that_is_gone_is_reported() -> None:
    with served() as (_, address):
        instrument = connect(address, timeout=0.05, retries=2)
    port = instrument.link.port  # type: ignore[attr-defined]
    port.close()
    with pytest.raises(BoardTimeout, match="the board is gone"):
        instrument.read(0, 0, X)


def test_another_version_is_named() -> None:
    here = Served(board())
    here.responder = Responder(here.board, version=2)
    with pytest.raises(LinkError, match="speaks version 2 of the protocol, this host 1"):
        connect(f"tcp://127.0.0.1:{here.listen('frames')}", **QUICK)
    here.close()


def test_a_request_is_answered_from_memory_and_not_done_again() -> None:
    responder = Responder(board(), window=2)

    def ask(sequence: int, kind: int = IDENTIFY.kind, session: int = 9) -> Frame:
        (frame,) = Parser(1 << 16).feed(responder.answer(Frame(kind, session, sequence, b"")) or b"")
        return frame

    assert ask(1).payload[0] == 6  # no session yet
    opened = Parser(1 << 16).feed(responder.answer(Frame(1, 9, 0, bytes(4))) or b"")[0]
    assert COMMANDS["open"].answers.unpack(opened.payload[4:])[0]["expected"] == 1
    first = ask(1)
    assert first == ask(1)
    assert ask(3).payload[0] == 4  # out of order: 2 has not come
    assert ask(2, kind=0x7F).payload[0] == 1  # unknown, and done with
    assert responder.sessions[9].expected == 3


# ------------------------------------------------------------------------------------------ streams, protocols, doubles


def test_scpi_and_frames_read_the_same_on_every_stream(codes: np.ndarray) -> None:
    pytest.importorskip("serial", reason="pySerial is not installed: no board on a serial line")
    here = Served(board())
    frames, scpi = here.listen("frames"), here.listen("scpi")
    addresses = [f"tcp://127.0.0.1:{frames}", f"scpi+tcp://127.0.0.1:{scpi}"]
    addresses += [f"serial:{here.pty()}?baud=230400", f"scpi+serial:{here.pty('scpi')}"]
    for address in addresses:
        instrument = connect(address, timeout=1.0)
        use(instrument, codes)
        np.testing.assert_array_equal(instrument.recall(1, 0, 0, 16, 24), CELLS)
        instrument.link.close()
    here.close()


@pytest.mark.parametrize("kind", ["socket", "serial"])
def test_pyvisa_reaches_the_same_board(kind: str, codes: np.ndarray) -> None:
    visa(kind)
    here = Served(board())
    line = f"ASRL{here.pty('scpi')}::INSTR" if kind == "serial" else f"TCPIP0::127.0.0.1::{here.listen('scpi')}::SOCKET"
    instrument = connect(f"visa:{line}", timeout=10.0)
    use(instrument, codes)
    instrument.link.close()
    here.close()


def test_scpi_takes_up_a_lost_connection_and_notices_a_reset(codes: np.ndarray) -> None:
    here = Served(board(), Faults(disconnect=10))
    use(connect(f"scpi+tcp://127.0.0.1:{here.listen('scpi')}", **QUICK), codes)
    here.close()
    here = Served(board(), Faults(disconnect=10))
    instrument = connect(f"scpi+tcp://127.0.0.1:{here.listen('scpi')}", **QUICK)
    here.responder.reset()
    with pytest.raises(BoardReset):
        use(instrument, codes)
    here.close()


def test_common_scpi_commands_are_answered() -> None:
    here = Served(board())
    port = TcpPort("127.0.0.1", here.listen("scpi"))
    lines = Lines(1 << 16)
    for sent, wanted in (
        (b"*IDN?\n", b"Bitline,bench,virtual,1"),
        (b"*OPC?\n", b"1"),
        (b"NO:SUCH 1\nSYST:ERR?\n", b"-113,\"undefined header b'NO:SUCH'\""),
        (b"NO:SUCH\n*CLS\nSYST:ERR?\n", b'0,"No error"'),
    ):
        port.send(sent)
        while (line := lines.take()) is None:
            lines.feed(port.receive(1.0))
        assert line == wanted
    here.close()


@pytest.mark.parametrize("address", ["tcp://host", "http://host:1", "tcp://host:x", "serial:"])
def test_addresses_that_are_none_are_named(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        open_port(address)


def test_a_transcript_stands_in_for_a_board(tmp_path: Path, codes: np.ndarray) -> None:
    path = tmp_path / "board.jsonl"
    recorder = Recorder(board(), path)
    use(Instrument(recorder), codes)
    recorder.close()
    double = Transcript(path)
    use(Instrument(double), codes)
    assert double.finished
    with pytest.raises(LinkError, match="after the last"):
        Instrument(double)
    with pytest.raises(LinkError, match=r"line 2: write .* was asked then, converter"):
        Instrument(Transcript(path)).configure(0, 0.0, 1.0)


@pytest.mark.parametrize("protocol", ["frames", "scpi"])
def test_what_a_board_refuses_is_said_and_the_link_lives_on(protocol: str, codes: np.ndarray) -> None:
    here = Served(board())
    instrument = connect(f"{'scpi+' if protocol == 'scpi' else ''}tcp://127.0.0.1:{here.listen(protocol)}")
    for wrong, told in (
        (lambda: instrument.program(2, CELLS), "2 arrays of 16 × 24|2 arrays of 16"),
        (lambda: instrument.read(0, 4, X), "not one group of 8"),
        (lambda: instrument.read(0, 0, X + 1), "where 0 to 7 are driven"),
        (lambda: instrument.read(0, 0, X, "codes", 20, 5), "24 lanes"),
        (lambda: instrument.configure(0, 0.0, 0.0), "step must be above 0"),
        (lambda: instrument.drive(np.arange(3.0)), "digits 0 to 1 need 2"),
    ):
        with pytest.raises(Refused, match=told):
            wrong()
    assert instrument.faults == 6
    use(instrument, codes)
    here.close()
