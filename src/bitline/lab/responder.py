"""The board's end of the binary protocol: frames in, frames out, everything done once.

A session remembers the answers to its last ``WINDOW`` requests: a frame whose number it knows is answered from there,
one whose number is not the next is refused as out of order, so that a lost frame is sent again and what follows it too.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass, field

from bitline.lab.board import Board
from bitline.lab.commands import (
    BAD_COMMAND,
    BAD_FIELD,
    BAD_VERSION,
    BUSY,
    BY_KIND,
    FAULT,
    NO_SESSION,
    OK,
    OPEN,
    OUT_OF_ORDER,
    Values,
)
from bitline.lab.errors import Refused
from bitline.lab.faults import Faults
from bitline.lab.frames import REPLY, VERSION, Frame

WINDOW = 8
SESSIONS = 4


@dataclass
class Session:
    """Number of the next request, and the last answers by number."""

    expected: int = 1
    answers: OrderedDict[int, bytes] = field(default_factory=OrderedDict)


class Responder:
    """Answers frames for a board; ``window`` is how many requests may be on the way at once.

    Of ``faults`` it has those that are the board's own: it is busy now and then, and grants fewer requests.
    """

    def __init__(
        self, board: Board, window: int = WINDOW, version: int = VERSION, faults: Faults | None = None
    ) -> None:
        self.board, self.window, self.version = board, window, version
        self.faults = faults or Faults()
        self._random = random.Random(f"{self.faults.seed} board")
        self.sessions: OrderedDict[int, Session] = OrderedDict()

    def reset(self) -> None:
        """The board starts anew: no session survives."""
        self.board.reset()
        self.sessions.clear()

    def answer(self, frame: Frame) -> bytes | None:
        """The frame to send back; None for one that is no request."""
        if frame.kind & REPLY:
            return None
        if frame.version != self.version:
            return self._reply(frame, BAD_VERSION, f"version {self.version} is spoken here".encode())
        if frame.kind == OPEN.kind:
            return self._open(frame)
        session = self.sessions.get(frame.session)
        if session is None:
            return self._reply(frame, NO_SESSION, b"open a session first")
        if frame.sequence in session.answers:
            return session.answers[frame.sequence]
        if frame.sequence != session.expected:
            return self._reply(frame, OUT_OF_ORDER, str(session.expected).encode())
        if self._random.random() < self.faults.busy:
            return self._reply(frame, BUSY, b"")
        status, body = self._done(frame)
        reply = self._reply(frame, status, body)
        session.expected = (session.expected + 1) & 0xFFFFFFFF
        session.answers[frame.sequence] = reply
        while len(session.answers) > self.window:
            session.answers.popitem(last=False)
        return reply

    def _done(self, frame: Frame) -> tuple[int, bytes]:
        command = BY_KIND.get(frame.kind)
        if command is None:
            return BAD_COMMAND, f"kind {frame.kind:#04x}".encode()
        try:
            values, data = command.asks.unpack(frame.payload)
        except ValueError as error:
            return BAD_FIELD, f"{command.name}: {error}".encode()
        try:
            reply = self.board.answer(command, values, data)
        except Refused as error:
            return error.code, str(error).encode()
        except (ValueError, ArithmeticError, MemoryError) as error:
            return FAULT, str(error)[:200].encode()
        return OK, command.answers.pack(reply.values, reply.data)

    def _open(self, frame: Frame) -> bytes:
        known = frame.session in self.sessions
        if not known:
            self.sessions[frame.session] = Session()
            while len(self.sessions) > SESSIONS:
                self.sessions.popitem(last=False)
        self.sessions.move_to_end(frame.session)
        values: Values = {"boots": self.board.boots, "known": int(known), "window": self.window}
        values |= {"expected": self.sessions[frame.session].expected, "most": self.board.most}
        return self._reply(frame, OK, OPEN.answers.pack(values, None))

    def _reply(self, frame: Frame, status: int, body: bytes) -> bytes:
        fewer = self._random.random() < self.faults.credit
        credit = self._random.randint(1, self.window) if fewer else self.window
        head = status.to_bytes(2, "little") + credit.to_bytes(2, "little")
        return Frame(frame.kind | REPLY, frame.session, frame.sequence, head + body, self.version).encode()
