"""Packages that are verbs too: importing one binds its name in ``bitline``, where the function of that name was."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Verb(ModuleType):
    """A package that is called as the function in it of the same name."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*arguments, **named)


def verb(name: str) -> None:
    """Let the package ``name`` be called: ``bl.train(…)`` is ``bitline.train.train(…)``."""
    sys.modules[name].__class__ = _Verb
