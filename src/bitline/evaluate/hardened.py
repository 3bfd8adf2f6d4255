"""What hardening found: each step's tries and why it stopped, then a test on chips that decided nothing."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bitline.configuration import Frozen
from bitline.cost import SideCost
from bitline.evaluate.result import By, Row
from bitline.files import Saved


class Attempt(Frozen):
    """One way to make the network work, measured."""

    name: str
    row: Row = Field(description="on the dies and images that steps are decided by")
    steps: int = Field(description="optimiser steps spent on it after the float network")
    overhead: SideCost | None = Field(default=None, description="of all its side paths; null: it has none")
    adc: dict[str, float] | None = Field(default=None, description="energy of a sample's conversions by ADC law, J")
    energy: dict[str, float] | None = Field(
        default=None, description="of a sample by ADC law, J: every term there is, side paths included; null: not told"
    )
    bits: dict[str, str] | None = Field(default=None, description="by layer: what was chosen of it; null: its macro's")


class Step(Frozen):
    """A step of the walk: what was tried, what is kept, and whether the target holds with it."""

    name: str
    told: str = Field(description="what the step does, in a sentence; or why it was left out")
    attempts: tuple[Attempt, ...] = ()
    kept: Attempt | None = Field(default=None, description="what the walk goes on with; null: what it had before")
    holds: bool

    def saved(self, one: Attempt) -> dict[str, float]:
        """Share of the energy of conversions that a try saves against the step's first, by ADC law, 1: all of it."""
        before = self.attempts[0].adc if self.attempts else None
        return {law: 1 - joules / before[law] for law, joules in one.adc.items()} if before and one.adc else {}


class Hardened(Saved):
    """The whole walk. It holds no time, path or host name: walks with one seed write the same bytes."""

    FILE: ClassVar[str] = "hardened.json"

    title: str
    macro: str
    target: float = Field(description="share of the accuracy without errors that is to be held, 0 … 1")
    by: By
    original: float = Field(description="accuracy without errors, on the images that steps are decided by, %")
    steps: tuple[Step, ...]
    verified: tuple[Row, ...] = Field(
        description="on test images and dies that decided nothing: without errors, as converted, and what was kept"
    )
    untouched: dict[str, float] = Field(
        default_factory=dict,
        description="energy of a sample of the network as converted by ADC law, J; empty: not told",
    )
    unpriced: str = Field(default="", description="why energy is not told")
    facts: dict[str, str] = Field(default_factory=dict)

    @property
    def at_least(self) -> float:
        """The accuracy that steps are to hold, %."""
        return self.target * self.original

    @property
    def final(self) -> Row:
        """What was kept, verified."""
        return self.verified[-1]

    @property
    def share(self) -> float:
        """Of the accuracy without errors, what the kept network has, verified."""
        return self.final.reached(self.by) / self.verified[0].mean

    @property
    def holds(self) -> bool:
        """Whether the target holds on the test images and dies."""
        return self.share >= self.target

    def saved(self) -> dict[str, float]:
        """Share of the energy of conversions that is saved, by ADC law; empty where no bits were given away."""
        return {} if self.kept is None else self.steps[-1].saved(self.kept)

    def net(self, one: Attempt | None) -> dict[str, float]:
        """Share of the untouched network's energy that a try saves, by ADC law: fewer bits less what side paths take;
        negative where it takes more. Empty where energy is not told."""
        if one is None or one.energy is None:
            return {}
        return {law: 1 - joules / self.untouched[law] for law, joules in one.energy.items() if law in self.untouched}

    @property
    def kept(self) -> Attempt | None:
        """What the walk ended with."""
        return self.steps[-1].kept
