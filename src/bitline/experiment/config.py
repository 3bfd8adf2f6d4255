"""The YAML of a whole experiment: network, data, macro, methods, chips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    PositiveFloat,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from torch import Tensor, nn

from bitline import presets
from bitline.compensate import Centred, Patch
from bitline.configuration import Frozen, OneOrMany, Written, explain, from_yaml, lay, near, refused, whole
from bitline.cost import DEFAULT, Technology
from bitline.data import AnyDataset, CropFlip, Split
from bitline.macro import AnyGradient, Chip, Macro, Ste, program
from bitline.macro.macro import based
from bitline.macro.plans import PLANS
from bitline.methods import AnyMethod
from bitline.methods.usual import usual
from bitline.networks import AnyNetwork
from bitline.nn import AnyQuantizer, CimLayer, all_match, convert, layers, per_sample, walk
from bitline.search import Space
from bitline.train import TrainConfig


def _macro(value: Any) -> Any:
    """A preset's name, the path of a YAML file, or the macro itself, which may name its base."""
    if isinstance(value, str):
        return presets.load(value)
    if not isinstance(value, dict | Macro):
        raise ValueError("a preset's name, the path of a .yaml file or a mapping with rows, columns … is expected")
    return based(value)


def _technology(value: str) -> str:
    Technology.load(value)
    return value


def _plan(value: str) -> str:
    names = [name for name, _ in PLANS]
    if value not in names:
        raise ValueError(f"no plan {value!r}; {near(value, names)}there are: {', '.join(names)}")
    return value


