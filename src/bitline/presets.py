"""Ready-made macros, by name: ``presets.load("generic-8t-sram")``, or ``presets.generic_8t_sram()``.

A name without ``generic-`` is a published macro: its figures come from the source that the macro itself quotes, and
errors that were not published are absent, that is ideal. A ``generic-`` macro looks like its kind but is no chip.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bitline.macro.macro import Macro, find, preset_names

names = preset_names


def load(name: str) -> Macro:
    """The preset of that name, or the macro in a .yaml file; raises ValueError listing the names there are."""
    return Macro.load(find(name))


def __getattr__(name: str) -> Callable[[], Macro]:
    preset = name.replace("_", "-")
    try:
        find(preset)
    except ValueError as error:
        raise AttributeError(str(error)) from None
    return partial(load, preset)


def __dir__() -> list[str]:
    return ["load", "names", *(name.replace("-", "_") for name in names())]
