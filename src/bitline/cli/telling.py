"""What commands say: results, progress and errors, and text that goes to a file or to standard output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIG_DFL, SIGINT, SIGTERM, getsignal, signal
from threading import current_thread, main_thread
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def say(line: str, voice: Console = console) -> None:
    """A line as it is: neither marked up nor broken."""
    voice.print(line, markup=False, soft_wrap=True)


@contextmanager
def told() -> Iterator[None]:
    """What a user can mend is one message and exit status 2, not a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError, ArithmeticError) as error:
        errors.print(
            f"[bold red]error:[/] {type(error).__name__}" if not str(error) else "[bold red]error:[/]", end=" "
        )
        say(str(error), errors)
        raise typer.Exit(2) from None
    except KeyboardInterrupt as interrupt:
        errors.print("interrupted; run the same command again to go on")
        raise typer.Exit(128 + (SIGTERM if isinstance(interrupt, Terminated) else SIGINT)) from None


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends what runs inside as Ctrl-C does, its processes and folders with it; one that is handled already is
    left alone, and so are threads other than the main one."""
    if current_thread() is not main_thread() or getsignal(SIGTERM) is not SIG_DFL:
        yield
        return

    def end(*_: object) -> None:
        raise Terminated

    signal(SIGTERM, end)
    try:
        yield
    finally:
        signal(SIGTERM, SIG_DFL)


class Told(TyperGroup):
    """A group of commands whose errors are told like those of all others."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command asked for."""
        with told():
            return super().invoke(ctx)


def write(text: str, out: Path | None) -> None:
    """Write a text to a file; to standard output where none is named."""
    from bitline.files import write_atomic

    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(out, text)
