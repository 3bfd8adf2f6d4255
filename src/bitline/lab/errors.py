"""What can go wrong between a host and a board."""

from __future__ import annotations


class LinkError(OSError):
    """The link or the board broke the protocol, or the board speaks another version of it."""


class BoardTimeout(LinkError):
    """The board did not answer in time, however often it was asked."""


class BoardReset(LinkError):
    """The board started anew: cells and settings are gone, and what was asked last may not have been done."""


class Refused(ValueError):
    """The board understood a command and refused it; ``code`` is one of ``commands.CODES``."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class BundleError(ValueError):
    """A deploy bundle that is damaged, of another version, or does not fit the board."""
