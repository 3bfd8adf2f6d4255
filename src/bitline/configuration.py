"""Configurations as they are written: short forms made whole, and what is wrong told by key.

``Written`` is a model that takes a bare name for ``{kind: name}`` and no truth value for a number; ``Value`` is a
frozen one that keeps what it works out. ``explain`` tells a ``ValidationError`` in the words of the file: the path of
the key as it was written, what would be accepted there.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

Model: TypeAlias = type[BaseModel]
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where PyYAML has it: 20 times as fast
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
KNOWN = frozenset(get_args(core_schema.ErrorType))
V = TypeVar("V", bound="Value")
SHOWN = 80  # characters of a value that is repeated in a message


# ---------------------------------------------------------------------------------------------------------------- YAML


def from_yaml(text: str) -> Any:
    """Plain data from YAML; raises yaml.YAMLError."""
    return yaml.load(text, LOADER)


def to_yaml(value: Any) -> str:
    """Plain data as YAML, keys in their order."""
    return yaml.dump(value, Dumper=DUMPER, sort_keys=False, allow_unicode=True)


# --------------------------------------------------------------------------------------------------- marks of fields


class OneOrMany:
    """Beside a tuple: a single entry may stand without its list, and errors in it are told without the number 0."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any, inner: Callable[[Any], Any]) -> Any:
            if isinstance(value, list | tuple):
                return inner(value)
            try:
                return inner([value])
            except ValidationError as error:
                raise _moved(error, lambda place: place[1:]) from None

        return core_schema.no_info_wrap_validator_function(read, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


class Changes:
    """Beside a dictionary: it holds some keys of the model that it is in, to be laid over it."""


# ------------------------------------------------------------------------------------------------- types of the model


@dataclass(frozen=True)
class _Type:
    """What stands at a place: its type without `None` and `Annotated`, and what was said beside it."""

    annotation: Any
    beside: tuple[Any, ...] = ()

    @staticmethod
    def of(annotation: Any, *beside: Any) -> _Type:
        while True:
            if get_origin(annotation) is Annotated:
                beside, annotation = (*beside, *annotation.__metadata__), annotation.__origin__
            elif get_origin(annotation) in (Union, UnionType):
                members = tuple(one for one in get_args(annotation) if one is not NoneType)
                if len(members) > 1:
                    return _Type(Union[members], beside)  # noqa: UP007
                annotation = members[0]
            else:
                return _Type(annotation, beside)

    @property
    def tag(self) -> str | None:
        """The key that says which member of a union is meant."""
        found = (one.discriminator for one in self.beside if isinstance(one, FieldInfo))
        return next((one for one in found if isinstance(one, str)), None)

    @property
    def members(self) -> tuple[Any, ...]:
        """The types of a union, or the one type."""
        return get_args(self.annotation) if get_origin(self.annotation) is Union else (self.annotation,)

    @property
    def kinds(self) -> dict[str, Model]:
        """The members of a tagged union by their tags; none if it is no such union."""
        if self.tag is None:
            return {}
        return {tag: one for one in self.members for tag in get_args(one.model_fields[self.tag].annotation)}

    @property
    def models(self) -> tuple[Model, ...]:
        """The models whose keys may stand here."""
        found = tuple(self.kinds.values()) or (self.annotation,)
        return tuple(one for one in found if isinstance(one, type) and issubclass(one, BaseModel))

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """The keys that may stand here."""
        return {
            field.alias or name: field
            for one in reversed(self.models)
            for name, field in one.model_fields.items()
            if not field.exclude
        }

    def marked(self, mark: type) -> bool:
        return any(isinstance(one, mark) for one in self.beside)

    def at(self, number: int = 0) -> _Type | None:
        """An entry of a list; of a dictionary, a value."""
        inside = get_args(self.annotation)
        if get_origin(self.annotation) is dict:
            return _Type.of(inside[1])
        if get_origin(self.annotation) not in (tuple, list) or not inside:
            return None
        if get_origin(self.annotation) is tuple and inside[-1] is not Ellipsis:
            return _Type.of(inside[number]) if number < len(inside) else None
        return _Type.of(inside[0])

    @property
    def length(self) -> int | None:
        """Entries of a list of a fixed length."""
        inside = get_args(self.annotation)
        return len(inside) if get_origin(self.annotation) is tuple and Ellipsis not in inside else None

    def laid(self, owner: _Type | None) -> _Type:
        """The type of what stands here: changes to a model are keys of that model."""
        return owner if owner is not None and self.marked(Changes) else self


# ------------------------------------------------------------------------------------------------------------ reading


class Written(BaseModel):
    """A model that is read as people write it: ``range: calibrated`` stands for ``range: {kind: calibrated}``.

    It refuses truth values where a number is meant: YAML reads yes, no, on and off as such.
    """

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, value: Any) -> Any:
        return whole(value, cls)

    @classmethod
    def model_json_schema(  # type: ignore[override]
        cls,
        by_alias: bool = True,
        ref_template: str = "#/$defs/{model}",
        schema_generator: type[GenerateJsonSchema] | None = None,
        mode: JsonSchemaMode = "validation",
        **more: Any,
    ) -> dict[str, Any]:
        """The JSON schema, bare names included."""
        return super().model_json_schema(by_alias, ref_template, schema_generator or _Schema, mode, **more)


