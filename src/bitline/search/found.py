"""What a search found: every setting with its accuracy and energies, the front, the cheapest that is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from bitline.configuration import Frozen
from bitline.evaluate.result import By, Difference, Row
from bitline.files import Saved
from bitline.search.fronts import beats, front
from bitline.search.setting import Setting, uniform
from bitline.search.space import Space
from bitline.search.surrogate import Rise, Surrogate

Stage = Literal["tested", "screened"]
OWN = "as it is"


def law_of(laws: Sequence[str], wanted: str | None) -> str:
    """The law that begins so; the first where none is named. Raises ValueError naming those there are."""
    found = [one for one in laws if wanted is None or one.lower().startswith(wanted.lower())]
    if not found:
        raise ValueError(f"no ADC law {wanted!r}: the technology has {'; '.join(laws)}")
    return found[0]


class Candidate(Frozen):
    """One setting of all layers."""

    name: str
    settings: dict[str, Setting] = Field(description="by layer: what was chosen of it")
    adc: dict[str, float] = Field(description="energy of a sample's conversions under each ADC law, J")
    total: dict[str, float] = Field(description="energy of a sample, all terms the technology gives, J")
    screened: Row = Field(description="not trained for it, on few dies and training images, ranges fitted")
    tested: Row | None = Field(
        default=None, description="on the dies and images that decide, trained for it if the search trains"
    )

    @property
    def same(self) -> bool:
        """Whether all layers have one setting."""
        return uniform(self.settings) is not None

    def row(self, stage: Stage) -> Row | None:
        """Its accuracy at a stage."""
        return self.tested if stage == "tested" else self.screened

    def accuracy(self, stage: Stage, by: By = "mean") -> float:
        """Its mean, or 5th percentile over chips (of fewer than 20: the worst), %; ValueError where never tested."""
        if (row := self.row(stage)) is None:
            raise ValueError(f"{self.name} was not tested: `screened` is all there is")
        return row.reached(by)


class Verified(Frozen):
    """The setting that was chosen and the baseline, once on images and dies that decided nothing."""

    baseline: Row
    chosen: Row
    difference: Difference = Field(description="of the chosen one against the baseline, on the same dies and images")


class Searched(Saved):
    """Everything a search found. It holds no time, path or host name: searches with one seed write the same bytes."""

    FILE: ClassVar[str] = "search.json"

    title: str
    how: str = Field(description="what was done to networks before they were tested")
    space: Space
    laws: tuple[str, ...] = Field(description="of ADC energy, side by side; the first one decides where none is named")
    candidates: tuple[Candidate, ...] = Field(description="first the declared baseline, the macro as it is")
    rises: tuple[Rise, ...] = Field(description="each choice for one layer alone")
    surrogate: Surrogate
    skipped: dict[str, str] = Field(default_factory=dict, description="settings that could not be, and why")
    verified: Verified | None = Field(
        default=None, description="what was chosen, on test images and dies; null: there was no goal, or none holds it"
    )
    facts: dict[str, str] = Field(default_factory=dict, description="settings to print")

    @property
    def baseline(self) -> Candidate:
        """The macro as it is: the bits that savings are told against."""
        return self.candidates[0]

    @property
    def tested(self) -> tuple[Candidate, ...]:
        """Those that met the dies and images that decide."""
        return tuple(one for one in self.candidates if one.tested is not None)

    def joules(self, one: Candidate, law: str | None = None) -> float:
        """What the search saves, of a candidate: energy of a sample, J."""
        found = one.adc if self.space.price == "adc" else one.total
        return found[law_of(self.laws, law)]

    def saved(self, one: Candidate, law: str | None = None) -> float:
        """Share of the baseline's energy that a candidate saves, 1: all of it."""
        return 1 - self.joules(one, law) / self.joules(self.baseline, law)

    def front(self, law: str | None = None, stage: Stage = "tested", by: By = "mean") -> tuple[Candidate, ...]:
        """The candidates that none beats in energy and accuracy, cheapest first."""
        some = self._at(stage)
        points = [(self.joules(one, law), -one.accuracy(stage, by)) for one in some]
        return tuple(some[i] for i in front(points))

    def cheapest(self, at_least: float, law: str | None = None, stage: Stage = "tested", by: By = "mean") -> Candidate:
        """The setting of least energy that holds an accuracy, %.

        Raises ValueError, naming the best there is, where none does.
        """
        some = self._at(stage)
        good = [one for one in some if one.accuracy(stage, by) >= at_least]
        if not good:
            best = max(some, key=lambda one: one.accuracy(stage, by))
            raise ValueError(
                f"no setting {stage} holds {at_least:g} % ({by}): the best, {best.name}, has "
                f"{best.accuracy(stage, by):.2f} %"
            )
        return min(good, key=lambda one: (self.joules(one, law), -one.accuracy(stage, by)))

    def beaten(self, law: str | None = None, stage: Stage = "tested", by: By = "mean") -> tuple[int, int]:
        """(Settings with the same bits everywhere that one with other bits beats, how many there are)."""
        points = {one.name: (self.joules(one, law), -one.accuracy(stage, by)) for one in self._at(stage)}
        same = [one for one in self._at(stage) if one.same]
        mixed = [points[one.name] for one in self._at(stage) if not one.same]
        return sum(any(beats(point, points[one.name]) for point in mixed) for one in same), len(same)

    def _at(self, stage: Stage) -> tuple[Candidate, ...]:
        return self.tested if stage == "tested" else self.candidates
