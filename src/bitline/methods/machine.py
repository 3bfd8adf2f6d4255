"""Training through the machine: on the ideal macro (quantisation-aware), or on a fresh chip each step (error-aware)."""

from __future__ import annotations

from itertools import islice
from typing import Literal

from pydantic import Field, PositiveFloat, PrivateAttr
from torch import Tensor, nn

from bitline import draws
from bitline.compensate import Centred, attach
from bitline.compensate.centre import fit
from bitline.configuration import Frozen
from bitline.macro import Chip, Macro, ideal
from bitline.methods.distil import Distillation
from bitline.methods.protocol import Batches, Criterion, Progress
from bitline.methods.suppression import Suppression
from bitline.nn import layers, on_chip, per_sample, silicon, suit_ranges, use
from bitline.nn.suited import FACTORS, WEIGHTS

SEEN = 8  # batches that a mean of inputs is found on


Use = Literal["steps", "before", "batch norms", "centred inputs", "directions"]
FIRST: dict[Use, int] = {"steps": 0, "batch norms": 1_000_000, "centred inputs": 2_000_000, "directions": 3_000_000}


def training_chip(seed: int, number: int, use: Use = "steps") -> Chip:
    """Die ``number`` ≥ 0 of those of the training lot that have this use: never one that is tested on.

    Dies of different uses differ, up to a million steps. All that is measured ``before`` training, as ranges and sizes
    of noise, is measured on the same ones.
    """
    return Chip(draws.key("training lot", seed), -1 - number if use == "before" else FIRST[use] + number)


class Ranges(Frozen):
    """Ranges of inputs and weights that lose least on what is trained on, found before training: ``nn.suit_ranges``."""

    factors: tuple[PositiveFloat, ...] = Field(default=FACTORS, min_length=1, description="of calibrated input ranges")
    weights: tuple[PositiveFloat, ...] = Field(default=WEIGHTS, min_length=1, description="of those of weights")


