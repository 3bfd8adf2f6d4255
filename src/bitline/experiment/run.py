"""The walk of an experiment: float network → converted → trained by each method → tested on chips → result."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitline.compensate import sides
from bitline.cost import side_costs
from bitline.data import batches
from bitline.evaluate import (
    Difference,
    Ledger,
    Pool,
    Result,
    Row,
    Workers,
    answers,
    difference,
    explanation,
    layer_gains,
    layer_reports,
    opened,
    row,
    sensitivity,
    without_errors,
)
from bitline.evaluate.montecarlo import BLOCK, Batch
from bitline.evaluate.points import OnEachChip
from bitline.evaluate.simple import at_corner
from bitline.experiment.config import Experiment
from bitline.experiment.folder import claim, finish, whose
from bitline.experiment.remedies import Remedies
from bitline.macro import Macro
from bitline.macro.describe import describe
from bitline.methods import OnMacro, Qat
from bitline.methods.usual import WHY, analog
from bitline.nn import calibrate, layers, mapping, use
from bitline.train import TrainConfig, train

Tell = Callable[[str], None]

UNTRAINED = Qat().title
FEW = 8  # images that an experiment is checked with


@dataclass
class Run:
    """One experiment being carried out in a folder."""

    experiment: Experiment
    out: Path
    tell: Tell = print
    chip: Callable[[str, int, float], None] = lambda place, number, accuracy: None  # as each chip comes
    progress: bool = True
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    into: Path | None = None  # where results go, if not to `out`
    workers: Workers | None = None  # that answer for chips; absent: this process
    pool: Pool | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        data = self.experiment.data
        splits = [data.set.train(), data.set.test()]
        for i, most in enumerate((data.train_images, data.test_images)):
            if most is not None:
                splits[i] = splits[i].subset(most, seed=self.experiment.seed)
        self.training, self.testing = data.prepared(*splits)
        self.experiment.check(next(iter(self.plain()))[0][:FEW].float())
        claim(self.out, self.experiment)
        self.rows: list[Row] = []
        self.found: dict[str, Tensor] = {}
        self.remedies = Remedies(self.experiment.test, self.experiment.seed, self.plain, self.tell)

    def batches(self, epoch: int) -> Iterable[Batch]:
        """Training batches of an epoch."""
        data = self.experiment.data
        return batches(self.training, data.batch, seed=self.experiment.seed, augment=data.augment, epoch=epoch)

    def plain(self) -> Iterable[Batch]:
        """Training images without augmentation, shuffled: for calibration and batch-norm statistics."""
        return batches(self.training, BLOCK, seed=self.experiment.seed)

    def source(self) -> Iterable[Batch]:
        """Test batches."""
        return batches(self.testing, BLOCK)

    def seeded(self, config: TrainConfig) -> TrainConfig:
        """The training run under the experiment's seed."""
        return config.model_copy(update={"seed": self.experiment.seed})

    def float_network(self) -> nn.Module:
        """The float network, trained if the experiment says so."""
        net = self.experiment.network.build(self.experiment.seed).to(self.device)
        if self.experiment.float_training is not None:
            config = self.seeded(self.experiment.float_training)
            train(net, self.batches, config=config, out=self.out / "train" / "float", progress=self.progress)
        return net.eval()

    def converted(self, net: nn.Module, macro: Macro) -> nn.Module:
        """The network on a macro, ranges calibrated."""
        return calibrate(self.experiment.place(net, macro), self.plain(), self.experiment.convert.calibration_batches)

    def trained(self, start: nn.Module, macro: Macro, method: OnMacro) -> nn.Module:
        """A copy of ``start`` trained by a method, after another where it says so, from checkpoints that there are."""
        if method.before is not None:
            start = self.trained(start, macro, method.before)
        model = copy.deepcopy(start)
        use(model)
        method = method.model_copy(update={"seed": self.experiment.seed})
        folder = self.out / "train" / whose(macro, method)
        train(
            model,
            self.batches,
            config=self.seeded(self.experiment.training),
            method=method,
            out=folder,
            progress=self.progress,
        )
        return model.eval()

    def __call__(self) -> Result:
        """Carry it out; what was done before is not done again."""
        with opened(self.workers) as self.pool:
            return self._carried_out()

    def _carried_out(self) -> Result:
        experiment = self.experiment
        started = time.time()
        net = self.float_network()
        right = answers(net, self.source())[None]
        self._row("float", "none", right, None)
        parts: dict[str, Any] = {
            "layers": [],
            "mapping": [],
            "sensitivity": [],
            "explanation": [],
            "overheads": {},
            "gains": {},
        }
        differences: list[Difference] = []
        for macro in experiment.macros:
            self._on(net, macro, parts, differences)
        result = Result(
            title=experiment.title,
            sentence=self._sentence(),
            rows=tuple(self.rows),
            differences=tuple(differences),
            layers=tuple(parts["layers"]),
            mapping=tuple(parts["mapping"]),
            overheads=parts["overheads"],
            gains=parts["gains"],
            sensitivity=tuple(parts["sensitivity"]),
            explanation=tuple(parts["explanation"]),
            macros={
                one.name: one.dump()
                for macro in experiment.macros
                for one in (macro, *experiment.designs(macro).values())
            },
            facts=self.facts(),
        )
        finish(result, self.into or self.out, started)
        return result

    def networks(self, start: nn.Module, macro: Macro) -> dict[str, nn.Module]:
        """``start`` trained by each method, by its title; the untouched one is there whatever the methods are."""
        found = {method.title: self.trained(start, macro, method) for method in self.experiment.methods}
        return {UNTRAINED: start} | found

    def steps(self) -> int:
        """Optimiser steps of each method."""
        return self.experiment.training.total_steps(-(-len(self.training) // self.experiment.data.batch))

    def ledger(self, *more: object) -> Ledger:
        """Where answers are kept; ``more``: what sets them besides network, macro, seed and data."""
        context = json.dumps([self.experiment.seed, self._data_key(), self.experiment.plan, *more])
        return Ledger(self.out / "answers", context, self.pool)

    def _on(self, net: nn.Module, macro: Macro, parts: dict[str, Any], differences: list[Difference]) -> None:
        experiment, test = self.experiment, self.experiment.test
        start = self.converted(net, macro)
        models = self.networks(start, macro)
        label = (lambda name: f"{name}, {macro.name}") if len(experiment.macros) > 1 else (lambda name: name)
        made = {one.title: one for one in experiment.methods}
        clean = models[UNTRAINED]
        right = without_errors(clean, self.source())[None]
        self._row(label("ideal macro"), macro.name, right, 0 if clean is start else self.steps())
        for name, model in models.items():
            method = made.get(name)  # None: as converted
            spent = 0 if method is None else self.steps() * method.stages
            if any(layer.macro.variation is not None for layer in layers(model).values()):
                parts["gains"][label(name)] = layer_gains(
                    model, method.suppress if method else None, seed=experiment.seed
                )
            if sides(model):
                parts["overheads"][label(name)] = side_costs(
                    model, self.testing[:1].images.float(), experiment.technology
                )
            for title, one, prepare in self.remedies(name, model):
                self._chips(label(title), one, macro, spent, prepare)
        differences += self._differences(macro)
        best = max(models, key=lambda name: float(self.found[label(name)].double().mean()))
        if test.details:
            for name in dict.fromkeys((UNTRAINED, best)):
                self.tell(f"looking into {label(name)}")
                parts["layers"] += layer_reports(
                    models[name], self.source, label(name), test.detail_chips, test.detail_images, experiment.seed
                )
            few = lambda: batches(self.testing[: test.detail_images], BLOCK)  # noqa: E731
            told = (clean, few, label(UNTRAINED), test.detail_chips, experiment.seed)
            ledger = self.ledger("details", test.detail_images)
            parts["sensitivity"] += sensitivity(*told, ledger)
            parts["explanation"] += explanation(*told, ledger)
        parts["mapping"] += mapping(models[best])

    def _chips(
        self,
        name: str,
        model: nn.Module,
        macro: Macro,
        steps: int | None,
        prepare: OnEachChip | None = None,
    ) -> None:
        """Rows of one network: as designed, and at each corner where asked."""
        test, seed = self.experiment.test, self.experiment.seed
        for corner in (None, *(macro.corners if test.corners else ())):
            at_corner(model, corner)
            ledger = self.ledger(prepare.key if prepare else None)
            place = name if corner is None else f"{name} @ {corner}"

            def tell(count: int, accuracy: float, place: str = place) -> None:
                self.chip(place, count, accuracy)

            right = ledger.over_chips(model, place, self.source, test.chips, seed, tell, prepare)
            self._row(name, macro.name, right, steps, corner or "nominal")
        use(model)

    def _data_key(self) -> str:
        return self.experiment.data.model_dump_json(exclude={"batch", "augment"})

    def _row(self, name: str, macro: str, right: Tensor, steps: int | None, condition: str = "nominal") -> None:
        target = self.experiment.test.target if len(right) > 1 else None
        found = row(right, name, macro, target=target, condition=condition, steps=steps, seed=self.experiment.seed)
        self.rows.append(found)
        if condition == "nominal":
            self.found[name] = right
        self.tell(f"{name}: {found.told}")

    def _compared(self, macro: Macro) -> tuple[Row, Row, list[Row]]:
        """The rows on a macro: ideal, the best on chips, and all on chips, the untouched network's first."""
        clean, *chips = (r for r in self.rows if r.macro == macro.name and r.condition == "nominal")
        chips.sort(key=lambda r: not r.method.startswith(UNTRAINED))
        return clean, max(chips, key=lambda r: r.mean), chips

    def _differences(self, macro: Macro) -> list[Difference]:
        """The best row on chips less each other, and the ideal macro less it."""
        clean, best, chips = self._compared(macro)
        pairs = [(best.method, row.method) for row in chips if row is not best] + [(clean.method, best.method)]
        return [difference(self.found[a], self.found[b], (a, b), self.experiment.seed) for a, b in pairs]

    def _sentence(self) -> str:
        """What happened, in one sentence."""
        told = []
        for macro in self.experiment.macros:
            clean, best, (first, *_) = self._compared(macro)
            lead = f"on {macro.name} the network has {clean.mean:.1f} % if the macro were ideal, {first.mean:.1f} %"
            remedy = "" if best is first else f" and {best.mean:.1f} % {best.method}"
            told.append(f"{lead} {first.method}{remedy} (means of {first.chips} chips)")
        return f"From {self.rows[0].mean:.1f} % in float, " + "; ".join(told) + "."

    def facts(self) -> dict[str, str]:
        """Settings to print."""
        experiment = self.experiment
        facts = {
            "data": f"{experiment.data.set.kind}: {len(self.training)} training, {len(self.testing)} test images",
            "network": experiment.network.kind,
            "seed": str(experiment.seed),
        }
        if "methods" not in experiment.model_fields_set and analog(experiment.macros):
            facts["methods"] = WHY
        for macro in experiment.macros:
            prefix = f"{macro.name}: " if len(experiment.macros) > 1 else ""
            facts |= {f"{prefix}{name}": text for name, text in describe(macro)}
        return facts
