"""A search over an experiment's layers: its macro's bits are the baseline, its finals are experiments themselves."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from bitline.configuration import to_yaml
from bitline.cost import Technology
from bitline.data import batches
from bitline.evaluate import difference, row
from bitline.evaluate.montecarlo import BLOCK, Batch
from bitline.experiment.config import Experiment, parse
from bitline.experiment.placing import apart
from bitline.experiment.run import Run
from bitline.files import digest, write_atomic
from bitline.macro.macro import merge
from bitline.methods import AnyMethod
from bitline.nn import all_match, layers, matches
from bitline.place.measuring import lot
from bitline.report.search import search_picture, write_search_csv
from bitline.search import Goal, Searched, Setting, Space, Verified, search
from bitline.search.finals import NO_GOAL
from bitline.search.found import law_of
from bitline.search.setting import Settings, key
from bitline.search.trials import optuna


@dataclass(frozen=True)
class Judges:
    """What finals are tested on: images, dies, and the lot of these."""

    source: Callable[[], Iterable[Batch]]
    chips: int
    seed: int


@dataclass
class SearchRun:
    """A search being carried out in a folder, which it shares with a ``Run`` of the same experiment.

    ``judges``: of finals; absent: ``images`` of the training set that networks are not trained on, where there are as
    many, and dies of a lot of their own: the setting chosen by the goal is then verified, once, by the experiment's
    test. ``remedy``: what every network gets after its training.
    """

    experiment: Experiment
    out: Path
    goal: Goal = NO_GOAL
    tell: Callable[[str], None] = print
    progress: bool = True
    judges: Judges | None = None
    remedy: Callable[[nn.Module], nn.Module] | None = None
    name: str = "search"  # of the files written
    images: int = 500

    def __post_init__(self) -> None:
        self.experiment.on()
        if self.experiment.search is None:
            raise ValueError(
                "the experiment declares no choices: give them as `search: {adc_bits: [4, 5, 6]}`, or with "
                "--set search.adc_bits=[4,5,6]"
            )
        name = self.experiment.search.method
        self.method: AnyMethod = (
            self.experiment.methods if name is None else self.experiment.named(name, "search.method = ")
        )[-1]
        searchable(self.experiment, self.experiment.search, self.goal.law)

    def __call__(self) -> Searched:
        """Carry it out; what was done before is not done again. Writes ``.json``, ``.csv`` and ``.svg`` of its name."""
        experiment, space, base = self.experiment, self.experiment.search, self.base
        assert space is not None
        judges, told = (self.judges, {}) if self.judges is not None else self._apart()
        found = search(
            self.baseline,
            _Again(base.plain),
            _Again(judges.source),
            space,
            chips=judges.chips,
            target=experiment.test.target,
            seed=judges.seed,
            calibration_batches=experiment.convert.calibration_batches,
            trained=self.network,
            goal=self.goal,
            how=f"{self.method.title}: trained for each setting, from the float network",
            out=self.out / "search",
            title=experiment.title,
            technology=experiment.technology,
            tell=self.tell,
        )
        verified = self._verified(found) if self.judges is None else None
        found = found.model_copy(update={"facts": base.facts() | told, "verified": verified})
        found.save(self.out / f"{self.name}.json")
        write_search_csv(found, self.out / f"{self.name}.csv")
        write_atomic(self.out / f"{self.name}.svg", search_picture(found))
        return found

    def _apart(self) -> tuple[Judges, dict[str, str]]:
        """Judges that no test uses, and what they are."""
        chips = self.experiment.test.chips
        _, some, unseen = apart(self.base, self.images)
        seen = "of no other use" if unseen else "seen in training"
        judges = Judges(lambda: batches(some, BLOCK), chips, lot(self.experiment.seed))
        return judges, {"decided by": f"{chips} dies, {self.images} training images {seen}"}

    def _verified(self, found: Searched) -> Verified | None:
        """What the goal chooses, beside the baseline, on test images and dies; None where it chooses nothing."""
        goal, test, seed = self.goal, self.experiment.test, self.experiment.seed
        at_least = goal.at_least(found.baseline.accuracy("tested", goal.by))
        try:
            winner = None if at_least is None else found.cheapest(at_least, goal.law, by=goal.by)
        except ValueError:  # nothing holds it
            return None
        if winner is None:
            return None
        right = {
            one.name: self.base.ledger("verify").over_chips(
                self.network(one.settings), one.name, self.base.source, test.chips, seed
            )
            for one in (found.baseline, winner)
        }
        rows = {name: row(one, name, "its own", target=test.target, seed=seed) for name, one in right.items()}
        own, chosen = found.baseline.name, winner.name
        pair = difference(right[chosen], right[own], (chosen, own), seed)
        return Verified(baseline=rows[own], chosen=rows[chosen], difference=pair)

    @cached_property
    def base(self) -> Run:
        """The experiment's run, at the baseline."""
        return Run(self.experiment, self.out, self.tell, progress=self.progress)

    @cached_property
    def net(self) -> nn.Module:
        """The float network."""
        return self.base.float_network()

    def network(self, settings: Settings) -> nn.Module:
        """Trained for these settings; the baseline's for none."""
        own = allocated(self.experiment, settings)
        if own == self.experiment:
            return self.baseline
        name = digest(key(settings))
        return self._made(Run(own, self.out / "search" / name, self.tell, progress=self.progress))

    @cached_property
    def baseline(self) -> nn.Module:
        """Trained on the macro as it is."""
        return self._made(self.base)

    def _made(self, walk: Run) -> nn.Module:
        macro = walk.experiment.on()
        model = walk.trained(walk.converted(self.net, macro), macro, self.method)
        return model if self.remedy is None else self.remedy(model)

    def winner(self, settings: Settings) -> Experiment:
        """The experiment with these settings and the method that trained for them, without a search."""
        found = allocated(self.experiment, settings)
        update = {"methods": (self.method,), "search": None, "title": f"{found.title}, bits layer by layer"}
        return found.model_copy(update=update)


