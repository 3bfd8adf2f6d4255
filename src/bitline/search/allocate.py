"""The search: what each layer is sensitive to, many settings on a surrogate, the best ones measured, a few tested."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn

from bitline.cost import DEFAULT, Technology
from bitline.evaluate import Few, Ledger, Row, row
from bitline.evaluate.simple import Source
from bitline.nn import CimLayer, converted_layers
from bitline.search.finals import NO_GOAL, Goal, tested
from bitline.search.found import Searched, law_of
from bitline.search.options import options, possible
from bitline.search.rounds import Single, Walk
from bitline.search.screen import Screen, placed
from bitline.search.setting import Setting, Settings
from bitline.search.space import Space
from bitline.search.trials import optuna

Train = Callable[[dict[str, Setting]], nn.Module]
"""From settings to a network on them, trained."""


def search(
    model: nn.Module,
    data: Iterable[Any],
    test: Iterable[Any],
    space: Space,
    *,
    chips: int = 20,
    target: float | None = None,
    seed: int = 0,
    calibration_batches: int = 8,
    technology: Technology | str | Path = DEFAULT,
    trained: Train | None = None,
    goal: Goal = NO_GOAL,
    how: str | None = None,
    out: Path | str | None = None,
    title: str = "Search",
    tell: Callable[[str], None] = lambda line: None,
) -> Searched:
    """Settings of each layer on the front of accuracy over chips against energy.

    ``model``: on its macros, calibrated and, best, trained on them: their bits are the baseline. ``data``: batches (x,
    y) to fit ranges with and, as far as ``space.images``, to screen settings on; ``test``: those the finals are tested
    on, on ``chips`` dies, and one of them chosen by: quote it on others. ``trained``: gives the network of a final's
    settings; absent: the model, moved to them, its ranges fitted. ``goal``: also settings next to an accuracy to hold.
    ``technology``: whose ADC laws count. With ``out``, what was measured is kept there and an interrupted search goes
    on. Raises ImportError without Optuna, and ValueError where the model or its macros do not fit.
    """
    optuna()
    converted_layers(model)
    images, seen = Source(data), Source(test)
    sample = next(iter(images()))[0][:1]
    device = next(model.parameters()).device
    technology = Technology.load(technology)
    priced = options(model, sample.to(device), space, technology)
    for place, reason in priced.skipped.items():
        tell(f"left out: {place}: {reason}")
    folder = None if out is None else Path(out)
    law_of(priced.laws, goal.law)
    walk = Walk(
        space,
        priced,
        Screen(
            model,
            Few(images, space.images),
            [batch[0] for batch in islice(images(), calibration_batches)],
            space.chips,
            seed,
            None if folder is None else folder / "screened.jsonl",
            f"{images.key()} {space.images} {calibration_batches}",
        ),
        seed,
        tell,
    )
    walk({name: tuple(_alone(layer, space, technology)) for name, layer in converted_layers(model).items()})
    ledger = Ledger(None if folder is None else folder / "answers", f"{seed} {seen.key()}")

    def test_of(settings: Settings, name: str) -> Row:
        macros = priced.macros(settings)
        network = placed(model, macros, walk.screen.calibration) if trained is None else trained(dict(settings))
        right = ledger.over_chips(network, "search", seen, chips, seed)
        found = row(right, name, "its own", target=target, seed=seed)
        tell(f"{name}: {found.told}")
        return found

    return Searched(
        title=title,
        how=how or ("trained for each setting" if trained else "not trained for its setting, ranges fitted"),
        space=space,
        laws=priced.laws,
        candidates=tested(walk.candidates(), priced.laws, space, goal, test_of),
        rises=walk.told,
        surrogate=walk.surrogate,
        skipped=priced.skipped,
        facts={"seed": str(seed)},
    )


def _alone(layer: CimLayer, space: Space, technology: Technology) -> Iterator[Single]:
    """The choices that a layer can have beside what it has of all others."""
    own = Setting.of(layer.design, space.knobs)
    for knob, value, setting in space.singles(own):
        with suppress(ValueError):
            yield Single(knob, value, setting, possible(layer, setting, technology))
