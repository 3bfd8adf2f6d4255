"""What may be chosen for a layer: bits of its inputs, weights and cells, bits and range of its converters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import model_serializer

from bitline.configuration import Value
from bitline.converters import Range
from bitline.encode import Bits
from bitline.macro import Macro

KNOBS = ("input_bits", "weight_bits", "cell_bits", "adc_bits", "adc_range")
PARTS = {"input_bits": "inputs", "weight_bits": "weights", "cell_bits": "weights"}  # else: the converter
SHORT = {"input_bits": "in", "weight_bits": "w", "cell_bits": "cell", "adc_bits": "ADC"}


class Setting(Value):
    """Choices for one layer; what is absent stays as the layer's macro has it."""

    input_bits: Bits | None = None
    weight_bits: Bits | None = None
    cell_bits: Bits | None = None
    adc_bits: Bits | None = None
    adc_range: Range | None = None

    @model_serializer(mode="wrap")
    def _chosen(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """What is chosen alone."""
        return {knob: value for knob, value in handler(self).items() if value is not None}

    @staticmethod
    def of(macro: Macro, knobs: tuple[str, ...]) -> Setting:
        """What a macro has of these knobs; raises ValueError for one that it has no part for."""
        own: dict[str, Any] = {}
        for knob in knobs:
            name = PARTS.get(knob, "converter")
            if (part := getattr(macro, name)) is None:
                raise ValueError(f"{knob} cannot be chosen: macro {macro.name} has no `{name}`; give it one")
            own[knob] = getattr(part, {"cell_bits": "cell_bits", "adc_range": "range"}.get(knob, "bits"))
        return Setting.model_validate(own)

    @property
    def knobs(self) -> tuple[str, ...]:
        """What is chosen."""
        return tuple(knob for knob in KNOBS if getattr(self, knob) is not None)

    @property
    def title(self) -> str:
        """In a few words."""
        return " ".join(value_of(knob, getattr(self, knob)) for knob in self.knobs) or "as it is"

    def change(self, macro: Macro) -> dict[str, Any]:
        """What is laid over a layer's macro. Inputs that are driven all at once stay so."""
        made: dict[str, dict[str, Any]] = {}
        if self.input_bits is not None:
            made["inputs"] = {"bits": self.input_bits}
            if macro.inputs is not None and macro.inputs.digit_bits == macro.inputs.bits > 1:
                made["inputs"]["digit_bits"] = self.input_bits
        weights = {"bits": self.weight_bits, "cell_bits": self.cell_bits}
        span = None if self.adc_range is None else self.adc_range.model_dump(mode="json")
        converter = {"bits": self.adc_bits, "range": span}
        for name, part in (("weights", weights), ("converter", converter)):
            if given := {key: value for key, value in part.items() if value is not None}:
                made[name] = given
        return made

    def on(self, macro: Macro, layer: str) -> Macro:
        """The layer's macro with these choices; itself where it has them already.

        Raises ValidationError for what the macro cannot be.
        """
        if all(getattr(self, knob) == getattr(Setting.of(macro, (knob,)), knob) for knob in self.knobs):
            return macro
        return macro.laid(self.change(macro), f"{macro.name}, {layer}")


Settings = Mapping[str, Setting]
"""A setting for each layer, by name."""


def value_of(knob: str, value: Any) -> str:
    """A choice in words: ``ADC 5``, ``percentile 99``."""
    if knob in SHORT:
        return f"{SHORT[knob]} {value}"
    return str(value.title)


def key(settings: Settings) -> str:
    """The same text for the same settings, whatever their order."""
    return " | ".join(f"{layer}: {settings[layer].title}" for layer in sorted(settings))


def uniform(settings: Settings) -> Setting | None:
    """The one setting that all layers have; None where they differ."""
    first, *more = settings.values()
    return first if all(one == first for one in more) else None
