"""Rounds of a search: sensitivities, then the greedy path and Optuna's front on the surrogate, measured and fitted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bitline.evaluate import row
from bitline.macro import Macro
from bitline.search.found import OWN, Candidate
from bitline.search.fronts import Point, front, greedy, spread
from bitline.search.options import Option, Options
from bitline.search.screen import Measured, Screen
from bitline.search.setting import Setting, Settings, key, uniform, value_of
from bitline.search.space import Space
from bitline.search.surrogate import Rise, Rises, Surrogate, fit, layer_rise, rise
from bitline.search.trials import tried

PATH = 40  # settings of the greedy path that Optuna begins with, at most


class Single(NamedTuple):
    """A choice for one layer alone, its other knobs as they are."""

    knob: str
    value: Any
    setting: Setting
    macro: Macro


@dataclass
class Walk:
    """A search under way: what was measured, and the surrogate that follows from it."""

    space: Space
    options: Options
    screen: Screen
    seed: int
    tell: Callable[[str], None]
    pool: dict[str, tuple[Settings, Measured]] = field(default_factory=dict)  # by key, the baseline first
    rises: Rises = field(default_factory=dict)
    told: list[Rise] = field(default_factory=list)

    def __call__(self, singles: Mapping[str, Sequence[Single]]) -> None:
        """Carry it out; ``singles``: choices of each layer alone."""
        self._measure({layer: one.setting for layer, one in self.options.own.items()})
        self._sensitivities(singles)
        self._uniform()
        for number in range(1 + self.space.rounds):
            for law in range(len(self.options.laws)):
                self._round(number, law)

    @property
    def own(self) -> Measured:
        """The baseline's answers."""
        return next(iter(self.pool.values()))[1]

    @property
    def surrogate(self) -> Surrogate:
        """Calibrated on what was measured so far."""
        pairs = [(rise(self.rises, settings), found.accuracy) for settings, found in list(self.pool.values())[1:]]
        return fit(pairs, self.own.accuracy, self.space.window)

    def candidates(self) -> list[Candidate]:
        """All that were measured: first the baseline, then by energy under the first law."""
        made: list[Candidate] = []
        for settings, found in self.pool.values():
            same = uniform(settings)
            made.append(
                Candidate(
                    name=OWN if not made else "" if same is None else same.title,
                    settings=dict(settings),
                    adc=self.options.adc(settings),
                    total=self.options.total(settings),
                    screened=row(found.right, "screened", "its own", seed=self.seed),
                )
            )
        law = self.options.laws[0]
        first, *rest = made
        rest.sort(key=lambda one: (getattr(one, self.space.price)[law], key(one.settings)))
        mixed = [one for one in rest if not one.name]
        names = {key(one.settings): f"mixed {number}" for number, one in enumerate(mixed, 1)}
        return [first, *(one.model_copy(update={"name": one.name or names[key(one.settings)]}) for one in rest)]

    def _measure(self, settings: Settings) -> None:
        """Measure settings, and keep them among the candidates."""
        if key(settings) not in self.pool:
            self.pool[key(settings)] = settings, self.screen(self.options.macros(settings))

    def _sensitivities(self, singles: Mapping[str, Sequence[Single]]) -> None:
        """The rise of the loss for each choice alone."""
        count = sum(map(len, singles.values()))
        self.tell(f"sensitivity: {count} choices for one layer alone, on {self.space.chips} chips")
        macros = {layer: one.macro for layer, one in self.options.own.items()}
        for layer, some in singles.items():
            setting = self.options.own[layer].setting
            self.rises[layer] = {(knob, getattr(setting, knob)): 0.0 for knob in setting.knobs}
            for one in some:
                found = self.screen({**macros, layer: one.macro})
                self.rises[layer][one.knob, one.value] = found.loss - self.own.loss
                lost = self.own.accuracy - found.accuracy
                choice = value_of(one.knob, one.value)
                self.told.append(Rise(layer=layer, choice=choice, loss=found.loss - self.own.loss, accuracy=lost))

    def _uniform(self) -> None:
        """Measure settings with the same bits everywhere: all, or the most promising."""
        each = self.options.uniform()
        if len(each) > self.space.uniform:
            self.tell(f"{len(each)} settings have the same bits everywhere: the surrogate's front of them is screened")
            rises = [rise(self.rises, one) for one in each]
            laws = [list(map(self._cost(law), each)) for law in self.options.laws]
            places = {at for costs in laws for at in front(list(zip(costs, rises, strict=True)))}
            each = [each[at] for at in sorted(places)][: self.space.uniform]
        self.tell(f"screening {len(each)} settings with the same bits everywhere")
        for one in each:
            self._measure(one)

    def _round(self, number: int, law: int) -> None:
        """Measure settings of a law's front, spread over what is of interest: first the greedy path, then Optuna's."""
        kept = [self._kept(layer, law) for layer in self.options.layers]
        points = [[point for _, point in some] for some in kept]
        places = path = greedy(points)
        if number:
            start = [path[i] for i in spread(len(path), PATH)]
            places = tried(points, start, self.space.trials, self.space.sampler, self.seed + number)
        found = [
            {layer: some[at][0].setting for layer, some, at in zip(self.options.layers, kept, place, strict=True)}
            for place in places
        ]
        surrogate = self.surrogate
        floor = self.own.accuracy - self.space.window
        new = [one for one in found if key(one) not in self.pool and surrogate(rise(self.rises, one)) >= floor]
        chosen = [new[i] for i in spread(len(new), -(-self.space.screened // len(self.options.laws)))]
        chosen += self._below(law, new) if number == self.space.rounds else []
        where = "Optuna's front" if number else "the greedy path"
        self.tell(f"{self.options.laws[law]}: screening {len(chosen)} of {len(found)} settings on {where}")
        for one in chosen:
            self._measure(one)

    def _below(self, law: int, some: Sequence[dict[str, Setting]]) -> list[dict[str, Setting]]:
        """For each setting with the same bits everywhere that no other such one beats, the dearest of these below."""
        cost = self._cost(self.options.laws[law])
        same = [(cost(one), -found.accuracy) for one, found in self.pool.values() if uniform(one) is not None]
        found = []
        for at in front(same):
            cheaper = [one for one in some if cost(one) < same[at][0]]
            found += [max(cheaper, key=cost)] if cheaper else []
        return found

    def _kept(self, layer: str, law: int) -> list[tuple[Option, Point]]:
        """A layer's options that no other one beats under a law, cheapest first."""
        some, points = [], []
        for one in self.options.layers[layer]:
            harm = layer_rise(self.rises, layer, one.setting)
            if math.isfinite(harm):
                some.append(one)
                points.append((getattr(one, self.space.price)[law], harm))
        if not some:
            raise ValueError(f"{layer}: no choice is possible beside what the macro has: give it more of them")
        return [(some[at], points[at]) for at in front(points)]

    def _cost(self, law: str) -> Callable[[Settings], float]:
        found = self.options.adc if self.space.price == "adc" else self.options.total
        return lambda settings: found(settings)[law]