class Value(BaseModel):
    """A frozen model that keeps what it works out (``cached_property``): copies share it, changed copies start anew."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __deepcopy__(self: V, memo: dict[int, Any] | None = None) -> V:
        return self

    def model_copy(self: V, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> V:
        """As pydantic's; ``deep`` makes no difference, for nothing inside ever changes."""
        copied = super().model_copy(update=update)
        for name in copied.__dict__.keys() - type(self).model_fields.keys() if update else ():
            del copied.__dict__[name]
        return copied


class _Schema(GenerateJsonSchema):
    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        found = super().tagged_union_schema(schema)
        members = [self.resolve_ref_schema(one) for one in found["oneOf"]]
        alone = [str(tag) for tag, member in zip(schema["choices"], members, strict=True) if not member.get("required")]
        return {"anyOf": [{"enum": alone}, found]} if alone else found


def whole(value: Any, model: Model) -> Any:
    """Data of a model with ``{kind: name}`` in place of bare names; raises ValidationError for truth values that stand
    where numbers should."""
    wrong: list[InitErrorDetails] = []
    found = _whole(value, _Type.of(model), None, (), wrong)
    if wrong:
        raise ValidationError.from_exception_data(model.__name__, wrong)
    return found


def _whole(
    value: Any, here: _Type | None, owner: _Type | None, place: tuple[int | str, ...], wrong: list[InitErrorDetails]
) -> Any:
    if here is None:
        return value
    here = here.laid(owner)
    if here.marked(OneOrMany) and not isinstance(value, list | tuple):
        here = here.at()
        assert here is not None
    if isinstance(value, bool) and set(here.members) <= {int, float}:
        wrong.append(InitErrorDetails(type=_TRUTH, loc=place, input=value))
    if here.kinds and isinstance(value, str):
        return {here.tag: value}
    if here.models and isinstance(value, Mapping):
        if here.tag and (kind := here.kinds.get(str(value.get(here.tag)))):
            here = _Type.of(kind)
        fields = here.fields
        inside: dict[Any, Any] = {}
        for key, one in value.items():
            field = fields.get(key)
            type_ = None if field is None else _Type.of(field.annotation, field, *field.metadata)
            inside[key] = _whole(one, type_, here, (*place, str(key)), wrong)
        return inside
    if get_origin(here.annotation) is dict and isinstance(value, Mapping):
        return {key: _whole(one, here.at(), owner, (*place, str(key)), wrong) for key, one in value.items()}
    if get_origin(here.annotation) in (tuple, list) and isinstance(value, list | tuple):
        return [_whole(one, here.at(i), owner, (*place, i), wrong) for i, one in enumerate(value)]
    return value


def lay(data: Any, key: str, value: Any, where: str) -> None:
    """Put a value at ``key.key`` of plain data, in place; entries of lists go by number, what is absent is made.

    Raises ValueError, ``where`` in front, for a number that a list does not have and a part that has no parts.
    """
    *path, last = key.split(".")
    place = data
    for part in path:
        if isinstance(place, list):
            place = place[_number(part, place, where)]
        else:
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
        if not isinstance(place, dict | list):
            raise ValueError(f"{where}: {part} is {place!r}, which has no parts")
    if isinstance(place, list):
        place[_number(last, place, where)] = value
    else:
        place[last] = value


