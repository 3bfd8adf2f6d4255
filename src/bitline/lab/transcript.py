"""Transcripts: what was asked and answered, kept as JSON lines, and played back as the double of a board in tests."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bitline.lab.commands import COMMANDS, Reply, Request
from bitline.lab.errors import LinkError, Refused
from bitline.lab.link import MOST, Link


def _text(data: np.ndarray | None) -> dict[str, str] | None:
    if data is None:
        return None
    return {"type": data.dtype.str, "bytes": base64.b64encode(data.tobytes()).decode()}


def _array(held: dict[str, str] | None) -> np.ndarray | None:
    return None if held is None else np.frombuffer(base64.b64decode(held["bytes"]), dtype=held["type"])


class Recorder:
    """A link that writes down what passes through another one, a line each, as it happens."""

    def __init__(self, link: Link, path: Path) -> None:
        self.link, self.most = link, link.most
        self._file = path.open("w", encoding="utf-8")

    def calls(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """As ``Link``."""
        for request in requests:
            data = None
            if request.data is not None:
                data = np.ascontiguousarray(request.data, dtype=request.command.asks.data)
            entry: dict[str, Any] = {"ask": request.command.name, "values": request.values, "data": _text(data)}
            try:
                reply = next(iter(self.link.calls([request])))
            except Refused as error:
                self._line(entry | {"refused": [error.code, str(error)]})
                raise
            self._line(entry | {"reply": reply.values, "array": _text(reply.data)})
            yield reply

    def _line(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def restart(self) -> None:
        """As ``Link``."""
        self.link.restart()

    def close(self) -> None:
        """As ``Link``."""
        self._file.close()
        self.link.close()


class Transcript:
    """A link without a board: it gives the recorded answers, if the same is asked in the same order.

    Raises LinkError naming the line where what is asked departs from what was.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.most = path, MOST
        self._lines = path.read_text(encoding="utf-8").splitlines()
        self._next = 0

    @property
    def finished(self) -> bool:
        """Whether everything recorded was asked."""
        return self._next == len(self._lines)

    def calls(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """As ``Link``."""
        for request in requests:
            yield self._answer(request)

    def _answer(self, request: Request) -> Reply:
        if self.finished:
            raise LinkError(
                f"{self.path} has {len(self._lines)} lines; {request.command.name} was asked after the last"
            )
        self._next += 1
        line = json.loads(self._lines[self._next - 1])
        command = COMMANDS[line["ask"]]
        same = command is request.command and command.asks.pack(line["values"], _array(line["data"])) == (
            command.asks.pack(request.values, request.data)
        )
        if not same:
            raise LinkError(
                f"{self.path} line {self._next}: {line['ask']} {line['values']} was asked then, "
                f"{request.command.name} {request.values} now"
            )
        if "refused" in line:
            raise Refused(*line["refused"])
        return Reply(line["reply"], _array(line["array"]))

    def restart(self) -> None:
        """Nothing to do: a transcript is never reset."""

    def close(self) -> None:
        """Nothing to let go of."""
