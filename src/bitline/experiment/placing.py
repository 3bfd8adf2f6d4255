"""Placements in an experiment, of side paths and of directions: its network, its data, the images chosen on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import nn

from bitline.compensate import Centred
from bitline.data import Split, batches
from bitline.evaluate.montecarlo import BLOCK, Batch
from bitline.experiment.config import Experiment
from bitline.experiment.run import Run
from bitline.methods import Compensate
from bitline.methods.machine import training_chip
from bitline.place import AnySearcher, Budget, Directions, Placed, directions, place, sizes_of
from bitline.train import TrainConfig


def place_paths(
    walk: Run,
    method: Compensate,
    *,
    budget: Budget,
    searcher: AnySearcher,
    widths: Sequence[float] | None = None,
    images: int,
    training: TrainConfig,
    chips: int,
    keep: float = 0.95,
    start: nn.Module | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Placed:
    """Where the side paths of a method should stand, and how wide, beside the layers of its ``at``.

    The network is that of the experiment on its only macro, trained by what the method comes after. Placements are
    chosen on ``images`` that it was not trained on, where the data set has as many; else on some that the side paths
    were not. Test images are not looked at. ``widths``: as of ``place``. ``training``: of a try, see ``few``.
    ``start``: the network as converted, where it is at hand. Raises, before any training, ValueError for a width that
    the path cannot have, and ImportError for a searcher that needs more than is installed.
    """
    searcher.check()
    widths = sizes_of(method.path, widths)
    experiment = walk.experiment
    macro = experiment.on()
    mine, validation, unseen = apart(walk, images)
    tell(f"placements are chosen on {images} training images, " + ("of no other use" if unseen else "seen before"))
    if start is None:
        start = walk.converted(walk.float_network(), macro)
    if method.before is not None:
        start = walk.trained(start, macro, method.before)
    at = tuple(method.at)

    def some(epoch: int) -> Iterable[Batch]:
        data = experiment.data
        return batches(mine, data.batch, seed=experiment.seed, augment=data.augment, epoch=epoch)

    found = place(
        start,
        some,
        batches(validation, BLOCK),
        budget=budget,
        searcher=searcher,
        path=method.path,
        widths=widths,
        at=at,
        keep=keep,
        training=walk.seeded(training),
        chips=chips,
        seed=experiment.seed,
        technology=experiment.technology,
        out=walk.out / "place",
        tell=tell,
    )
    if found.method is None:
        return found
    return found.model_copy(update={"method": method.model_copy(update={"at": found.best.at})})


def share_directions(walk: Run, budget: Budget, *, chips: int = 8, model: nn.Module | None = None) -> Directions:
    """How many directions of their inputs the layers of an experiment's network have in digital, on its only macro:
    ``place.directions`` on training images and dies of the training lot. ``model``: its network, where it is not the
    one that is converted. Raises ValueError as that does, for a macro whose inputs have no sign before any training."""
    experiment = walk.experiment
    macro = experiment.on()
    if reason := experiment.refusal(Centred(), macro):
        raise ValueError(reason)
    if model is None:
        model = walk.converted(walk.float_network(), macro)
    chip = partial(training_chip, experiment.seed, use="directions")
    return directions(model, walk.remedies.batches(), budget, chip, chips=chips, technology=experiment.technology)


def centred(experiment: Experiment, path: Centred) -> Experiment:
    """The experiment with this side path in each of its methods that centre inputs, those that differed in nothing else
    being one then, and in a row of its test more; in its test, where it centres them nowhere."""
    centring = [one.centre is not None for one in experiment.methods]
    each = zip(experiment.methods, centring, strict=True)
    methods = [one.model_copy(update={"centre": path}) if changed else one for one, changed in each]
    test = experiment.test
    if test.centre or not any(centring):
        test = test.model_copy(update={"centre": tuple({one.title: one for one in (*test.centre, path)}.values())})
    return experiment.model_copy(update={"methods": tuple({one.title: one for one in methods}.values()), "test": test})


def few(training: TrainConfig, steps: int, lr: float | None = None) -> TrainConfig:
    """A training run cut to so many steps, for a try; ``lr``: its learning rate, unless it stays as it is."""
    changes = {"epochs": None, "steps": steps} | ({} if lr is None else {"lr": lr})
    return TrainConfig.model_validate(training.model_dump() | changes)


def apart(walk: Run, images: int) -> tuple[Split, Split, bool]:
    """(training images, images to choose on, whether these were used for nothing else)."""
    data = walk.experiment.data
    whole = data.set.train()
    left = whole[~torch.isin(whole.index, walk.training.index)]
    if len(left) >= images:
        (chosen,) = data.prepared(left.subset(images, seed=walk.experiment.seed))
        return walk.training, chosen, True
    if len(walk.training) <= images:
        raise ValueError(
            f"{images} images to choose on leave none of {len(walk.training)} to train with: ask for fewer"
        )
    chosen = walk.training.subset(images, seed=walk.experiment.seed)
    return walk.training[~torch.isin(walk.training.index, chosen.index)], chosen, False