def _number(part: str, place: Sized, where: str) -> int:
    if not part.isdigit() or int(part) >= len(place):
        raise ValueError(f"{where}: {part!r} is no place in a list of {len(place)}")
    return int(part)


_TRUTH = PydanticCustomError(
    "truth_value", "a number is expected, not a truth value (YAML reads yes, no, on and off as such)"
)


# ------------------------------------------------------------------------------------------------------------- telling


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


def within(error: ValidationError, *place: int | str) -> ValidationError:
    """The same error, of a part that stands at ``place``."""
    return _moved(error, lambda inside: (*place, *inside))


def refused(error: ValueError, value: Any, *place: int | str) -> ValidationError:
    """What a check of the whole found, told at the key that ``value`` stands at."""
    line = InitErrorDetails(type="value_error", loc=place, input=value, ctx={"error": error})
    return ValidationError.from_exception_data("configuration", [line])


def near(name: object, names: Iterable[str]) -> str:
    """``did you mean …?`` where one of the names is much like what was written, else nothing."""
    found = get_close_matches(str(name), list(names), 1)
    return f"did you mean {found[0]}? " if found else ""


def _moved(error: ValidationError, move: Callable[[tuple[int | str, ...]], tuple[int | str, ...]]) -> ValidationError:
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


@dataclass
class _Place:
    """Where an error is: the path as written, what stands there and what it is in."""

    path: list[str]
    here: _Type | None
    field: FieldInfo | None = None
    owner: _Type | None = None
    union: _Type | None = None  # of which the owner is one kind

    @property
    def may_be_absent(self) -> bool:
        return self.field is not None and self.field.default is None and not self.field.is_required()


def _find(model: Model, place: tuple[int | str, ...]) -> _Place:
    """Follow pydantic's path through the model: tags of unions and numbers that nobody wrote are left out."""
    found = _Place([], _Type.of(model))
    union: _Type | None = None
    for part in place:
        here, field = found.here, None
        here = None if here is None else here.laid(found.owner)
        if here is not None and here.marked(OneOrMany) and not isinstance(part, int):
            here = here.at()
        if here is not None and part in here.kinds:
            found.here, union = _Type.of(here.kinds[str(part)]), here
            continue
        if here is not None and not here.kinds and len(here.members) > 1:  # the member that was tried
            found.here = next((_Type.of(one) for one in here.members if getattr(one, "__name__", one) == part), None)
            continue
        if here is None:
            inside = None
        elif here.models:
            field = here.fields.get(str(part))
            inside = None if field is None else _Type.of(field.annotation, field, *field.metadata)
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
        text = text.removeprefix(f"{place.path[-1]}: ")
    if kind == "literal_error" and here is not None:
        hint = near(value, [str(one) for one in get_args(here.annotation)]).strip()
        return f"{text}; {hint}" if hint else text
    return f"{text}, or leave it out" if kind.startswith("greater_than") and place.may_be_absent else text


def _unknown(key: str, owner: _Type, union: _Type | None) -> str:
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


def _list(here: _Type, value: Any) -> str:
    inside = here.at()
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return f"[{', '.join([str(value)] * (here.length or 1))}]"
    if isinstance(value, Mapping) and value:
        return f"[{{{next(iter(value))}: …}}]"
    return f"[{_mapping(inside) if inside is not None and inside.models else '…'}]"


def _mapping(here: _Type | None) -> str:
    """A mapping that could stand here, as far as its first key says it."""
    if here is None or not here.models:
        return "{key: …}"
    if here.kinds:
        kinds = {tag: any(f.is_required() for f in one.model_fields.values()) for tag, one in here.kinds.items()}
        return f"{{{here.tag}: {min(kinds, key=kinds.__getitem__)}}}"
    fields = {name: field for name, field in here.fields.items() if get_origin(field.annotation) is not Literal}
    first = next((name for name, field in fields.items() if field.is_required()), next(iter(fields), "key"))
    return f"{{{first}: …}}"
