"""The board's digital side in SystemVerilog, simulated by Icarus: it answers a host as the virtual board does."""

from __future__ import annotations

import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from bitline.lab import Board, Instrument, Refused
from bitline.lab.commands import IDENTIFY, Request
from bitline.lab.frames import Frame, Parser
from bitline.lab.link import FrameLink
from bitline.lab.responder import Responder
from bitline.macro import Chip, Macro

ROWS, COLUMNS, PASSES, MOST = 16, 24, 3, 4096
MACRO = Macro.model_validate(
    {
        "name": "bench",
        "rows": ROWS,
        "columns": COLUMNS,
        "inputs": {"kind": "unsigned", "bits": PASSES},
        "weights": {"kind": "twos_complement", "bits": 3},
        "column": {"kind": "curve", "gain_sigma": 0.05, "offset_sigma": 0.6},
        "converter": {"kind": "adc", "bits": 4, "range": {"kind": "full"}},
    }
)


class Tap:
    """A port straight to a virtual board that keeps what passes both ways; some frames it spoils or doubles."""

    address = "tap"

    def __init__(self) -> None:
        self.board = Board(MACRO, Chip(8, 1))
        self.board.most = MOST
        self.responder = Responder(self.board, window=1)
        self.parser = Parser(MOST)
        self.sent, self.received, self._late = bytearray(), bytearray(), bytearray()
        self.frames = 0

    def send(self, data: bytes) -> None:
        self.frames += 1
        if self.frames % 5 == 0:
            self._pass(data[:20] + bytes([data[20] ^ 4]) + data[21:])  # damaged: no answer
        self._pass(b"\xb1\x00\xb1" if self.frames % 7 == 0 else b"")  # noise that begins like a frame
        self._pass(data)
        if self.frames % 3 == 0:
            self._pass(data)  # doubled: the same answer again

    def _pass(self, data: bytes) -> None:
        self.sent += data
        for frame in self.parser.feed(data):
            answer = self.responder.answer(frame) or b""
            self.received += answer
            self._late += answer

    def receive(self, seconds: float) -> bytes:
        data, self._late = bytes(self._late), bytearray()
        return data

    def reopen(self) -> None:
        raise AssertionError("a tap is never lost")

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def transcript() -> Tap:
    """Every command, in every mode, on ragged blocks; and a command the board refuses."""
    tap, rng = Tap(), np.random.default_rng(3)
    instrument = Instrument(FrameLink(tap, session=77))
    instrument.configure(0, 0.0, 1.0)
    instrument.program(0, rng.integers(0, 2, (ROWS, COLUMNS)))
    instrument.program(0, rng.integers(0, 2, (5, 7)), 3, 11)
    x = rng.integers(0, 1 << PASSES, (9, ROWS))
    instrument.read(0, 0, x)
    instrument.read(0, 0, x[:4], "sums")
    instrument.read(0, 0, x % 2, "digits", 5, 13)
    instrument.read(0, 0, x[:, :6], "codes", 2, 3)
    assert instrument.conversions == COLUMNS * (9 * PASSES + 4 * PASSES + 9 + 9 * PASSES)
    FrameLink(tap, session=77)  # the connection was lost: the same session
    return tap


def tables(folder: Path) -> int:
    """Write the identity and the columns' codes for each sum, as the virtual board has them; bytes of the identity."""
    instrument = Instrument(Board(MACRO, Chip(8, 1)))
    instrument.configure(0, 0.0, 1.0)
    instrument.program(0, np.ones((ROWS, COLUMNS), dtype=np.uint8))
    x = np.tri(ROWS + 1, ROWS, -1).astype(int)
    codes = instrument.read(0, 0, x, "digits")[:, 0]  # sums, lanes
    (folder / "table.hex").write_text("".join(f"{code:04x}\n" for code in codes.T.flatten()))
    reply = next(iter(instrument.link.calls([Request(IDENTIFY, {})])))
    identity = IDENTIFY.answers.pack(reply.values, reply.data)
    words = np.frombuffer(identity + bytes(-len(identity) % 4), dtype="<u4")
    (folder / "identity.hex").write_text("".join(f"{word:08x}\n" for word in words))
    return len(identity)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory, transcript: Tap) -> bytes:
    """What the simulated hardware sends for the host's bytes of the transcript."""
    return simulate(tmp_path_factory.mktemp("rtl"), bytes(transcript.sent))


def simulate(folder: Path, sent: bytes) -> bytes:
    if shutil.which("iverilog") is None:
        pytest.skip("Icarus Verilog (iverilog) is not installed: the SystemVerilog was not simulated")
    identity = tables(folder)
    (folder / "host.bin").write_bytes(sent)
    sizes = {"ROWS": ROWS, "COLUMNS": COLUMNS, "LANES": COLUMNS, "PASSES": PASSES, "MOST": MOST}
    parameters = [f"-Ptestbench.{name}={n}" for name, n in (sizes | {"IDENTITY_BYTES": identity}).items()]
    sources = sorted(str(file) for file in Path(str(files("bitline.lab") / "rtl")).glob("*.sv"))
    subprocess.run(
        ["iverilog", "-g2012", "-s", "testbench", "-o", "bench", *parameters, *sources],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    run = ["vvp", "bench", "+host=host.bin", "+board=board.hex"]
    done = subprocess.run(run, cwd=folder, check=True, timeout=120, capture_output=True, text=True)
    assert "ERROR" not in done.stdout
    return bytes.fromhex((folder / "board.hex").read_text())


def test_the_hardware_answers_byte_for_byte_as_the_virtual_board(transcript: Tap, simulated: bytes) -> None:
    assert len(transcript.received) > 5000
    assert simulated == bytes(transcript.received)


def test_the_hardware_refuses_what_it_cannot_do_and_goes_on(tmp_path: Path) -> None:
    tap = Tap()
    instrument = Instrument(FrameLink(tap, session=78))
    instrument.configure(0, 0.0, 1.0)
    for wrong in (
        lambda: instrument.program(1, np.ones((2, 2), int)),
        lambda: instrument.program(0, np.ones((2, 2), int), 15),
        lambda: instrument.read(0, 0, np.ones((2, ROWS), int), "codes", 20, 5),
    ):
        with pytest.raises(Refused):
            wrong()
    instrument.read(0, 0, np.ones((2, ROWS), int))
    before = Frame(0x20, 5, 1, b"").encode()  # of a session nobody opened
    answers = Parser(MOST).feed(simulate(tmp_path, bytes(tap.sent) + before))
    wanted = Parser(MOST).feed(bytes(tap.received))
    assert answers[-1].payload[:4] == b"\6\0\1\0"
    assert [(a.kind, a.sequence, a.payload[:4]) for a in answers[:-1]] == [
        (w.kind, w.sequence, w.payload[:4]) for w in wanted
    ]
    assert answers[-2] == wanted[-1]