class _OrName:
    """A macro's JSON schema: itself, or where it is found."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        name = {"type": "string", "description": "a preset, or the path of a YAML file"}
        changed = {"type": "object", "required": ["base"], "properties": {"base": name}}
        return {"anyOf": [name, handler(schema), changed]}


AnyMacro = Annotated[Macro, BeforeValidator(_macro), _OrName()]
Macros = Annotated[tuple[AnyMacro, ...], Field(min_length=1), OneOrMany()]
PlanName = Annotated[str, AfterValidator(_plan), Field(json_schema_extra={"enum": [name for name, _ in PLANS]})]


TechnologyName = Annotated[str, AfterValidator(_technology)]


class Data(Frozen):
    """Images to train and test with."""

    set: AnyDataset
    normalise: bool = Field(
        default=True,
        description="subtract the mean and divide by the deviation of each channel; false: pixels as they are, 0 to 1",
    )
    train_images: int | None = Field(default=None, ge=1, description="absent: all")
    test_images: int | None = Field(default=None, ge=1, description="absent: all")
    batch: int = Field(default=64, ge=1, description="images of a training step; tests do not depend on it")
    augment: CropFlip | None = None

    def prepared(self, *splits: Split) -> tuple[Split, ...]:
        """Images of the set as networks take them, float32."""
        channels = splits[0].images.shape[1]
        moments = self.set.moments() if self.normalise else ((0.0,) * channels, (1.0,) * channels)
        return tuple(split.normalised(*moments) for split in splits)


class Convert(Frozen):
    """Which layers go onto the macro, and how."""

    skip: tuple[str, ...] = Field(default=(), description="dotted-name patterns of layers that stay digital")
    inputs: AnyQuantizer | None = Field(default=None, description="quantizer of inputs; absent: LSQ")
    weights: AnyQuantizer | None = Field(default=None, description="quantizer of weights; absent: LSQ")
    gradient: AnyGradient = Ste()
    fold_bn: bool = False
    layers: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="what of the macro differs on layers, by dotted-name pattern: {fc: {converter: {bits: 5}}}; the "
        "first that matches counts",
    )
    calibration_batches: int = Field(default=8, ge=1, description="of 64 images")


def told_apart(value: tuple[Any, ...]) -> tuple[Any, ...]:
    """What it is given; raises ValueError for two of one title or name."""
    names = Counter(getattr(one, "title", None) or one.name for one in value)
    for name, count in names.items():
        if count > 1:
            raise ValueError(f"{count} of them are called {name!r}: rows of the result could not be told apart")
    return value


class Test(Frozen):
    """How networks are compared: the same chips, images and reads for all."""

    chips: int = Field(default=20, ge=1)
    target: float | None = Field(default=None, ge=0, le=100, description="accuracy a chip must reach, %, for the yield")
    recalibrate: bool = Field(default=True, description="also with batch-norm statistics over training chips")
    recalibrate_per_chip: bool = Field(default=False, description="also with statistics of each chip's own outputs")
    trim_per_chip: bool = Field(default=False, description="also with outputs trimmed to each chip's own")
    patch_per_chip: Annotated[tuple[Patch, ...], OneOrMany()] = Field(
        default=(), description="also with a share of the weights, those a chip holds worst, corrected in digital"
    )
    per_sample: PositiveFloat | None = Field(
        default=None,
        description="also with each sample's own statistics in batch norms; the others count as so many positions",
    )
    centre: Annotated[tuple[Centred, ...], OneOrMany()] = Field(
        default=(), description="also with mean and principal directions of the inputs of every layer in digital"
    )
    verify: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], OneOrMany()] = Field(
        default=(), description="also with these shares of the weights verified as they are written, not all of them"
    )
    recalibration_batches: int = Field(default=16, ge=1, description="of 64 images")
    corners: bool = Field(default=False, description="also at each temperature and supply corner of the macro")
    details: bool = Field(default=True, description="per-layer figures, sensitivity and explanation")
    detail_chips: int = Field(default=3, ge=1)
    detail_images: int = Field(default=256, ge=1)

    _told_apart = field_validator("centre", "patch_per_chip")(told_apart)

    @field_validator("target")
    @classmethod
    def _in_percent(cls, value: float | None) -> float | None:
        if value is not None and 0 < value <= 1:
            raise ValueError(f"accuracies are in percent, 0 … 100: did you mean {100 * value:g}?")
        return value


FILES = {"macro", "technology"}  # keys that may name files


class Experiment(Written, Frozen):
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
    methods: tuple[AnyMethod, ...] = Field(
        default_factory=lambda found: usual(found.get("macro", ())), description="absent: the usual ones for the macro"
    )
    test: Test = Test()
    search: Space | None = Field(default=None, description="choices of bits for each layer, for `bitline search`")
    technology: TechnologyName = Field(
        default=DEFAULT, description="what counts cost: a name, or the path of a YAML file"
    )
    plan: PlanName | None = Field(default=None, description="force a plan: 'reference' is the oracle")

    @property
    def macros(self) -> tuple[Macro, ...]:
        """The macros, side by side."""
        return self.macro

    def designs(self, macro: Macro) -> dict[str, Macro]:
        """What layers sit on, by pattern, if the others sit on ``macro``."""
        own = {name: macro.laid(change, f"{macro.name}, {name}") for name, change in self.convert.layers.items()}
        return own | {"*": own.get("*", macro)}

    def refusal(self, part: AnyMethod | Centred | Patch, macro: Macro) -> str | None:
        """What layers sit on that a method or side path cannot do with, and why; None if there is nothing."""
        found = ((one.name, part.refuses(one)) for one in self.designs(macro).values())
        return next((f"{name}: {reason}" for name, reason in found if reason), None)

    def place(self, net: nn.Module, macro: Macro) -> nn.Module:
        """A copy of a network on one of the macros, not yet calibrated."""
        part = self.convert
        return convert(
            net,
            self.designs(macro) if part.layers else macro,
            skip=part.skip,
            inputs=part.inputs,
            weights=part.weights,
            gradient=part.gradient,
            fold_bn=part.fold_bn,
            plan=self.plan,
        )

    _told_apart = field_validator("macro", "methods")(told_apart)

    @model_validator(mode="after")
    def _layers_fit(self) -> Experiment:
        for macro in self.macros:
            for name, change in self.convert.layers.items():
                try:
                    macro.laid(change, f"{macro.name}, {name}")
                except ValidationError as error:
                    what = ValueError(explain(error, Macro, f"of {macro.name}"))
                    raise refused(what, change, "convert", "layers", name) from None
        return self

    @model_validator(mode="after")
    def _quantizers_fit(self) -> Experiment:
        for one in (one for macro in self.macros for one in self.designs(macro).values()):
            for role, scheme in (("inputs", one.inputs), ("weights", one.weights)):
                chosen = getattr(self.convert, role)
                if chosen is None or scheme is None:
                    continue
                try:
                    chosen.build(scheme.low, scheme.high, role=role, step=scheme.stride, channels=1)
                except ValueError as error:
                    raise refused(error, chosen, "convert", role) from None
        return self

    @field_validator("float_training", "training", "methods")
    @classmethod
    def _one_seed(cls, value: Any) -> Any:
        for part in value if isinstance(value, tuple) else (value,):
            if seed := getattr(part, "seed", 0) or getattr(getattr(part, "before", None), "seed", 0):
                raise ValueError(f"seed = {seed}: give the experiment's `seed`, which all its parts follow")
        return value

    def on(self, name: str | None = None) -> Macro:
        """The macro of this name; None: the only one. Raises ValueError where none or several could be meant."""
        found = [macro for macro in self.macros if name in (None, macro.name)]
        if len(found) != 1:
            names = ", ".join(macro.name for macro in self.macros)
            if name is None:
                raise ValueError(f"the experiment has several macros: choose one with --set macro=…, of {names}")
            raise ValueError(f"macro {name!r}: name one of the experiment's: {names}")
        return found[0]

    def named(self, name: str, where: str = "method ") -> tuple[AnyMethod, ...]:
        """The methods of this kind, or the one of this title; raises ValueError, which begins with ``where``."""
        chosen = tuple(method for method in self.methods if name in (method.title, method.kind))
        if not chosen:
            there = ", ".join(f"{method.kind} ({method.title!r})" for method in self.methods)
            raise ValueError(f"{where}{name}: the experiment has no such method; it has: {there}")
        return chosen

    def check(self, images: Tensor) -> None:
        """Raise ValueError for what would only be found after hours of training: no weights, or what does not fit.

        ``images``: a few of those to train with.
        """
        if self.float_training is None and self.network.weights is None:
            raise ValueError("the network is untrained: give float_training, or network.weights")
        if self.float_training is None and self.network.fresh:
            raise ValueError(f"network.fresh: {', '.join(self.network.fresh)} would be untrained: give float_training")
        net = self.network.build(self.seed).eval()
        for macro in self.macros:
            for method in self.methods:
                if reason := self.refusal(method, macro):
                    raise ValueError(f"{method.kind} on {reason}")
            beside = [one for one in self.methods if one.has_paths]
            if self.test.verify and beside:
                raise ValueError(f"test.verify of {beside[0].title!r}: not beside side paths; remove one of the two")
            for one in self.designs(macro).values() if self.test.verify else ():
                if one.cell is None or one.cell.write_verify is None:
                    raise ValueError(
                        f"test.verify on {one.name}: its cells have no write–verify loop; give `cell.write_verify`"
                    )
            for key, paths in (("centre", self.test.centre), ("patch_per_chip", self.test.patch_per_chip)):
                if reasons := [why for path in paths if (why := self.refusal(path, macro))]:
                    raise ValueError(f"test.{key} on {reasons[0]}")
            if self.test.per_sample or any(method.per_sample for method in self.methods):
                per_sample(self.place(net, macro))  # says what it cannot be done to
            found = self._walked(net, macro, images)
            names = [layer.site.name for layer in found]
            for method in self.methods:
                all_match(method.patterns, names, f"{method.kind} on {macro.name}: ")
            for path in self.test.centre:
                all_match(path.patterns, names, f"test.centre on {macro.name}: ")
            for layer in found:  # a row of each
                own = layer.design
                _, outputs, groups = layer.matrix_shape
                for one in (own, *(own.at(corner) for corner in own.corners if self.test.corners)):
                    high = float(one.weights.high) if one.weights else 1.0
                    program(torch.full((groups * outputs, 1), high), one, Chip(0, 0), layer.site, groups=groups)

    @torch.no_grad()
    def _walked(self, net: nn.Module, macro: Macro, images: Tensor) -> Sequence[CimLayer]:
        """The layers of a network on a macro, once their quantizers took what reaches them."""
        model = self.place(net, macro)
        walk(model, [images])
        found = list(layers(model).values())
        for layer in found:
            if layer.input_quantizer is not None:
                layer.input_quantizer.freeze()
        return found


def load(path: Path, changes: Sequence[str] = (), macro: str | None = None) -> Experiment:
    """Read an experiment, ``changes`` ("test.chips=5") laid over it, on a ``macro`` in place of its own: a preset, or a
    YAML file from here.

    Relative files of macros and technologies are looked for beside the experiment. Raises ValueError naming file, key
    and what would be accepted.
    """
    try:
        data = from_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"experiment file {path}: {error.strerror or error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(
            f"{path} holds no experiment: a mapping with title, data, network, macro, training is expected"
        )
    if macro is not None:
        data["macro"] = _beside(macro, Path.cwd())
    if any(change.startswith("macro.") for change in changes) and not isinstance(data.get("macro"), list):
        found = _macro(_beside(data.get("macro"), path.parent))  # whole, for changes deep inside
        data["macro"] = found.dump() if isinstance(found, Macro) else found
    if changes:
        try:
            data = whole(data, Experiment)  # for changes of what a bare name stands for
        except ValidationError as error:
            raise ValueError(explain(error, Experiment, path)) from None
    for change in changes:
        _set(data, change)
    for key in FILES & data.keys():
        data[key] = _beside(data[key], path.parent)
    return parse(data, str(path))


def parse(data: Mapping[str, Any], where: str) -> Experiment:
    """An experiment from plain data; raises ValueError naming ``where`` and each wrong key."""
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        raise ValueError(explain(error, Experiment, where)) from None


def _beside(named: Any, folder: Path) -> Any:
    if isinstance(named, list):
        return [_beside(one, folder) for one in named]
    if isinstance(named, dict) and "base" in named:
        return named | {"base": _beside(named["base"], folder)}
    if isinstance(named, str) and named.endswith((".yaml", ".yml")) and not Path(named).is_absolute():
        return str((folder / named).absolute())  # the experiment may be written elsewhere
    return named


def _set(data: dict[str, Any], change: str) -> None:
    """Apply ``key.key=value``; the value is YAML. List entries go by number."""
    name, equals, text = change.partition("=")
    if not equals or not name:
        raise ValueError(f"--set {change!r}: expected key=value, such as test.chips=5")
    try:
        value = from_yaml(text)
    except yaml.YAMLError:
        raise ValueError(f"--set {change!r}: {text!r} is not YAML") from None
    lay(data, name, value, f"--set {change!r}")
