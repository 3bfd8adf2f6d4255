"""The YAML of a whole experiment: network, data, macro, methods, chips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from torch import nn

from bitline import presets
from bitline.data import AnyDataset, CropFlip
from bitline.macro import AnyGradient, Macro, Ste
from bitline.macro.macro import based, explain
from bitline.methods import AnyMethod, ErrorAware, Gaussian, Qat
from bitline.networks import AnyNetwork, weight_file
from bitline.nn import AnyQuantizer, convert
from bitline.train import TrainConfig


class Part(BaseModel):
    """A part of an experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _macro(value: Any) -> Any:
    """A preset's name, the path of a YAML file, or the macro itself, which may name its base."""
    return presets.load(value) if isinstance(value, str) else based(value)


class _OrName:
    """A macro's JSON schema: itself, or where it is found."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        name = {"type": "string", "description": "a preset, or the path of a YAML file"}
        changed = {"type": "object", "required": ["base"], "properties": {"base": name}}
        return {"anyOf": [name, handler(schema), changed]}


class _OneOrMany:
    """The JSON schema of a list that may be a single entry."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


AnyMacro = Annotated[Macro, BeforeValidator(_macro), _OrName()]
Macros = Annotated[
    tuple[AnyMacro, ...],
    BeforeValidator(lambda value: value if isinstance(value, list | tuple) else [value]),
    Field(min_length=1),
    _OneOrMany(),
]


class Data(Part):
    """Images to train and test with."""

    set: AnyDataset
    normalise: bool = Field(default=True, description="subtract the mean and divide by the deviation of each channel")
    train_images: int | None = Field(default=None, ge=1, description="absent: all")
    test_images: int | None = Field(default=None, ge=1, description="absent: all")
    batch: int = Field(default=64, ge=1, description="images of a training step; tests do not depend on it")
    augment: CropFlip | None = None


class Convert(Part):
    """Which layers go onto the macro, and how."""

    skip: tuple[str, ...] = Field(default=(), description="dotted-name patterns of layers that stay digital")
    inputs: AnyQuantizer | None = Field(default=None, description="quantizer of inputs; absent: LSQ")
    weights: AnyQuantizer | None = Field(default=None, description="quantizer of weights; absent: LSQ")
    gradient: AnyGradient = Ste()
    fold_bn: bool = False
    calibration_batches: int = Field(default=8, ge=1, description="of 64 images")


class Test(Part):
    """How networks are compared: the same chips, images and reads for all."""

    chips: int = Field(default=20, ge=1)
    target: float | None = Field(default=None, ge=0, le=100, description="accuracy a chip must reach, %, for the yield")
    recalibrate: bool = Field(default=True, description="also with batch-norm statistics over training chips")
    recalibrate_per_chip: bool = Field(default=False, description="also with statistics of each chip's own outputs")
    recalibration_batches: int = Field(default=16, ge=1, description="of 64 images")
    corners: bool = Field(default=False, description="also at each temperature and supply corner of the macro")
    details: bool = Field(default=True, description="per-layer figures, sensitivity and explanation")
    detail_chips: int = Field(default=3, ge=1)
    detail_images: int = Field(default=256, ge=1)


