"""The verb: a converted network, a budget and a searcher in, a placement of side paths with evidence out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitline.compensate import AnyPath, CorrectNet
from bitline.cost import DEFAULT, Technology
from bitline.evaluate import Ledger, injected_from, without_errors
from bitline.evaluate.simple import Source
from bitline.methods import Compensate
from bitline.methods.protocol import Batches
from bitline.place.budget import Budget
from bitline.place.measuring import Measuring, lot
from bitline.place.result import Placed, Tried
from bitline.place.searchers import AnySearcher, Reinforce
from bitline.place.space import Space, space_of
from bitline.place.trials import Spent, Trials
from bitline.train import TrainConfig

FEW = TrainConfig(steps=120, lr=0.05, clip=1.0)


def place(
    model: nn.Module,
    batches: Batches,
    validation: Iterable[Any],
    *,
    budget: Budget | float | str = 0.05,
    searcher: AnySearcher | None = None,
    path: AnyPath | None = None,
    widths: Sequence[float] | None = None,
    at: Sequence[str] = ("*",),
    keep: float = 0.95,
    training: TrainConfig = FEW,
    chips: int = 5,
    seed: int = 0,
    technology: Technology | str = DEFAULT,
    out: Path | str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Placed:
    """Search for the layers of a converted network that side paths pay beside, and how wide they should be.

    Candidates are the layers ``at`` before the one from which on errors still keep ``keep`` of the accuracy. Each gets
    no side path or one of the ``widths`` of ``path`` (ranks, shares; absent: those usual for its kind); a placement is
    trained as ``training`` says on ``batches`` and fresh chips, and tested on ``chips`` dies of a lot of their own and
    the images of ``validation``, which no final test should use: R = (mean − std) / original − η · max(0, overhead −
    budget) / budget, ``original`` the accuracy without errors.
    ``searcher``: ``Reinforce()`` unless given. With ``out``, what was measured is kept there and not measured again.
    The model is not changed. Raises ValueError for a model without a layer that needs a side path, and for a space that
    the searcher refuses; ImportError, before anything is measured, for a searcher that needs more than is installed.
    """
    searcher, path = searcher or Reinforce(), path or CorrectNet()
    searcher.check()
    if path.WHY_NOT_TRAINED is not None:
        raise ValueError(f"there is nothing to place: {path.WHY_NOT_TRAINED}")
    widths = sizes_of(path, widths)
    budget = budget if isinstance(budget, Budget) else Budget.read(str(budget))
    source = Source(validation)
    measuring = Measuring(model, batches, source, path, training, chips, seed)
    ledger = Ledger(None if out is None else Path(out) / "answers", f"{source.key()} {seed}")
    original, curve = _grown(model, source, chips, seed, ledger)
    tell(f"without errors {100 * original:.2f} %; with errors from " + told(curve))
    x = next(source())[0][:1]
    space = space_of(
        model, x, curve, original, path=path, widths=widths, budget=budget, keep=keep, at=at, technology=technology
    )
    if reason := searcher.refuses(space):
        raise ValueError(reason)
    names = ", ".join(one.layer for one in space.candidates)
    tell(f"{space.size} placements beside {names}, widths {', '.join(f'{w:g}' for w in widths)}")
    file = None if out is None else Path(out) / f"{measuring.key(source.key())}.jsonl"
    trials = search(space, measuring, searcher, file, lambda one: tell(line(one)))
    best = trials.best
    return Placed(
        space=space,
        searcher=searcher.model_dump(),
        tried=tuple(trials.tried.values()),
        best=best,
        method=Compensate(path=path, at=best.at) if best.at else None,
    )


def search(
    space: Space,
    measure: Callable[[dict[str, float]], Sequence[float]],
    searcher: AnySearcher,
    file: Path | None = None,
    tell: Callable[[Tried], None] = lambda tried: None,
) -> Trials:
    """What a searcher tries in a space, until its evaluations are used up or it is done; errors as of ``place``."""
    searcher.check()
    trials = Trials(space, measure, file, searcher.evaluations, tell)
    with suppress(Spent):
        searcher.search(trials)
    return trials


@torch.no_grad()
def _grown(model: nn.Module, source: Source, chips: int, seed: int, ledger: Ledger) -> tuple[float, dict[str, float]]:
    """The accuracy without errors, and with errors from each layer onward."""
    original = float(without_errors(model, source()).double().mean())
    found = injected_from(model, source, chips, lot(seed), ledger)
    return original, {name: float(right.double().mean()) for name, right in found.items()}


def sizes_of(path: AnyPath, widths: Sequence[float] | None = None) -> tuple[float, ...]:
    """Widths, ranks or shares in order, each once; those usual for the kind where none are given. Raises ValueError for
    none, and for one the kind cannot have."""
    widths = path.SIZES if widths is None else widths
    found = tuple(sorted({float(one) for one in widths} - {0.0}))
    if not found:
        raise ValueError(f"widths = {list(widths)}: one or more above 0 are expected; none is always a choice")
    for one in found:
        path.sized(one)
    return found


def told(curve: dict[str, float]) -> str:
    """A curve of accuracies in words."""
    return ", ".join(f"{name} {100 * value:.2f}" for name, value in curve.items())


def line(one: Tried) -> str:
    """A placement that was tried, in a line."""
    where = ", ".join(f"{name} {width:g}" for name, width in one.at.items()) or "no side path"
    beyond = "" if one.within else ", beyond the budget"
    return f"{where}: {one.mean:.2f} ± {one.std:.2f} %, reward {one.reward:.4f}{beyond}"
