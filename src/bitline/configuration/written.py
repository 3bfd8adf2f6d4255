"""Reading: YAML to plain data, short forms made whole, values laid over it; and the models that are read so."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any, get_origin

import yaml
from pydantic import BaseModel, ValidationError, model_validator
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from bitline.configuration.types import Model, OneOrMany, Type

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where PyYAML has it: 20 times as fast
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
TRUTH = PydanticCustomError(
    "truth_value", "a number is expected, not a truth value (YAML reads yes, no, on and off as such)"
)


def from_yaml(text: str) -> Any:
    """Plain data from YAML; raises yaml.YAMLError."""
    return yaml.load(text, LOADER)


def to_yaml(value: Any) -> str:
    """Plain data as YAML, keys in their order."""
    return yaml.dump(value, Dumper=DUMPER, sort_keys=False, allow_unicode=True)


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
    found = _whole(value, Type.of(model), None, (), wrong)
    if wrong:
        raise ValidationError.from_exception_data(model.__name__, wrong)
    return found


def _whole(
    value: Any, here: Type | None, owner: Type | None, place: tuple[int | str, ...], wrong: list[InitErrorDetails]
) -> Any:
    if here is None:
        return value
    here = here.laid(owner)
    if here.marked(OneOrMany) and not isinstance(value, list | tuple):
        here = here.at()
        assert here is not None
    if isinstance(value, bool) and set(here.members) <= {int, float}:
        wrong.append(InitErrorDetails(type=TRUTH, loc=place, input=value))
    if here.kinds and isinstance(value, str):
        return {here.tag: value}
    if here.models and isinstance(value, Mapping):
        if here.tag and (kind := here.kinds.get(str(value.get(here.tag)))):
            here = Type.of(kind)
        fields = here.fields
        inside: dict[Any, Any] = {}
        for key, one in value.items():
            field = fields.get(key)
            type_ = None if field is None else Type.of(field.annotation, field, *field.metadata)
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
