"""The steps of hardening before bits are given away: what each one tries, from the network kept so far."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from pydantic import Field
from torch import nn

from bitline.compensate import AnyPath, Centred, CorrectNet, LowRank, Sparse, Vectors, attach, sides
from bitline.configuration import Frozen
from bitline.cost import side_costs
from bitline.evaluate.points import OnEachChip
from bitline.experiment.placing import few, place_paths, share_directions
from bitline.experiment.run import Run
from bitline.macro import Macro
from bitline.methods import Compensate, ErrorAware, OnMacro, Qat, Suppression
from bitline.nn import layers
from bitline.place import AnySearcher, Budget, Reinforce

CONVERTED = "as converted"
RIVALS: tuple[AnyPath, ...] = (CorrectNet(), LowRank(), Vectors(), Sparse())  # each of its own sizes


@dataclass(frozen=True)
class Network:
    """A network on its way: its row's name, the method that made it and its steps, what is done on each chip first."""

    name: str
    model: nn.Module
    method: OnMacro | None = None  # None: none was needed
    steps: int = 0
    recalibrated: bool = False  # batch norms, once for all chips
    prepare: OnEachChip | None = None


class Placing(Frozen):
    """How side paths are placed, and what every step is judged by."""

    budget: Budget = Budget()
    searcher: AnySearcher = Reinforce(evaluations=16)  # the best of our tables: RESULTS.md
    tries: int = Field(default=120, ge=1, description="optimiser steps of a placement that is tried")
    chips: int = Field(default=10, ge=1, description="dies of a lot of their own")
    images: int = Field(default=500, ge=1, description="of the training set")


@dataclass
class Ladder:
    """The steps, in the order of what they cost whoever uses the chip."""

    walk: Run
    macro: Macro
    placing: Placing
    per_chip: bool
    target: float  # share of the accuracy without errors
    tell: Callable[[str], None]
    bare: Network | None = None  # the best one before side paths

    @cached_property
    def start(self) -> nn.Module:
        """The network as converted."""
        return self.walk.converted(self.walk.float_network(), self.macro)

    def steps(self) -> Iterator[tuple[str, str, Callable[[Network], Iterator[Network]]]]:
        """(name, what is done, networks to try)."""
        share = f"{100 * self.placing.budget.share:g} % more {self.placing.budget.of}"
        yield "measure", "the network as converted, and once its batch norms know the macro", self.measure
        yield "train", "on the machine with its errors, and with S3's suppression of their growth", self.train
        yield "centre", f"inputs centred: their mean in digital, and as many directions as {share} allow", self.centre
        yield "compensate", f"side paths, the paper's and its rivals, placed within {share}", self.compensate
        if self.per_chip:
            yield (
                "per chip",
                "outputs trimmed, batch norms recalibrated, or the worst weights patched, on each chip",
                self.on_each_chip,
            )

    def measure(self, kept: Network) -> Iterator[Network]:
        """As it is, and with batch norms of the macro."""
        yield from self._once(kept)

    def train(self, kept: Network) -> Iterator[Network]:
        """The experiment's methods, error-aware training, and suppression alone and with it, where the macro lets."""
        quiet = Suppression(exempt=(list(layers(self.start))[-1],))
        own = [one for one in self.walk.experiment.methods if not isinstance(one, Compensate)]
        wanted = (*own, ErrorAware(), Qat(suppress=quiet), ErrorAware(suppress=quiet))
        for title, method in {one.title: one for one in wanted}.items():
            if reason := method.refuses(self.macro):
                self.tell(f"{title}: left out: {reason}")
            else:
                yield from self._made(title, method)

    def centre(self, kept: Network) -> Iterator[Network]:
        """The method of the network kept, or error-aware training, with inputs centred: the mean alone, and as many
        directions as the budget has room for, where they win most."""
        self.bare, method, means = kept, kept.method or ErrorAware(), Centred(rank=0)
        if reason := means.refuses(self.macro):
            self.tell(f"left out: {reason}")
        elif method.centre is not None:
            self.tell("left out: the experiment's own method has inputs centred")
        elif self._fits(means):
            for path in (means, *self._shared(kept)):
                one = method.model_copy(update={"centre": path})
                yield from self._made(one.title, one)

    def _shared(self, kept: Network) -> list[Centred]:
        """Inputs centred with the directions that the budget buys; none where it buys none."""
        try:
            found = share_directions(self.walk, self.placing.budget, model=kept.model).path
        except ValueError as error:
            self.tell(f"directions layer by layer: left out: {error}")
            return []
        return [found] if found.ranks else []

    def _fits(self, path: AnyPath) -> bool:
        """Whether the budget allows it beside every layer."""
        sample = next(iter(self.walk.source()))[0][:1].float()
        model = attach(copy.deepcopy(self.start), path)
        used = self.placing.budget.used(side_costs(model, sample, self.walk.experiment.technology)[-1])
        if used is not None and used <= self.placing.budget.share:
            return True
        told = "not told" if used is None else f"{100 * used:.1f} %"
        self.tell(f"{path.title}: left out: takes {told} more {self.placing.budget.of}")
        return False

    def compensate(self, kept: Network) -> Iterator[Network]:
        """Each kind of side path where the searcher wants it, beside the best network without any."""
        how, kept = self.placing, self.bare or kept
        if sides(kept.model):
            self.tell("left out: the experiment's method has inputs centred, and a layer has room for one side path")
            return
        for path in RIVALS:
            wanted = Compensate.model_validate({"path": path, "after": kept.method})
            try:
                found = place_paths(
                    self.walk,
                    wanted,
                    budget=how.budget,
                    searcher=how.searcher,
                    images=how.images,
                    training=few(self.walk.experiment.training, how.tries),
                    chips=how.chips,
                    keep=self.target,
                    start=self.start,
                    tell=self.tell,
                )
            except ValueError as error:
                self.tell(f"{path.title}: left out: {error}")
                continue
            if found.method is None:
                self.tell(f"{path.title}: left out: of the placements tried within the budget, none is best")
            else:
                yield from self._made(found.method.title, found.method)

    def on_each_chip(self, kept: Network) -> Iterator[Network]:
        """Trims, statistics of batch norms, and as large patches as keep the budget by themselves."""
        offered = self.walk.experiment.test.patch_per_chip
        patches = [path for path in offered if self._fits(path)]
        for name, model, prepare in self.walk.remedies.on_each_chip(kept.name, kept.model, patches):
            yield replace(kept, name=name, model=model, prepare=prepare)

    def _made(self, title: str, method: OnMacro) -> Iterator[Network]:
        model = self.walk.trained(self.start, self.macro, method)
        yield from self._once(Network(title, model, method, method.stages * self.walk.steps()))

    def _once(self, network: Network) -> Iterator[Network]:
        """It, and what is done to it once for all chips."""
        for name, model, _ in self.walk.remedies(network.name, network.model, per_chip=False):
            yield Network(name, model, network.method, network.steps, name != network.name)