class Experiment(Part):
    """From a float network to a table of methods on chips."""

    title: str
    seed: int = 0
    data: Data
    network: AnyNetwork
    float_training: TrainConfig | None = Field(
        default=None, description="to train the float network; absent: its weights"
    )
    macro: Macros = Field(description="one, or several side by side")
    convert: Convert = Convert()
    training: TrainConfig = Field(description="the budget of every method, counted from the float network")
    methods: tuple[AnyMethod, ...] = (Qat(), Gaussian(), ErrorAware())
    test: Test = Test()
    plan: str | None = Field(default=None, description="force a plan: 'reference' is the oracle")

    @property
    def macros(self) -> tuple[Macro, ...]:
        """The macros, side by side."""
        return self.macro

    def place(self, net: nn.Module, macro: Macro) -> nn.Module:
        """A copy of a network on one of the macros, not yet calibrated."""
        part = self.convert
        return convert(
            net,
            macro,
            skip=part.skip,
            inputs=part.inputs,
            weights=part.weights,
            gradient=part.gradient,
            fold_bn=part.fold_bn,
            plan=self.plan,
        )

    @field_validator("macro", "methods")
    @classmethod
    def _told_apart(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        names = Counter(getattr(one, "title", None) or one.name for one in value)
        for name, count in names.items():
            if count > 1:
                raise ValueError(f"{count} of them are called {name!r}: rows of the result could not be told apart")
        return value

    def check(self) -> None:
        """Raise ValueError for what would only be found after hours of training: no weights, or what does not fit."""
        if self.float_training is None and self.network.weights is None:
            raise ValueError("the network is untrained: give float_training, or network.weights")
        if self.network.weights is not None:
            weight_file(self.network.weights)
        blank = self.network.model_copy(update={"weights": None}).build()
        for macro in self.macros:
            self.place(blank, macro)


def load(path: Path, changes: Sequence[str] = ()) -> Experiment:
    """Read an experiment, ``changes`` ("test.chips=5") laid over it.

    Relative macro files are looked for beside the experiment. Raises ValueError naming file, key and what would be
    accepted.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"experiment file {path}: {error.strerror or error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(
            f"{path} holds no experiment: a mapping with title, data, network, macro, training is expected"
        )
    if any(change.startswith("macro.") for change in changes) and not isinstance(data.get("macro"), list):
        found = _macro(_beside(data.get("macro"), path.parent))  # whole, for changes deep inside
        data["macro"] = found.dump() if isinstance(found, Macro) else found
    for change in changes:
        _set(data, change)
    data["macro"] = _beside(data.get("macro"), path.parent)
    return parse(data, str(path))


def parse(data: Mapping[str, Any], where: str) -> Experiment:
    """An experiment from plain data; raises ValueError naming ``where`` and each wrong key."""
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        lines = explain(error).split("\n")
        known = [_accepted(item["loc"]) if item["type"] == "extra_forbidden" else "" for item in error.errors()]
        if len(lines) == len(known):
            lines = [line + more for line, more in zip(lines, known, strict=True)]
        raise ValueError("\n".join([f"{where}:", *lines])) from None


def _accepted(place: tuple[int | str, ...]) -> str:
    """The keys there are where an unknown one was found, from the JSON schema."""
    schema = Experiment.model_json_schema()

    def variants(node: Any) -> Iterator[dict[str, Any]]:
        if "$ref" in node:
            yield from variants(schema["$defs"][node["$ref"].rpartition("/")[2]])
        elif choices := node.get("anyOf") or node.get("oneOf"):
            for one in choices:
                yield from variants(one)
        else:
            yield node

    here = list(variants(schema))
    for part in place[:-1]:
        inside = [n["properties"][part] if part in n.get("properties", {}) else n.get("items") for n in here]
        tagged = [n for n in here if n.get("properties", {}).get("kind", {}).get("const") == part]
        found = [one for n in inside if n for one in variants(n)]
        here = tagged or found or here  # a part that is neither key, number nor kind names a validator
    keys = sorted({key for node in here for key in node.get("properties", {})})
    return f"; known: {', '.join(keys)}" if keys else ""


def _beside(macro: Any, folder: Path) -> Any:
    if isinstance(macro, list):
        return [_beside(one, folder) for one in macro]
    if isinstance(macro, dict) and "base" in macro:
        return macro | {"base": _beside(macro["base"], folder)}
    if isinstance(macro, str) and macro.endswith((".yaml", ".yml")) and not Path(macro).is_absolute():
        return str(folder / macro)
    return macro


def _set(data: dict[str, Any], change: str) -> None:
    """Apply ``key.key=value``; the value is YAML. List entries go by number."""
    name, equals, text = change.partition("=")
    if not equals or not name:
        raise ValueError(f"--set {change!r}: expected key=value, such as test.chips=5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"--set {change!r}: {text!r} is not YAML") from None
    *path, last = name.split(".")
    place: Any = data
    for part in path:
        if isinstance(place, list):
            place = place[_number(part, place, change)]
        else:
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
        if not isinstance(place, dict | list):
            raise ValueError(f"--set {change!r}: {part} is {place!r}, which has no parts")
    if isinstance(place, list):
        place[_number(last, place, change)] = value
    else:
        place[last] = value


def _number(part: str, place: list[Any], change: str) -> int:
    if not part.isdigit() or int(part) >= len(place):
        raise ValueError(f"--set {change!r}: {part!r} is no place in a list of {len(place)}")
    return int(part)
