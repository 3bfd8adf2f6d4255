"""The host's side of a transcript, played to the simulated board by cocotb; every byte of its answers is compared.

Runs inside the simulator. The current folder holds host.bin and board.bin: what the host sent, what it was answered.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge

QUIET = 1000  # clocks after the last byte in which the board must say nothing more


@cocotb.test()
async def the_board_answers_as_in_the_transcript(dut: Any) -> None:
    """Pins change on falling edges; the host pauses, and takes answers, at random."""
    sent, wanted = (Path(name).read_bytes() for name in ("host.bin", "board.bin"))
    rng = random.Random(1)
    dut.rx_valid.value, dut.tx_ready.value, dut.reset.value = 0, 0, 1
    Clock(dut.clk, 10, unit="ns").start()
    await ClockCycles(dut.clk, 4)
    await FallingEdge(dut.clk)
    dut.reset.value = 0
    fall, sending, clocks = FallingEdge(dut.clk), False, 0
    given = taken = quiet = 0  # bytes given to the board, taken from it
    while quiet < QUIET:
        sending = sending or (given < len(sent) and rng.random() < 7 / 8)
        taking = rng.random() < 3 / 4
        if sending:
            dut.rx_data.value = sent[given]
        dut.rx_valid.value, dut.tx_ready.value = sending, taking
        answering = bool(dut.tx_valid.value)
        if answering and taking:
            byte = int(dut.tx_data.value)
            assert taken < len(wanted), f"clock {clocks}: {byte:02x} after the last answer"
            assert byte == wanted[taken], f"clock {clocks}, byte {taken}: {byte:02x}, not {wanted[taken]:02x}"
            taken += 1
        passed = sending and bool(dut.rx_ready.value)
        given += passed
        sending = sending and not passed
        quiet = 0 if given < len(sent) or answering else quiet + 1
        clocks += 1
        assert clocks < 100 * (len(sent) + len(wanted)), f"{given} of {len(sent)} bytes taken: the board hangs"
        await fall
    assert taken == len(wanted), f"{len(wanted) - taken} of {len(wanted)} bytes of the answers never came"
