"""ngspice in batch mode: one process a point, in parallel, remembered by the content of its deck.

A process a point costs 3 ms and keeps points apart: a result depends on its deck alone, and a crash loses one point.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bitline.circuits.spice.card import CARD, digest
from bitline.circuits.spice.processes import Processes

COMPLAINT = re.compile(
    r"error|timestep too small|singular|no convergence|failed|aborted|unknown|undefined|fatal|not found|can't|cannot",
    re.IGNORECASE,
)
LINES = 4  # of the simulator's own words in a message
GIVE_UP = 20  # points that fail, none before them having worked


@dataclass(frozen=True)
class Outcome:
    """What a point gave: the measured value (SI), or why there is none; ``cached`` where it was known already."""

    value: float | None
    failure: str | None = None
    cached: bool = False


class Cache:
    """Measured values by content, a small file each, so that killing a run costs the points in flight and no more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> float | None:
        """The value, or None where it is not known or its file is not whole."""
        try:
            return float(json.loads(self._file(key).read_text(encoding="utf-8"))["value"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, value: float) -> None:
        """Keep a value; its file appears whole or not at all."""
        file = self._file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{os.getpid()}.part")
        part.write_text(json.dumps({"value": value}), encoding="utf-8")
        part.replace(file)

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.json"


@dataclass(frozen=True)
class Simulator:
    """How ngspice is run. ``workers`` processes at once (absent: one a core), each killed after ``timeout`` seconds."""

    executable: str = "ngspice"
    timeout: float = 120.0
    workers: int | None = None
    cache: Path | None = None

    @cached_property
    def program(self) -> str:
        """The program's whole path, which holds in any folder; raises FileNotFoundError where it is not installed."""
        path = shutil.which(self.executable)
        if path is None:
            raise FileNotFoundError(
                f"{self.executable} is not installed: apt-get install ngspice, brew install ngspice, or give its path"
            )
        return str(Path(path).absolute())

    @cached_property
    def version(self) -> str:
        """Such as "ngspice-42"; raises FileNotFoundError where the program is not installed."""
        try:
            said = subprocess.run(
                [self.program, "--version"], capture_output=True, text=True, timeout=self.timeout, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ValueError(f"{self.program} does not answer to --version: {error}") from None
        found = re.search(r"ngspice-[\w.+-]+", said)
        return found[0] if found else "unknown version"

    def run(
        self,
        decks: Sequence[str],
        measure: str,
        cards: Sequence[Path] = (),
        done: Callable[[int, Outcome], None] | None = None,
    ) -> list[Outcome]:
        """The measured value of each deck, in order. ``done`` is told of each as it ends, from this thread.

        A deck that was run before is taken from the cache. Failures are outcomes too; after 20 of them and no success,
        now or before, the rest is not tried. Raises FileNotFoundError where ngspice is not installed.
        """
        content = "".join(digest(card) for card in cards)
        keys = [_key(self.version, content, measure, deck) for deck in decks]
        outcomes: dict[int, Outcome] = {}
        kept = Cache(self.cache) if self.cache is not None else None

        def finish(i: int, outcome: Outcome) -> None:
            outcomes[i] = outcome
            if kept is not None and outcome.value is not None and not outcome.cached:
                kept.put(keys[i], outcome.value)
            if done is not None:
                done(i, outcome)

        todo: list[int] = []
        for i, key in enumerate(keys):
            known = kept.get(key) if kept is not None else None
            if known is None:
                todo.append(i)
            else:
                finish(i, Outcome(known, cached=True))
        if todo:
            self._run(todo, decks, measure, [str(card.resolve()) for card in cards], finish, worked=len(outcomes))
        untried = Outcome(None, "not tried: all points before it had failed")
        return [outcomes.get(i, untried) for i in range(len(decks))]

    def _run(
        self,
        todo: Sequence[int],
        decks: Sequence[str],
        measure: str,
        cards: Sequence[str],
        finish: Callable[[int, Outcome], None],
        worked: int,
    ) -> None:
        waiting = iter(todo)
        running: dict[Future[Outcome], int] = {}
        failed = 0
        workers = self.workers or _cores()
        with _folder() as folder, _together(workers) as (pool, processes):

            def start() -> None:
                for i in waiting:
                    deck = decks[i]
                    for number, card in enumerate(cards):
                        deck = deck.replace(CARD.format(number), card)
                    running[pool.submit(self.one, deck, measure, folder / f"{i}.cir", processes)] = i
                    if len(running) > workers:
                        break

            start()
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    outcome = future.result()
                    worked, failed = worked + (outcome.value is not None), failed + (outcome.value is None)
                    finish(running.pop(future), outcome)
                if worked or failed < GIVE_UP:
                    start()

    def one(self, deck: str, measure: str, file: Path, processes: Processes) -> Outcome:
        """Simulate one deck, written to ``file`` meanwhile."""
        file.write_text(deck, encoding="utf-8")
        try:
            ended = processes.run([self.program, "-b", str(file)], file.parent, self.timeout)
        finally:
            file.unlink(missing_ok=True)
        if ended is None:
            return Outcome(None, f"no answer within {self.timeout:g} s; the process was ended")
        return _read(ended[0], measure, ended[1])


def _cores() -> int:
    """Cores that this process may use; all there are where the system does not say (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
    return count() or 1


def _read(said: str, measure: str, status: int) -> Outcome:
    """The measured value in what ngspice printed, or what went wrong in its own words."""
    found = re.findall(rf"^\s*{re.escape(measure)}\s*=\s*(\S+)", said, re.MULTILINE | re.IGNORECASE)
    words = "; ".join(dict.fromkeys(line.strip() for line in said.splitlines() if COMPLAINT.search(line)))
    told = "; ".join(words.split("; ")[:LINES]) or said.strip()[-300:] or "it said nothing"
    if status < 0:
        return Outcome(None, f"ngspice crashed with {signal.Signals(-status).name}: {told}")
    try:
        value = float(found[-1]) if found else None
    except ValueError:
        value = None
    if value is None:
        ended = f" and ended with status {status}" if status else ""
        return Outcome(None, f"ngspice measured no {measure}{ended}: {told}")
    if not math.isfinite(value):
        return Outcome(None, f"ngspice measured {measure} = {found[-1]}: {told}")
    return Outcome(value)


def _key(version: str, cards: str, measure: str, deck: str) -> str:
    return hashlib.blake2b("\x1f".join((version, cards, measure, deck)).encode(), digest_size=16).hexdigest()


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bitline-spice-") as name:
        yield Path(name)


@contextmanager
def _together(workers: int) -> Iterator[tuple[ThreadPoolExecutor, Processes]]:
    """Threads, and the processes they run: an exception ends both."""
    with ThreadPoolExecutor(workers) as pool:
        processes = Processes()
        try:
            yield pool, processes
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end()
            raise
