"""What may stand at a place of a model: types without their wrapping, and marks beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from bitline.configuration.errors import moved

Model: TypeAlias = type[BaseModel]


class OneOrMany:
    """Beside a tuple: a single entry may stand without its list, and errors in it are told without the number 0."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any, inner: Callable[[Any], Any]) -> Any:
            if isinstance(value, list | tuple):
                return inner(value)
            try:
                return inner([value])
            except ValidationError as error:
                raise moved(error, lambda place: place[1:]) from None

        return core_schema.no_info_wrap_validator_function(read, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


class Changes:
    """Beside a dictionary: it holds some keys of the model that it is in, to be laid over it."""


@dataclass(frozen=True)
class Type:
    """What stands at a place: its type without `None` and `Annotated`, and what was said beside it."""

    annotation: Any
    beside: tuple[Any, ...] = ()

    @staticmethod
    def of(annotation: Any, *beside: Any) -> Type:
        while True:
            if get_origin(annotation) is Annotated:
                beside, annotation = (*beside, *annotation.__metadata__), annotation.__origin__
            elif get_origin(annotation) in (Union, UnionType):
                members = tuple(one for one in get_args(annotation) if one is not NoneType)
                if len(members) > 1:
                    return Type(Union[members], beside)  # noqa: UP007
                annotation = members[0]
            else:
                return Type(annotation, beside)

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

    def at(self, number: int = 0) -> Type | None:
        """An entry of a list; of a dictionary, a value."""
        inside = get_args(self.annotation)
        if get_origin(self.annotation) is dict:
            return Type.of(inside[1])
        if get_origin(self.annotation) not in (tuple, list) or not inside:
            return None
        if get_origin(self.annotation) is tuple and inside[-1] is not Ellipsis:
            return Type.of(inside[number]) if number < len(inside) else None
        return Type.of(inside[0])

    @property
    def length(self) -> int | None:
        """Entries of a list of a fixed length."""
        inside = get_args(self.annotation)
        return len(inside) if get_origin(self.annotation) is tuple and Ellipsis not in inside else None

    def laid(self, owner: Type | None) -> Type:
        """The type of what stands here: changes to a model are keys of that model."""
        return owner if owner is not None and self.marked(Changes) else self
