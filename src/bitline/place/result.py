"""What a search for a placement found."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, Field

from bitline.configuration import Frozen
from bitline.files import Saved
from bitline.methods import Compensate
from bitline.place.space import Share, Space


class Tried(Frozen):
    """A placement and what it gave."""

    at: dict[str, float] = Field(description="width (rank, share) by layer; empty: no side path")
    accuracies: tuple[float, ...] = Field(description="of each chip, %")
    overhead: Share
    within: bool = Field(description="whether it keeps the budget")
    reward: float = Field(description="(mean − std) / original − penalty")

    @property
    def mean(self) -> float:
        """Over chips, %."""
        return fmean(self.accuracies)

    @property
    def std(self) -> float:
        """Over chips, points."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


class Placed(Saved):
    """The best placement within the budget, and everything that was tried on the way."""

    FILE: ClassVar[str] = "place.json"

    space: Space
    searcher: dict[str, Any]
    tried: tuple[Tried, ...] = Field(description="in the order they were asked for; first: no side path")
    best: Tried
    method: Compensate | None = Field(description="row of an experiment that trains it; null: no side path is best")

    @property
    def row(self) -> str:
        """The method as a line of YAML for an experiment's ``methods``."""
        if self.method is None:
            return "# nothing within the budget is better than no side path"
        return f"- {yaml.safe_dump(brief(self.method), default_flow_style=True, sort_keys=False, width=10_000).strip()}"


def brief(part: BaseModel) -> dict[str, Any]:
    """A part of a configuration as plain data, without what is as its defaults are; kinds stay."""
    told = {}
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if name == "kind" or value != field.get_default(call_default_factory=True):
            told[name] = brief(value) if isinstance(value, BaseModel) else value
    return {key: list(value) if isinstance(value, tuple) else value for key, value in _first(told).items()}


def _first(told: dict[str, Any]) -> dict[str, Any]:
    """The kind before all else."""
    return {"kind": told.pop("kind"), **told} if "kind" in told else told
