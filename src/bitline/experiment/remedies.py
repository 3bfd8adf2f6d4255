"""What a test does to a trained network before chips meet it: once for all of them, or on each one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from torch import nn

from bitline.compensate import Centred, Patch, Patching, Trim, Trimming, attach, centre, patch, sides
from bitline.evaluate import Recalibration, recalibrate, recalibrated, worth_verifying
from bitline.evaluate.montecarlo import Batch
from bitline.evaluate.points import OnEachChip
from bitline.experiment.config import Test
from bitline.macro import Chip, pulses
from bitline.methods import training_chip
from bitline.nn import SampleNorm, batch_norms, layers, per_sample, programmed, verify_writes

CURVED = 4  # batches that tell which weights are worth verifying
Remedied = tuple[str, nn.Module, OnEachChip | None]
"""Its row's name, the network, and what is done on each chip before it is tested."""


@dataclass(frozen=True)
class Remedies:
    """Those that a test asks for, each beside the network as it is: a row of its own.

    ``plain``: training batches without augmentation, whose first ones they look at. Dies are those of the training lot.
    """

    test: Test
    seed: int
    plain: Callable[[], Iterable[Batch]]
    tell: Callable[[str], None]

    def __call__(self, name: str, model: nn.Module, per_chip: bool = True) -> Iterator[Remedied]:
        """The network as it is, then what the test asks for; ``per_chip``: also what is done on each chip."""
        test = self.test
        yield name, model, None
        for share in test.verify:
            yield f"{name} + {100 * share:g} % verified", self._verified(model, share), None
        for path in () if sides(model) else test.centre:
            yield from self._centred(f"{name} + {path.title}", model, path, per_chip)
        if norms := batch_norms(model):
            if test.per_sample is not None and not any(isinstance(norm, SampleNorm) for norm in norms):
                yield f"{name} + normalised per sample", per_sample(copy.deepcopy(model), test.per_sample), None
            if test.recalibrate:
                yield f"{name} + BN recalibrated", self.recalibrated(model), None
        if per_chip:
            yield from self.on_each_chip(name, model, test.patch_per_chip)

    def on_each_chip(self, name: str, model: nn.Module, patches: Sequence[Patch]) -> Iterator[Remedied]:
        """What is done on each chip: the trims and statistics that the test asks for, and these patches."""
        if self.test.trim_per_chip:
            yield f"{name} + trimmed per chip", attach(copy.deepcopy(model), Trim()), Trimming(self.batches())
        yield from self._patched(name, model, patches)
        if self.test.recalibrate_per_chip and batch_norms(model):
            yield f"{name} + BN recalibrated per chip", copy.deepcopy(model), Recalibration(self.batches())

    def batches(self) -> list[Batch]:
        """Those that are looked at."""
        return list(islice(self.plain(), self.test.recalibration_batches))

    def recalibrated(self, model: nn.Module) -> nn.Module:
        """A copy with batch-norm statistics of the macro."""
        return recalibrated(model, self.batches(), self._for_norms)

    @property
    def _for_norms(self) -> Callable[[int], Chip]:
        return partial(training_chip, self.seed, use="batch norms")

    def _centred(self, name: str, model: nn.Module, path: Centred, per_chip: bool) -> Iterator[Remedied]:
        """The network with its inputs centred, with batch norms of the macro, and patched where asked."""
        chip = partial(training_chip, self.seed, use="centred inputs")
        found = centre(copy.deepcopy(model), self.batches(), path, chip=chip)
        yield name, found, None
        if self.test.recalibrate and batch_norms(model):
            name, found = f"{name}, BN recalibrated", self.recalibrated(found)
            yield name, found, None
        if per_chip:
            yield from self._patched(name, found, self.test.patch_per_chip)

    def _patched(self, name: str, model: nn.Module, patches: Sequence[Patch]) -> Iterator[Remedied]:
        """The network with its weights patched on each chip; its batch norms know it."""
        few = self.batches() if patches else []
        for path in patches:
            found = patch(copy.deepcopy(model), few, path)
            if batch_norms(found):
                recalibrate(found, few, self._for_norms, prepare=Patching())
            yield f"{name} + {path.title}", found, Patching()

    def _verified(self, model: nn.Module, share: float) -> nn.Module:
        """A copy with this share of its weights verified as they are written, those of most curvature × error."""
        found = copy.deepcopy(model)
        few = [(x, y) for x, y, _ in islice(self.plain(), CURVED)]
        verify_writes(found, worth_verifying(model, few, seed=self.seed), share)
        took = pulses(programmed(found, name) for name in layers(found))
        self.tell(f"{100 * share:g} % verified: {took}")
        return found
