"""Faults of a link, to test what must survive them: messages lost, damaged, doubled, cut short, delayed."""

from __future__ import annotations

import random
from collections import Counter

from pydantic import Field

from bitline.configuration import Frozen


class Faults(Frozen):
    """Shares of the messages, 0 … 1, in each direction, that something happens to; and what happens once, counted in
    requests that reached the board. Absent: it does not."""

    drop: float = Field(default=0.0, ge=0, le=1)
    corrupt: float = Field(default=0.0, ge=0, le=1, description="one byte is changed")
    duplicate: float = Field(default=0.0, ge=0, le=1)
    truncate: float = Field(default=0.0, ge=0, le=1, description="the end is missing")
    delay: float = Field(default=0.0, ge=0, le=1, description="it comes after the next one")
    busy: float = Field(default=0.0, ge=0, le=1, description="of frames: the board is busy, the request is not done")
    credit: float = Field(default=0.0, ge=0, le=1, description="of frames: the answer grants from one to all requests")
    disconnect: int | None = Field(
        default=None, ge=1, description="the connection breaks inside the answer to this one"
    )
    reset: int | None = Field(default=None, ge=1, description="the board starts anew before this one")
    stall: int | None = Field(default=None, ge=1, description="from this one on nothing is answered")
    deaf: int | None = Field(default=None, ge=1, description="after this one nothing is read")
    seed: int = 0


class Line:
    """One direction of a link with faults; ``happened`` counts them by kind, where several lines may add to it."""

    def __init__(self, faults: Faults, name: str, happened: Counter[str] | None = None) -> None:
        self.faults, self.happened = faults, Counter[str]() if happened is None else happened
        self._random = random.Random(f"{faults.seed} {name}")
        self._late: list[bytes] = []

    def passes(self, message: bytes) -> list[bytes]:
        """What comes out at the other end, in order, for a message that goes in."""
        faults, draw = self.faults, self._random
        found = [message]
        if draw.random() < faults.corrupt:
            self.happened["corrupt"] += 1
            place = draw.randrange(len(message))
            found = [message[:place] + bytes([message[place] ^ (1 << draw.randrange(8))]) + message[place + 1 :]]
        if draw.random() < faults.truncate:
            self.happened["truncate"] += 1
            found = [found[0][: draw.randrange(len(message))]]
        if draw.random() < faults.drop:
            self.happened["drop"] += 1
            found = []
        if draw.random() < faults.duplicate:
            self.happened["duplicate"] += len(found)
            found *= 2
        if found and draw.random() < faults.delay:
            self.happened["delay"] += 1
            self._late += found
            return []
        found += self._late
        self._late = []
        return found
