"""Which Bitline this is."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """Of the installed package; ``not installed`` where there is none."""
    try:
        return metadata.version("bitline")
    except metadata.PackageNotFoundError:
        return "not installed"
