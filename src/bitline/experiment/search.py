"""A search over an experiment's layers: its macro's bits are the baseline, its finals are experiments themselves."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bitline.configuration import to_yaml
from bitline.evaluate import write_atomic
from bitline.evaluate.montecarlo import Batch
from bitline.experiment.config import Experiment, parse
from bitline.experiment.run import Run
from bitline.macro.macro import merge
from bitline.methods import AnyMethod
from bitline.nn import all_match, layers, matches
from bitline.report.search import search_picture, write_search_csv
from bitline.search import Goal, Searched, Setting, search
from bitline.search.finals import NO_GOAL
from bitline.search.setting import Settings, key


@dataclass
class SearchRun:
    """A search being carried out in a folder, which it shares with a ``Run`` of the same experiment."""

    experiment: Experiment
    out: Path
    goal: Goal = NO_GOAL
    tell: Callable[[str], None] = print
    progress: bool = True

    def __post_init__(self) -> None:
        if len(self.experiment.macros) > 1:
            raise ValueError("the experiment has several macros: choose one with --set macro=…")
        if self.experiment.search is None:
            raise ValueError(
                "the experiment declares no choices: give them as `search: {adc_bits: [4, 5, 6]}`, or with "
                "--set search.adc_bits=[4,5,6]"
            )
        self.method = self._method(self.experiment.search.method)

    def __call__(self) -> Searched:
        """Carry it out; what was done before is not done again. Writes ``search.json``, ``.csv`` and ``.svg``."""
        experiment, space = self.experiment, self.experiment.search
        assert space is not None
        base = Run(experiment, self.out, self.tell, progress=self.progress)
        macro = experiment.macros[0]
        net = base.float_network()
        model = base.trained(base.converted(net, macro), macro, self.method)

        def trained(settings: dict[str, Setting]) -> nn.Module:
            own = allocated(experiment, settings)
            if own == experiment:
                return model
            folder = self.out / "search" / hashlib.blake2b(key(settings).encode(), digest_size=8).hexdigest()
            walk = Run(own, folder, self.tell, progress=self.progress)
            return walk.trained(walk.converted(net, macro), macro, self.method)

        found = search(
            model,
            _Again(base.plain),
            _Again(base.source),
            space,
            chips=experiment.test.chips,
            target=experiment.test.target,
            seed=experiment.seed,
            calibration_batches=experiment.convert.calibration_batches,
            trained=trained,
            goal=self.goal,
            how=f"{self.method.title}: trained for each setting, from the float network",
            out=self.out / "search",
            title=experiment.title,
            tell=self.tell,
        )
        found = found.model_copy(update={"facts": base.facts()})
        found.write(self.out / "search.json")
        write_search_csv(found, self.out / "search.csv")
        write_atomic(self.out / "search.svg", search_picture(found))
        return found

    def winner(self, settings: Settings) -> Experiment:
        """The experiment with these settings and the method that trained for them, without a search."""
        found = allocated(self.experiment, settings)
        update = {"methods": (self.method,), "search": None, "title": f"{found.title}, bits layer by layer"}
        return found.model_copy(update=update)

    def _method(self, name: str | None) -> AnyMethod:
        there = self.experiment.methods
        found = [one for one in there if name is None or name in (one.kind, one.title)]
        if not found:
            told = ", ".join(f"{one.kind} ({one.title!r})" for one in there)
            raise ValueError(f"search.method = {name}: the experiment has no such method; it has: {told}")
        return found[-1]


@dataclass(frozen=True)
class _Again:
    """Batches that can be walked again and again."""

    source: Callable[[], Any]

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.source())


def allocated(experiment: Experiment, settings: Settings) -> Experiment:
    """The experiment with a setting for each layer named; others stay on its macro."""
    macro, given = experiment.macros[0], experiment.convert.layers
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
