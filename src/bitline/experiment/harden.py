"""Hardening: measure, train, compensate until a target holds, then give bits away while it does, and verify."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bitline.compensate import Patch, sides
from bitline.cost import SideCost, cost, side_costs
from bitline.data import batches
from bitline.evaluate import Row, row, without_errors
from bitline.evaluate.hardened import Attempt, Hardened, Step
from bitline.evaluate.montecarlo import BLOCK, Batch
from bitline.evaluate.result import By
from bitline.experiment.config import Experiment
from bitline.experiment.folder import record
from bitline.experiment.ladder import CONVERTED, Ladder, Network, Placing
from bitline.experiment.placing import apart
from bitline.experiment.run import Run
from bitline.experiment.search import Judges, SearchRun, searchable, written
from bitline.files import write_atomic
from bitline.methods import Qat
from bitline.place.measuring import lot
from bitline.report.hardening import write_hardened
from bitline.search import Candidate, Goal, Space

PATCHES = (Patch(share=0.01), Patch(share=0.02), Patch(share=0.05))  # on each chip, as far as the budget goes
LEAST_BITS = 4  # of converters, where the experiment declares no choices: the survey's law begins there


@dataclass
class HardenRun:
    """The walk, in a folder of its own; one that was stopped goes on.

    ``target``: share of the accuracy without errors to hold, as ``by`` says. ``per_chip``: whether something may be
    done on each chip. Steps are decided by dies, and by training images, that no test uses.
    """

    experiment: Experiment
    out: Path
    target: float = 0.95
    by: By = "mean"
    per_chip: bool = False
    placing: Placing = field(default_factory=Placing)
    tell: Callable[[str], None] = print
    progress: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.target <= 1:
            raise ValueError(f"target {100 * self.target:g} %: a share of the accuracy without errors, up to 100 %")
        self.placing.searcher.check()
        self.macro, self.unpriced = self.experiment.on(), ""
        if (space := self._space()) is not None:
            searchable(self.experiment, space)
        read = self.experiment.refusal(Patch(), self.macro) is None
        changes = {"recalibrate_per_chip": self.per_chip, "trim_per_chip": self.per_chip, "centre": ()}
        changes["patch_per_chip"] = PATCHES if self.per_chip and read else ()
        test = self.experiment.test.model_copy(update=changes)
        self.walk = Run(self.experiment.model_copy(update={"test": test}), self.out, self.tell, progress=self.progress)
        _, self.deciding, self.unseen = apart(self.walk, self.placing.images)

    def __call__(self) -> Hardened:
        """Carry it out. Writes ``hardened.json``, ``.html`` and ``.yaml``: the experiment that makes what was kept."""
        started = time.time()
        ladder = Ladder(self.walk, self.macro, self.placing, self.per_chip, self.target, self.tell)
        first = Network(CONVERTED, ladder.start)
        untouched = self._energy(first.model)
        original = 100 * float(without_errors(first.model, self.source()).double().mean())
        self.at_least = self.target * original
        self.tell(f"without errors {original:.2f} %, so {self.at_least:.2f} % are to hold")
        steps, before, kept = list[Step](), list[tuple[Attempt, Network]](), first
        for name, told, tries in ladder.steps():
            if steps and steps[-1].holds:
                break
            self.tell(f"{name}: {told}")
            tried = [(self._attempt(network), network) for network in tries(kept)]
            best, kept = max((*before, *tried), key=lambda pair: pair[0].row.reached(self.by))
            before = [(best, kept)]
            told += "" if tried else ": none of them left to try"
            steps.append(
                Step(name=name, told=told, attempts=tuple(one for one, _ in tried), kept=best, holds=self._good(best))
            )
        last, given = self._allocated(kept, steps[-1])
        result = Hardened(
            title=self.experiment.title,
            macro=self.macro.name,
            target=self.target,
            by=self.by,
            original=original,
            steps=(*steps, last),
            verified=self._verified(first, kept, given),
            untouched=untouched or {},
            unpriced=self.unpriced,
            facts=self.walk.facts() | self._facts(),
        )
        result.save(self.out / "hardened.json")
        write_hardened(result, self.out / "hardened.html", record(started))
        return result

    def source(self) -> Iterable[Batch]:
        """The images that steps are decided by."""
        return batches(self.deciding, BLOCK)

    def _attempt(self, network: Network) -> Attempt:
        """Measured on the dies and images that decide."""
        ledger, how = self.walk.ledger("harden", self.placing.images), self.placing
        seed = lot(self.experiment.seed)
        right = ledger.over_chips(network.model, network.name, self.source, how.chips, seed, prepare=network.prepare)
        found = self._row(right, network.name, round(self.at_least, 2))
        self.tell(f"{network.name}: {found.told}")
        overhead, energy = self._overhead(network.model), self._energy(network.model)
        return Attempt(name=network.name, row=found, steps=network.steps, overhead=overhead, energy=energy)

    def _overhead(self, model: nn.Module) -> SideCost | None:
        return side_costs(model, self._sample(), self.experiment.technology)[-1] if sides(model) else None

    def _energy(self, model: nn.Module) -> dict[str, float] | None:
        """Of a sample by ADC law, J, side paths included; None, with the reason kept, where it cannot be priced."""
        try:
            found = cost(model, self._sample(), self.experiment.technology)
        except ValueError as error:
            self.unpriced = str(error)
            return None
        return {estimate.adc: estimate.energy.total for estimate in found.estimates}

    def _sample(self) -> Tensor:
        return next(iter(self.source()))[0][:1]

    def _good(self, attempt: Attempt) -> bool:
        return attempt.row.reached(self.by) >= self.at_least

    def _row(self, right: Tensor, name: str, target: float | None) -> Row:
        return row(right, name, self.macro.name, target=target, seed=self.experiment.seed)

    def _allocated(self, kept: Network, before: Step) -> tuple[Step, Network]:
        """Bits given away while the target holds: the step, and the network that it leaves."""
        name, told = "allocate", "bits of each layer with which conversions take least energy while the target holds"
        method = kept.method or Qat()
        part = self.experiment.model_copy(update={"methods": (method,), "search": self._space()})
        if kept.prepare is not None:
            part = part.model_copy(update={"test": self.walk.experiment.test})  # which does it on each chip
        reason = self._unsearched(kept, before, part.search)
        if reason is None:
            self.tell(f"{name}: {told}")
            goal = Goal(hold=self.at_least, by=self.by)
            judges = Judges(self.source, self.placing.chips, lot(self.experiment.seed))
            remedy = self.walk.remedies.recalibrated if kept.recalibrated else None
            search = SearchRun(part, self.out, goal, self.tell, self.progress, judges, remedy, "hardened-bits")
            try:
                found = search()
                winner = found.cheapest(self.at_least, by=self.by)
            except (ValueError, ImportError) as error:  # what was reached so far is not lost
                reason = str(error)
        if reason is not None:
            self.tell(f"{name}: left out: {reason}")
            write_atomic(self.out / "hardened.yaml", written(part.model_copy(update={"search": None})))
            return Step(name=name, told=f"left out: {reason}", kept=before.kept, holds=before.holds), kept
        write_atomic(self.out / "hardened.yaml", written(search.winner(winner.settings)))
        model = kept.model if winner is found.baseline else search.network(winner.settings)
        steps = max(kept.steps, self.walk.steps())
        spent: Any = {"steps": steps, "overhead": self._overhead(kept.model)}
        attempts = {
            one.name: Attempt(name=one.name, row=one.tested, adc=one.adc, energy=one.total, bits=bits(one), **spent)
            for one in found.tested
            if one.tested is not None
        }
        best = attempts[winner.name]
        step = Step(name=name, told=told, attempts=tuple(attempts.values()), kept=best, holds=self._good(best))
        return step, Network(f"{kept.name}; {winner.name}", model, method, steps, kept.recalibrated)

    def _space(self) -> Space | None:
        """The experiment's choices; where it has none: fewer bits of converters, as far as there are."""
        converter = self.macro.converter
        if self.experiment.search is not None or converter is None or converter.bits <= LEAST_BITS:
            return self.experiment.search
        return Space(adc_bits=tuple(range(LEAST_BITS, converter.bits + 1)))

    def _unsearched(self, kept: Network, before: Step, space: Space | None) -> str | None:
        """Why no bits are given away."""
        if not before.holds:
            return "the target does not hold, so there is nothing to give away"
        if kept.prepare is not None:
            return "what is done on each chip is not done in a search"
        if space is None:
            return "the macro has no converter, or one of few bits, and the experiment declares no other choices"
        return None

    def _verified(self, first: Network, *kept: Network) -> tuple[Row, ...]:
        """On test images and dies."""
        test, seed = self.experiment.test, self.experiment.seed
        rows = [self._row(without_errors(first.model, self.walk.source())[None], "without errors", None)]
        wanted = round(self.target * rows[0].mean, 2)
        for network in {one.name: one for one in (first, *kept)}.values():
            right = self.walk.ledger("verify").over_chips(
                network.model, network.name, self.walk.source, test.chips, seed, prepare=network.prepare
            )
            rows.append(self._row(right, network.name, wanted))
            self.tell(f"verified: {network.name}: {rows[-1].mean:.2f} %")
        return tuple(rows)

    def _facts(self) -> dict[str, str]:
        seen = "of no other use" if self.unseen else "seen in training"
        how = self.placing
        return {
            "decided by": f"{how.chips} dies, {how.images} training images {seen}",
            "side paths": f"{how.searcher.kind}, {how.tries} steps a try",
        } | ({"energy": f"not told: {self.unpriced}"} if self.unpriced else {})


def bits(one: Candidate) -> dict[str, str]:
    """What a candidate of a search chose, by layer."""
    return {layer: setting.title for layer, setting in one.settings.items()}