@dataclass(frozen=True)
class _Again:
    """Batches that can be walked again and again."""

    source: Callable[[], Any]

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.source())


def searchable(experiment: Experiment, space: Space, law: str | None = None) -> None:
    """Raise what a search would only find after its networks were trained.

    ImportError without Optuna; ValueError for a ``law`` that the technology has not, and for a choice that a
    layer's macro has no part for.
    """
    optuna()
    law_of([one.title for one in Technology.load(experiment.technology).adc], law)
    choosable(experiment, space.knobs)


def choosable(experiment: Experiment, knobs: tuple[str, ...]) -> None:
    """Raise ValueError for a choice that a layer's macro has no part for."""
    for layer in layers(experiment.place(experiment.network.build(experiment.seed), experiment.on())).values():
        Setting.of(layer.design, knobs)


def allocated(experiment: Experiment, settings: Settings) -> Experiment:
    """The experiment with a setting for each layer named; others stay on its macro."""
    macro, given = experiment.on(), experiment.convert.layers
    found = layers(experiment.place(experiment.network.build(experiment.seed), macro))
    all_match([glob.escape(name) for name in settings], found, "settings: ")
    own: dict[str, dict[str, Any]] = {}
    for name, setting in settings.items():
        design = found[name].design
        if setting.on(design, name) != design:
            before = next((change for pattern, change in given.items() if matches(name, [pattern])), {})
            own[glob.escape(name)] = merge(before, setting.change(design))
    if not own:
        return experiment
    data = experiment.model_dump(mode="json")
    data["convert"]["layers"] = own | given
    return parse(data, f"{experiment.title}, with settings for its layers")


def written(experiment: Experiment) -> str:
    """An experiment as YAML that reads as itself."""
    return to_yaml(experiment.model_dump(mode="json", exclude_none=True))