class OnMacro(Frozen):
    """What all methods share that train a converted network: samples and reads are announced."""

    seed: int = Field(default=0, description="of the training lot; an experiment gives its own")
    distil: Distillation | None = None
    ranges: Ranges | None = Field(default=None, description="absent: as calibrated")
    suppress: Suppression | None = None
    per_sample: PositiveFloat | None = Field(
        default=None,
        description="batch norms mix in each sample's own statistics; the others count as so many positions: try 256",
    )
    centre: Centred | None = Field(
        default=None, description="mean and principal directions of inputs in digital, beside every layer; absent: none"
    )
    _teacher: nn.Module | None = PrivateAttr(default=None)
    _progress: Progress = PrivateAttr(default=Progress(0, 1))

    @property
    def title(self) -> str:
        """What the comparison calls a network made this way, on chips."""
        raise NotImplementedError

    def titled(self, name: str) -> str:
        """``name``, and what was done beside."""
        beside = {"ranges suited": self.ranges, "distilled": self.distil, "normalised per sample": self.per_sample}
        done = [told for told, part in beside.items() if part is not None]
        done += [self.centre.title] if self.centre else []
        return ", ".join([name, *done, *([self.suppress.title] if self.suppress else [])])

    @property
    def patterns(self) -> tuple[str, ...]:
        """Dotted-name patterns that have to match a layer of the network."""
        return (*(self.suppress.exempt if self.suppress else ()), *(self.centre.patterns if self.centre else ()))

    @property
    def before(self) -> OnMacro | None:
        """The method that an experiment trains the network by first; None: it starts from the network as converted."""
        return None

    @property
    def stages(self) -> int:
        """Trainings, each of the whole budget, that an experiment makes it by."""
        return 1 if self.before is None else 1 + self.before.stages

    def refuses(self, macro: Macro) -> str | None:
        """A macro that leaves ``suppress`` without its sigma, or drives nothing of both signs for ``centre``."""
        reasons = (part.refuses(macro) for part in (self.suppress, self.centre) if part is not None)
        return next((reason for reason in reasons if reason is not None), None)

    @property
    def has_paths(self) -> bool:
        """Whether layers get side paths by it."""
        return self.centre is not None

    def put(self, model: nn.Module) -> nn.Module:
        """The side paths of the method, untrained, beside their layers, in place; returns the model."""
        return model if self.centre is None else attach(model, self.centre)

    def begin(self, model: nn.Module, batches: Batches) -> None:
        """The macros as designed; raises ValueError where the method refuses all of them, or norms ``per_sample``."""
        reasons = [self.refuses(layer.design) for layer in layers(model).values()]
        if reasons and all(reasons):
            raise ValueError(reasons[0])
        use(model)
        self._teacher = self.distil.teacher(model) if self.distil else None
        if self.per_sample is not None:
            per_sample(model, self.per_sample)
        self.freeze(model)
        self.put(model)

    def freeze(self, model: nn.Module) -> None:
        """Take what is not trained from the parameters that require a gradient; side paths are not there yet."""

    def measure(self, model: nn.Module, batches: Batches) -> None:
        """What is taken off inputs that are centred, on a few batches and dies; then input ranges, where they are to
        suit the machine, on the first batch and a die of the training lot."""
        if self.centre is not None:
            fit(model, list(islice(batches(0), SEEN)), lambda i: training_chip(self.seed, 1 + i, "before"))
        if self.ranges is None:
            return
        x, _, index = next(iter(batches(0)))
        on_chip(model, training_chip(self.seed, 0, "before"))
        suit_ranges(model, x.to(next(model.parameters()).device), index, self.ranges.factors, self.ranges.weights)

    def before_step(self, model: nn.Module, progress: Progress) -> None:
        """The step number keys the reads."""
        self._progress = progress
        silicon(model).read = progress.step

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, criterion: Criterion) -> Tensor:
        """The criterion on what the macro computes, noise keyed by (step, sample), and the penalty of ``suppress``."""
        return self.penalised(self.read(model, x, y, index, criterion), model)

    def penalised(self, value: Tensor, model: nn.Module) -> Tensor:
        """A loss, and what is added to it: the penalty of ``suppress``."""
        return value if self.suppress is None else value + self.suppress.penalty(model, self._progress, self.seed)

    def read(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor, criterion: Criterion) -> Tensor:
        """The criterion on what the macro computes, once."""
        shared = silicon(model)
        shared.begin(index, shared.read)
        if self.distil is not None and self._teacher is not None:
            criterion = self.distil.around(criterion, self._teacher, x)
        value = criterion(model(x), y)
        shared.samples = None  # whoever reads next says what
        return value

    def end(self, model: nn.Module) -> None:
        """Back to the macro as designed, on the die it starts with."""
        self._teacher = None
        use(model)
        silicon(model).begin(None)
        on_chip(model, Chip(0, 0))


class Qat(OnMacro):
    """Quantisation-aware training: the ideal macro, its digits and its converter's resolution, no error."""

    kind: Literal["qat"] = "qat"

    @property
    def title(self) -> str:
        return self.titled("without errors") if self.suppress or self.centre else "untrained on chips"

    def begin(self, model: nn.Module, batches: Batches) -> None:
        super().begin(model, batches)
        use(model, ideal)


class OnFreshChips(OnMacro):
    """What methods share that train on the macro with all its errors: a fresh chip of the training lot each step, on
    each rank another."""

    def before_step(self, model: nn.Module, progress: Progress) -> None:
        super().before_step(model, progress)
        on_chip(model, training_chip(self.seed, progress.draw))


class ErrorAware(OnFreshChips):
    """The macro with all its errors: a fresh chip of the training lot each step, fresh noise each read.

    S0's error-aware training (Chang, Liu, Kuster, SMACD 2022). With weight variations it is ``HaSgd`` without any part.
    """

    kind: Literal["error_aware"] = "error_aware"

    @property
    def title(self) -> str:
        return self.titled("error-aware")
