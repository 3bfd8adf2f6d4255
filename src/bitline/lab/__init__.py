"""The bench: instruments, a virtual board, characterisation, deploy bundles and their replay."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_FROM = {
    "board": ("Board",),
    "bundle": ("Bundle", "load", "save"),
    "sweep": ("characterize",),
    "errors": ("BoardReset", "BoardTimeout", "BundleError", "LinkError", "Refused"),
    "deploy": ("export",),
    "hardware": ("write_rtl",),
    "instrument": ("Identity", "Instrument", "connect"),
    "agreement": ("Agreement", "reconcile"),
    "running": ("Replayed", "predict", "program", "replay"),
    "transcript": ("Recorder", "Transcript"),
}
_WHERE = {name: module for module, names in _FROM.items() for name in names}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    """Parts are imported when they are first used, so that the command line starts without torch."""
    if name in _WHERE:
        return getattr(import_module(f"bitline.lab.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'bitline.lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
