"""Layers chosen by patterns of their dotted names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether some pattern (``layers.*.conv?``) matches a name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def all_match(patterns: Sequence[str], names: Iterable[str], where: str = "") -> None:
    """Raise ValueError, told with ``where``, for a pattern that matches none of the names."""
    known = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(f"{where}pattern {pattern!r} matches no layer; the layers are: {', '.join(known)}")
