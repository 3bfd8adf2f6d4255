"""The record of a run: ``log.jsonl``, TensorBoard event files, and a progress bar."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

Record = dict[str, Any]
logger = logging.getLogger("bitline.train")


def prepare(folder: Path, rank: int = 0) -> None:
    """Make the output folder and see that it can be written. Raises OSError naming it."""
    probe = folder / f".writable-{rank}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OSError(f"output folder {folder} cannot be written ({error.strerror}); nothing was trained") from error


class Log:
    """Records in memory and, where there is a folder, in ``log.jsonl`` and ``events/``.

    ``log.jsonl`` holds no time and no path: a resumed run's is byte for byte that of an uninterrupted one.
    """

    def __init__(self, folder: Path | None, keep: int, step: int, writes: bool = True):
        """Go on after the first ``keep`` records, written up to ``step``; the file's other lines are dropped.

        Unless it ``writes``, the file is only read.
        """
        self.records: list[Record] = []
        self._lines = self._events = None
        if folder is None:
            return
        path = folder / "log.jsonl"
        whole = _read(path)
        if len(whole) < keep:
            logger.warning("%s has %d of the %d records the checkpoint saw", path, len(whole), keep)
        self.records = whole[:keep]
        if not writes:
            return
        partial = path.with_name("log.jsonl.partial")
        partial.write_text("".join(_line(record) for record in self.records))
        partial.replace(path)
        self._lines = path.open("a")
        self._events = _events(folder / "events", step)

    def __call__(self, record: Record) -> None:
        """Add a record: ``step``, ``epoch`` and numbers; what is not finite becomes null."""
        record = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self.records.append(record)
        if self._lines is not None:
            self._lines.write(_line(record))
            self._lines.flush()
        if self._events is not None:
            for name, value in record.items():
                if name not in ("step", "epoch") and value is not None:
                    self._events.add_scalar(name if "/" in name else f"train/{name}", value, record["step"])

    def sync(self) -> None:
        """See that every line is on the disk."""
        if self._lines is not None:
            os.fsync(self._lines.fileno())

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines is not None:
            self._lines.close()
        if self._events is not None:
            self._events.close()


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _read(path: Path) -> list[Record]:
    """The records of a log up to the first line that is not whole."""
    records: list[Record] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _events(folder: Path, step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        logger.warning("no TensorBoard event files: pip install tensorboardX")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else 0)


class Show(Protocol):
    """Show a number of steps done, the loss and the learning rate."""

    def __call__(self, done: int, loss: float, lr: float) -> None: ...


@contextmanager
def progress_bar(total: int, show: bool) -> Iterator[Show]:
    """A bar with loss, learning rate and time to go, on a terminal's standard error; otherwise nothing."""
    if not show:
        yield lambda done, loss, lr: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    text = TextColumn("loss {task.fields[loss]:.4f}  lr {task.fields[lr]:.2e}")
    columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("train", total=total, loss=math.nan, lr=math.nan)
        yield lambda done, loss, lr: bar.update(task, completed=done, loss=loss, lr=lr)
