"""A sweep of a whole experiment: trained once, or once for each value of some keys, and tested at every point."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from bitline.configuration import lay
from bitline.evaluate import Comparison, Few, Over, Row, Sweep, Workers, answers, opened, row
from bitline.evaluate.points import check
from bitline.evaluate.swept import Settings, grid, sentence, told
from bitline.experiment.config import Experiment, parse
from bitline.experiment.folder import record, slug
from bitline.experiment.run import FEW, Run
from bitline.report import write_sweep, write_sweep_csv


@dataclass
class SweepRun:
    """A sweep being carried out in a folder, which it shares with a ``Run`` of the same experiment.

    ``over``: keys of the macro, whose values the trained networks are tested at; ``train_over``: keys of the
    experiment, for each value of which the methods are trained.
    """

    experiment: Experiment
    over: Sequence[Over]
    out: Path
    train_over: Sequence[Over] = ()
    tell: Callable[[str], None] = print
    progress: bool = True
    workers: Workers | None = None

    def __call__(self) -> Sweep:
        """Carry it out; what was done before is not done again.

        Raises ValueError, before anything is trained, for keys and values that cannot be.
        """
        started = time.time()
        self.experiment.on()
        swept = {each.key for each in self.over}
        for each in self.train_over:
            if each.key.startswith("macro.") and each.key not in swept:
                raise ValueError(
                    f"--train-over {each.key}: at a point all networks meet the same macro, so give its values to "
                    f"--over {each.key}=… too"
                )
        trainings = [(settings, self._changed(settings)) for settings in grid(self.train_over)]
        base = Run(self.experiment, self.out, self.tell, progress=self.progress)
        images = next(iter(base.plain()))[0][:FEW].float()
        for settings, experiment in trainings:
            if settings:
                experiment.check(images)
            points = check(experiment.macros, self.over)
        floats: dict[str, nn.Module] = {}
        models: dict[str, nn.Module] = {}
        for settings, experiment in trainings:
            self._train(base, settings, experiment, floats, models)
        with opened(self.workers) as base.pool:
            comparison = self._comparison(base)
            found = tuple(comparison.point(models, settings) for settings in points)
            rows = [self._float_row(name, net, base) for name, net in floats.items()]
        result = Sweep(
            title=self.experiment.title,
            sentence=sentence(found),
            trained=self._how(),
            over=tuple(self.over),
            float_rows=tuple(rows),
            points=found,
            macros={macro.name: macro.dump() for macro in self.experiment.macros},
            facts=base.facts(),
        )
        result.save(self.out / "sweep.json")
        write_sweep_csv(result, self.out / "sweep.csv")
        write_sweep(result, self.out / "sweep.html", record(started))
        return result

    def _changed(self, settings: Settings) -> Experiment:
        """The experiment with keys changed."""
        if not settings:
            return self.experiment
        data = self.experiment.model_dump(mode="json")
        macro = data.pop("macro")[0]
        data["macro"] = macro
        for key, value in settings.items():
            lay(data, key, value, f"--train-over {key} = {value!r}")
        return parse(data, f"the experiment with {told(settings)}")

    def _train(
        self,
        base: Run,
        settings: Settings,
        experiment: Experiment,
        floats: dict[str, nn.Module],
        models: dict[str, nn.Module],
    ) -> None:
        """Add the networks of one training, and the float network they start from where it is another."""
        suffix = f", trained at {told(settings)}" if settings else ""
        walk = base
        if settings:
            walk = Run(experiment, self.out / "sweep" / slug(told(settings)), self.tell, progress=self.progress)
        if "float" not in floats:
            floats["float"] = base.float_network()
        net = floats["float"]
        if _start(experiment) != _start(base.experiment):
            net = floats[f"float{suffix}"] = walk.float_network()
        macro = experiment.on()
        start = walk.converted(net, macro)
        for name, model in walk.networks(start, macro).items():
            if model is not start:
                models[name + suffix] = model
            elif net is not floats["float"]:
                models[f"{name}{suffix}"] = model
            else:
                models.setdefault(name, model)

    def _comparison(self, base: Run) -> Comparison:
        test = base.experiment.test
        return Comparison(
            source=base.source,
            chips=test.chips,
            seed=base.experiment.seed,
            target=test.target,
            calibration=base.plain(),
            calibration_batches=base.experiment.convert.calibration_batches,
            variants=base.remedies,
            details=Few(base.source, test.detail_images) if test.details else None,
            detail_chips=test.detail_chips,
            ledger=base.ledger,
            tell=self.tell,
        )

    def _float_row(self, name: str, net: nn.Module, base: Run) -> Row:
        return row(answers(net, base.source())[None], name, "none", seed=self.experiment.seed)

    def _how(self) -> str:
        """Which network met which point."""
        if not self.train_over:
            return (
                "Each method was trained once, on the macro as the experiment writes it, and tested as it was at every "
                "point."
            )
        keys = " and ".join(f"{each.key} ({', '.join(map(str, each.values))})" for each in self.train_over)
        return f"Each method was trained once for every value of {keys}, and each network was tested at every point."


def _start(experiment: Experiment) -> object:
    """What the float network depends on."""
    return experiment.model_dump(mode="json", include={"seed", "data", "network", "float_training"})
