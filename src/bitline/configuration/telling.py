"""What is wrong, told in the words of the file that was written."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from bitline.configuration.types import Model, OneOrMany, Type

SHOWN = 80  # characters of a value that is repeated in a message


def explain(error: ValidationError, model: Model, where: object) -> str:
    """What is wrong in ``where``, a file read as this model: the one wrong key, or a line for each.

    A key is told by its path as it was written, with what would be accepted there.
    """
    told: dict[str, str] = {}
    given: dict[str, str] = {}
    for item in error.errors(include_url=False):
        if item["type"] == "too_short" and item["ctx"]["actual_length"] < len(item["input"]):
            continue  # it lacks those entries alone that are told themselves
        place = _find(model, item["loc"])
        path, sentence = ".".join(place.path), _sentence(item, place)
        if path in told:  # each member of a union refuses the value in its own words
            sentence = f"{told[path]}, or {sentence.removeprefix('Input should be ')}"
        told[path], given[path] = sentence, _given(item, sentence) if path else ""
    lines = [f"{path}: {told[path]}{given[path]}" if path else told[path] for path in told]
    if len(lines) == 1 and "\n" not in lines[0]:
        return f"{where}: {lines[0]}"
    return f"{where}:\n" + textwrap.indent("\n".join(lines), "  ")


def near(name: object, names: Iterable[str]) -> str:
    """``did you mean …?`` where one of the names is much like what was written, else nothing."""
    found = get_close_matches(str(name), list(names), 1)
    return f"did you mean {found[0]}? " if found else ""


@dataclass
class _Place:
    """Where an error is: the path as written, what stands there and what it is in."""

    path: list[str]
    here: Type | None
    field: FieldInfo | None = None
    owner: Type | None = None
    union: Type | None = None  # of which the owner is one kind

    @property
    def may_be_absent(self) -> bool:
        return self.field is not None and self.field.default is None and not self.field.is_required()


def _find(model: Model, place: tuple[int | str, ...]) -> _Place:
    """Follow pydantic's path through the model: tags of unions and numbers that nobody wrote are left out."""
    found = _Place([], Type.of(model))
    union: Type | None = None
    for part in place:
        here, field = found.here, None
        here = None if here is None else here.laid(found.owner)
        if here is not None and here.marked(OneOrMany) and not isinstance(part, int):
            here = here.at()
        if here is not None and part in here.kinds:
            found.here, union = Type.of(here.kinds[str(part)]), here
            continue
        if here is not None and not here.kinds and len(here.members) > 1:  # the member that was tried
            found.here = next((Type.of(one) for one in here.members if getattr(one, "__name__", one) == part), None)
            continue
        if here is None:
            inside = None
        elif here.models:
            field = here.fields.get(str(part))
            inside = None if field is None else Type.of(field.annotation, field, *field.metadata)
            found.owner, found.union = here, union
        else:
            inside = here.at(part if isinstance(part, int) else 0)
        found.path.append(str(part))
        found.here, found.field, union = inside, field, None
    return found


def _sentence(item: Any, place: _Place) -> str:
    kind, here, value = item["type"], place.here, item["input"]
    if kind == "missing":
        what = place.field.description if place.field is not None else None
        return "required, but missing" + (f": {what}" if what else "")
    if kind == "extra_forbidden" and place.owner is not None:
        return _unknown(place.path[-1], place.owner, place.union)
    if kind == "union_tag_not_found" and here is not None:
        return f"`{here.tag}` is missing; there are: {', '.join(here.kinds)}"
    if kind == "union_tag_invalid" and here is not None:
        named = value.get(here.tag) if isinstance(value, Mapping) else value
        return f"no {here.tag} {named!r}; {near(named, here.kinds)}there are: {', '.join(here.kinds)}"
    if kind in ("tuple_type", "list_type") and here is not None:
        return f"a list is expected, such as {_list(here, value)}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"a mapping is expected, such as {_mapping(here)}"
    text: str = item["msg"].removeprefix("Value error, ").replace("Tuple should", "List should")
    if place.path:
        key = place.path[-1]  # texts begin with the key that they are of, for who reads them without its path
        text = text.removeprefix(f"{key}: ").removeprefix(f"{key}.")
    if kind == "literal_error" and here is not None:
        hint = near(value, [str(one) for one in get_args(here.annotation)]).strip()
        return f"{text}; {hint}" if hint else text
    return f"{text}, or leave it out" if kind.startswith("greater_than") and place.may_be_absent else text


def _unknown(key: str, owner: Type, union: Type | None) -> str:
    known = sorted(owner.fields)
    others = [] if union is None else [tag for tag, one in union.kinds.items() if key in one.model_fields]
    elsewhere = f"{union.tag} {', '.join(others)} has it; " if union is not None and others else ""
    return f"no such key; {near(key, known)}{elsewhere}known: {', '.join(known)}"


def _given(item: Any, text: str) -> str:
    """The value that was given, where it is plain, and wrong itself, and the text does not say it already."""
    value = item["input"]
    if item["type"] in ("missing", "extra_forbidden", "union_tag_not_found", "union_tag_invalid"):
        return ""
    entries = value if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(one, str | int | float | NoneType) for one in entries):
        return ""
    if item["type"] == "value_error" and re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", text):
        return ""
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return f" (given: {shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + '…'})"


def _list(here: Type, value: Any) -> str:
    inside = here.at()
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return f"[{', '.join([str(value)] * (here.length or 1))}]"
    if isinstance(value, Mapping) and value:
        return f"[{{{next(iter(value))}: …}}]"
    return f"[{_mapping(inside) if inside is not None and inside.models else '…'}]"


def _mapping(here: Type | None) -> str:
    """A mapping that could stand here, as far as its first key says it."""
    if here is None or not here.models:
        return "{key: …}"
    if here.kinds:
        kinds = {tag: any(f.is_required() for f in one.model_fields.values()) for tag, one in here.kinds.items()}
        return f"{{{here.tag}: {min(kinds, key=kinds.__getitem__)}}}"
    fields = {name: field for name, field in here.fields.items() if get_origin(field.annotation) is not Literal}
    first = next((name for name, field in fields.items() if field.is_required()), next(iter(fields), "key"))
    return f"{{{first}: …}}"
