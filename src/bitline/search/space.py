"""The choices of a search, and how much of each step is done."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bitline.configuration import OneOrMany, Value, Written
from bitline.converters import Range
from bitline.encode import Bits
from bitline.search.setting import KNOBS, Setting

Choices = Annotated[tuple[Bits, ...], OneOrMany()]


class Space(Written, Value):
    """What may be chosen for each layer, and the budget of the search. What is not named stays the macro's."""

    input_bits: Choices = Field(default=(), description="bits of a layer's inputs")
    weight_bits: Choices = Field(default=(), description="bits of its weights")
    cell_bits: Choices = Field(default=(), description="bits that a cell holds")
    adc_bits: Choices = Field(default=(), description="bits of its converters")
    adc_range: tuple[Range, ...] = Field(default=(), description="of its converters, fitted again for each setting")
    price: Literal["adc", "total"] = Field(default="adc", description="energy to save: of conversions, or of all terms")
    method: str | None = Field(
        default=None, description="kind or title of the method that trains; absent: the experiment's last"
    )
    chips: int = Field(default=4, ge=1, description="dies that settings are screened on, of a lot of their own")
    images: int = Field(default=512, ge=1, description="training images that settings are screened on")
    window: float = Field(
        default=10.0,
        gt=0,
        le=100,
        description="points below the macro's own setting that are of interest: training wins some back",
    )
    sampler: Literal["nsga2", "tpe"] = Field(default="nsga2", description="of Optuna, on the surrogate")
    trials: int = Field(default=600, ge=1, description="of Optuna, a law and round")
    rounds: int = Field(default=2, ge=1, description="of trials, screening and calibration, after the greedy start")
    screened: int = Field(default=12, ge=1, description="settings screened a round")
    uniform: int = Field(default=64, ge=1, description="settings with the same bits everywhere screened, at most")
    finals: int = Field(
        default=6, ge=1, description="settings tested along the front; as many with the same bits, and a rival of each"
    )
    refined: int = Field(default=3, ge=0, description="settings tested besides, next to the accuracy to hold, at most")

    @model_validator(mode="after")
    def _some(self) -> Space:
        if not self.knobs:
            raise ValueError(
                f"a search needs choices: give one or more of {', '.join(KNOBS)}, such as adc_bits: [4, 6]"
            )
        for knob in self.knobs:
            values = getattr(self, knob)
            if len(set(map(repr, values))) < len(values):
                raise ValueError(f"{knob} has a choice twice: {', '.join(map(str, values))}")
        return self

    @property
    def knobs(self) -> tuple[str, ...]:
        """What is chosen."""
        return tuple(knob for knob in KNOBS if getattr(self, knob))

    def settings(self) -> Iterator[Setting]:
        """Every combination of choices, the last knob changing fastest."""
        for values in product(*(getattr(self, knob) for knob in self.knobs)):
            yield Setting.model_validate(dict(zip(self.knobs, values, strict=True)))

    def singles(self, own: Setting) -> Iterator[tuple[str, Any, Setting]]:
        """(knob, choice, ``own`` with this choice alone), its own ones left out."""
        for knob in self.knobs:
            for value in getattr(self, knob):
                if value != getattr(own, knob):
                    yield knob, value, own.model_copy(update={knob: value})
