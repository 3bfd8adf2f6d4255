"""Validation errors of our own making, and those of a part put at its place in the whole."""

from collections.abc import Callable
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

KNOWN = frozenset(get_args(core_schema.ErrorType))


def within(error: ValidationError, *place: int | str) -> ValidationError:
    """The same error, of a part that stands at ``place``."""
    return moved(error, lambda inside: (*place, *inside))


def refused(error: ValueError, value: Any, *place: int | str) -> ValidationError:
    """What a check of the whole found, told at the key that ``value`` stands at."""
    line = InitErrorDetails(type="value_error", loc=place, input=value, ctx={"error": error})
    return ValidationError.from_exception_data("configuration", [line])


def moved(error: ValidationError, move: Callable[[tuple[int | str, ...]], tuple[int | str, ...]]) -> ValidationError:
    """The same error, each of its places as ``move`` says."""
    lines = []
    for item in error.errors(include_url=False):
        own = item["type"] not in KNOWN
        line = InitErrorDetails(
            type=PydanticCustomError(item["type"], item["msg"]) if own else item["type"],
            loc=move(item["loc"]),
            input=item["input"],
        )
        if not own and "ctx" in item:
            line["ctx"] = item["ctx"]
        lines.append(line)
    return ValidationError.from_exception_data(error.title, lines)
