"""Models that do not change once they are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

V = TypeVar("V", bound="Value")


class Frozen(BaseModel):
    """A model that does not change, and refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Value(Frozen):
    """A frozen model that keeps what it works out (``cached_property``): copies share it, changed copies start anew."""

    def __deepcopy__(self: V, memo: dict[int, Any] | None = None) -> V:
        return self

    def model_copy(self: V, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> V:
        """As pydantic's; ``deep`` makes no difference, for nothing inside ever changes."""
        copied = super().model_copy(update=update)
        for name in copied.__dict__.keys() - type(self).model_fields.keys() if update else ():
            del copied.__dict__[name]
        return copied
