"""`bitline characterize`: what it refuses before it simulates, and what it leaves when it is stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from test_spice import described, fake


def running(log: Path) -> list[str]:
    """Those of the processes named in ``log`` that run."""
    named = log.read_text().split() if log.exists() else []
    states = {pid: subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True) for pid in named}
    return [pid for pid, state in states.items() if state.stdout.strip() and not state.stdout.startswith("Z")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_nothing_behind(tmp_path, number):
    log, temporary = tmp_path / "pids", tmp_path / "tmp"
    temporary.mkdir()
    program = fake(tmp_path, f"sleep 300 & echo $$ $! >> {log}; wait")
    command = ["characterize", str(described(tmp_path)), "--out", str(tmp_path / "s.csv"), "--ngspice", program]
    command += ["--workers", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(temporary)}
    run = subprocess.Popen(
        [sys.executable, "-m", "bitline", *command],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while (not log.exists() or log.read_text().count("\n") < 2) and run.poll() is None:  # the two points of the scale
        time.sleep(0.2)
    assert len(running(log)) == 4  # a shell and a sleep each
    run.send_signal(number)
    told = run.communicate(timeout=60)[1]
    assert run.returncode == 128 + number
    assert "interrupted; run the same command again to go on" in told
    assert running(log) == []
    assert list(temporary.glob("bitline-spice-*")) == []
