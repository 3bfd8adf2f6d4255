"""Frames of the binary protocol, byte for byte as docs/lab-protocol.md says; no input or output happens here.

    0   2  magic B1 7E        8  4  sequence number
    2   1  version            12 4  length n of the payload
    3   1  kind               16 4  CRC-32 of bytes 0 … 15
    4   4  session            20 n  payload, then 4 bytes CRC-32 of it

Integers are little-endian; CRC-32 is that of IEEE 802.3 (zlib). A reply has the kind of its command plus 80 hex.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

MAGIC = b"\xb1\x7e"
VERSION = 1
REPLY = 0x80
HEADER = struct.Struct("<2sBBIII")
OVERHEAD = HEADER.size + 8  # bytes of a frame beside its payload
VAIN = 8  # largest payloads that may be checked in vain beyond as many bytes as have passed
_CRC = struct.Struct("<I")


@dataclass(frozen=True)
class Frame:
    """One message; ``version`` is what the sender speaks."""

    kind: int
    session: int
    sequence: int
    payload: bytes = b""
    version: int = VERSION

    def encode(self) -> bytes:
        """The bytes on the wire."""
        head = HEADER.pack(MAGIC, self.version, self.kind, self.session, self.sequence, len(self.payload))
        return b"".join([head, _CRC.pack(zlib.crc32(head)), self.payload, _CRC.pack(zlib.crc32(self.payload))])


class Parser:
    """Finds frames in a stream that may lose, add and change bytes.

    A frame counts only if both its checks hold; where one fails, the search goes on two bytes further, so that a good
    frame inside what a damaged length swallowed is still found. Never holds more than one frame of ``most`` payload
    bytes and one chunk fed; ``junk`` counts the bytes thrown away. Where headers that promise long payloads lie inside
    one another, whole frames are dropped, so that the time for a stream grows with its length alone.
    """

    def __init__(self, most: int) -> None:
        self.most, self.junk = most, 0
        self._vain = 0  # bytes of payloads checked in vain, less those that have passed
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete with these bytes, in order."""
        self._held += data
        found = []
        while (frame := self._next()) is not None:
            found.append(frame)
        return found

    def skip(self) -> list[Frame]:
        """Give up the frame that has begun, if its end has been lost; the frames that came behind its beginning."""
        if self._held.startswith(MAGIC):
            self._pass(len(MAGIC), junk=len(MAGIC))
        return self.feed(b"")

    def clear(self) -> None:
        """Forget a half frame: the stream starts anew."""
        self.junk += len(self._held)
        self._held.clear()

    def _next(self) -> Frame | None:
        held, at = self._held, 0
        while (at := held.find(MAGIC, at)) >= 0:
            start = at + HEADER.size + 4
            if len(held) < start:
                break
            head = bytes(held[at : at + HEADER.size])
            _, version, kind, session, sequence, length = HEADER.unpack(head)
            if _CRC.unpack_from(held, start - 4)[0] != zlib.crc32(head) or length > self.most:
                at += len(MAGIC)
                continue
            end = start + length
            if len(held) < end + 4:
                break
            payload = bytes(held[start:end])
            if _CRC.unpack_from(held, end)[0] == zlib.crc32(payload):
                self._pass(end + 4, junk=at)
                return Frame(kind, session, sequence, payload, version)
            self._vain += length
            at = at + len(MAGIC) if self._vain <= VAIN * self.most else end + 4
        else:
            at = len(held) - (1 if held.endswith(MAGIC[:1]) else 0)
        self._pass(at, junk=at)
        return None

    def _pass(self, count: int, junk: int) -> None:
        self.junk += junk
        self._vain = max(0, self._vain - count)
        del self._held[:count]
