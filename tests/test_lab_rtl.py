"""The board's digital side in SystemVerilog, simulated by Icarus: it answers a host as the virtual board does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from yaml import safe_dump

from bitline.cli import app
from bitline.lab import Board, Instrument, Refused, write_rtl
from bitline.lab.commands import IDENTIFY
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
        self.board = Board(MACRO, Chip(8, 1), verifies=False)
        self.board.most = MOST
        self.responder = Responder(self.board, window=1)
        self.parser = Parser(MOST)
        self.sent, self.received, self._late = bytearray(), bytearray(), bytearray()
        self.frames = 0

    def send(self, data: bytes, seconds: float = 0.0) -> None:
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


SOURCES = [f"{name}.sv" for name in ("host_link", "sequencer", "board")]  # what an FPGA gets
BENCH = [*SOURCES, "analog_columns.sv", "bench.sv"]


def prepared(folder: Path, sent: bytes) -> dict[str, int]:
    """The simulation's files; its parameters."""
    if shutil.which("iverilog") is None:
        pytest.skip("Icarus Verilog (iverilog) is not installed: the SystemVerilog was not simulated")
    (folder / "host.bin").write_bytes(sent)
    return write_rtl(MACRO, folder, Chip(8, 1), most=MOST)


def simulate(folder: Path, sent: bytes) -> bytes:
    """What the simulated hardware sends for the host's bytes."""
    parameters = [f"-Ptestbench.{name}={n}" for name, n in prepared(folder, sent).items()]
    build = ["iverilog", "-g2012", "-s", "testbench", "-o", "bench", *parameters]
    subprocess.run([*build, *BENCH, "testbench.sv"], cwd=folder, check=True, capture_output=True)
    run = ["vvp", "bench", "+host=host.bin", "+board=board.hex"]
    done = subprocess.run(run, cwd=folder, check=True, timeout=120, capture_output=True, text=True)
    assert "ERROR" not in done.stdout
    return bytes.fromhex((folder / "board.hex").read_text())


def test_the_hardware_answers_byte_for_byte_as_the_virtual_board(transcript: Tap, tmp_path: Path) -> None:
    assert len(transcript.received) > 5000
    assert simulate(tmp_path, bytes(transcript.sent)) == bytes(transcript.received)


def test_cocotb_hears_the_same_answers(transcript: Tap, tmp_path: Path) -> None:
    """Another host, with other pauses: ``cocotb_board.py`` compares every byte when it comes."""
    pytest.importorskip("cocotb", reason="cocotb is not installed: the SystemVerilog was not simulated with it")
    from cocotb_tools.check_results import get_results
    from cocotb_tools.runner import get_runner
    from find_libpython import find_libpython

    if find_libpython() is None:
        pytest.skip("this Python has no shared library: cocotb cannot start it inside the simulator")
    parameters = prepared(tmp_path, bytes(transcript.sent))
    (tmp_path / "board.bin").write_bytes(transcript.received)
    runner, here = get_runner("icarus"), {"build_dir": tmp_path, "hdl_toplevel": "bench"}
    build = {
        "sources": [tmp_path / name for name in BENCH],
        "includes": [tmp_path],
        "parameters": parameters,
        "timescale": ("1ns", "1ps"),
    }
    runner.build(**here, **build, always=True, log_file=tmp_path / "build.log")
    environment = {"PYTHONPATH": str(Path(__file__).parent)}
    log = tmp_path / "run.log"
    try:
        results = runner.test("cocotb_board", **here, test_dir=tmp_path, extra_env=environment, log_file=log)
    except SystemExit:
        pytest.fail(log.read_text())
    assert get_results(results) == (1, 0), log.read_text()


