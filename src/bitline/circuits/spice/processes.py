"""Processes that are ended together, so that a run that is interrupted leaves none behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock


class Processes:
    """Commands run from several threads. After ``end`` all are killed, and none is started."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False
        self._lock = Lock()

    def run(self, command: Sequence[str], folder: Path, timeout: float) -> tuple[str, int] | None:
        """What a command said in a folder, and its status; None where it was killed, after ``timeout`` seconds or by
        ``end``."""
        with self._lock:
            if self._ended:
                return None
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"OMP_THREAD_LIMIT": "1", "OMP_NUM_THREADS": "1"},
                cwd=folder,
                start_new_session=True,
            )
            self._running.add(process)
        try:
            said = process.communicate(timeout=timeout)[0]
            return said.decode(errors="replace"), process.returncode
        except subprocess.TimeoutExpired:
            _kill(process)
            process.communicate()
            return None
        finally:
            with self._lock:
                self._running.discard(process)

    def end(self) -> None:
        """Kill what runs, with all that it started."""
        with self._lock:
            self._ended = True
            for process in self._running:
                _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