def test_the_hardware_can_be_synthesized(tmp_path: Path) -> None:
    """Without latches and without drivers that fight; payload, codes and identity fit block RAM: one port to write, and
    one clocked port to read."""
    if shutil.which("yosys") is None:
        pytest.skip("Yosys (yosys) is not installed: the SystemVerilog was not synthesized")
    write_rtl(MACRO, tmp_path, Chip(8, 1), most=MOST)
    read = f"read_verilog -sv {' '.join(SOURCES)}; hierarchy -check -top board; proc"
    steps = f"{read}; select -assert-none t:$dlatch; opt; check -assert; memory -nomap; tee -o found dump t:$mem_v2"
    done = subprocess.run(["yosys", "-p", steps], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    ports = {}
    for cell in (tmp_path / "found").read_text().split("cell $mem_v2")[1:]:
        held = dict(re.findall(r'parameter \\(\w+) "?([^"\n]*)', cell))
        ports[held["MEMID"].strip("\\")] = held["WR_PORTS"], held["RD_PORTS"], held["RD_CLK_ENABLE"]
    for memory, writes in {"bytes": "1", "codes": "1", "identity": "0"}.items():
        assert ports[memory] == (writes, "1", "1'1")


def test_the_hardware_refuses_what_it_cannot_do_and_goes_on(tmp_path: Path) -> None:
    tap = Tap()
    instrument = Instrument(FrameLink(tap, session=78))
    instrument.configure(0, 0.0, 1.0)
    for wrong in (
        lambda: instrument.program(1, np.ones((2, 2), int)),
        lambda: instrument.program(0, np.ones((2, 2), int), 15),
        lambda: instrument.program(0, np.ones((2, 2), int), (1 << 32) - 1),  # 32 bits would wrap
        lambda: instrument.program(0, np.ones((2, 2), int), 0, (1 << 32) - 2),
        lambda: instrument.read(0, 1, np.ones((2, 3), int)),
        lambda: instrument.read(0, 0, np.ones((2, ROWS), int), "codes", 20, 5),
        lambda: instrument.recall(0, 0, 0, 2, 2),
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


def test_the_command_writes_what_the_hardware_reads(tmp_path: Path) -> None:
    """The identity is that of a board without recall, and the table has a code for each lane and sum."""
    (tmp_path / "macro.yaml").write_text(safe_dump(MACRO.model_dump(mode="json", exclude_none=True)))
    out = tmp_path / "rtl"
    done = CliRunner().invoke(app, ["lab", "rtl", str(tmp_path / "macro.yaml"), str(out), "--seed", "8", "--chip", "1"])
    assert done.exit_code == 0, done.output
    parameters = json.loads(done.stdout)
    assert parameters == json.loads((out / "parameters.json").read_text())
    assert {name: parameters[name] for name in ("ROWS", "COLUMNS", "LANES", "PASSES", "MOST")} == {
        "ROWS": ROWS, "COLUMNS": COLUMNS, "LANES": COLUMNS, "PASSES": PASSES, "MOST": MOST,
    }  # fmt: skip
    words = (out / "identity.hex").read_text().split()
    answer = b"".join(int(word, 16).to_bytes(4, "little") for word in words)[: parameters["IDENTITY_BYTES"]]
    values, name = IDENTIFY.answers.unpack(answer)
    assert values["verifies"] == 0
    assert name is not None
    assert name.tobytes() == b"bench\nvirtual"
    assert len((out / "table.hex").read_text().split()) == COLUMNS * (ROWS + 1)
    assert {path.name for path in out.glob("*.sv*")} == {*BENCH, "testbench.sv", "records.svh"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"inputs": {"kind": "unsigned", "bits": 4, "digit_bits": 2}}, "takes unsigned inputs with digit_bits = 1"),
        ({"inputs": {"kind": "twos_complement", "bits": 3}}, "takes unsigned inputs"),
        ({"weights": {"kind": "offset", "bits": 4, "cell_bits": 2, "subtract": "digital"}}, "levels 0 … 3; .* 0 and 1"),
        ({"weights": {"kind": "differential", "bits": 3}}, "2 columns a conversion; the hardware takes 1"),
        ({"active_rows": 8}, "active_rows = 8 of 16; the hardware takes all rows"),
        (
            {"column": {"kind": "curve", "sigma": {"kind": "polynomial", "coefficients": [0.4]}}},
            "has noise; .* sum alone",
        ),
        ({"cell": {"errors": [{"kind": "lognormal", "sigma": 0.1}]}}, "has cell; .* sum alone"),
        ({"columns": 999}, "most = 4096: payloads of bench take 12052 bytes or more"),
    ],
)
def test_a_macro_that_the_hardware_cannot_be_is_refused(changes: dict[str, object], told: str, tmp_path: Path) -> None:
    macro = Macro.model_validate({**MACRO.model_dump(mode="json", exclude_none=True), **changes})
    with pytest.raises(ValueError, match=told):
        write_rtl(macro, tmp_path / "rtl")
    assert not (tmp_path / "rtl").exists()
