"""Optuna on the surrogate: many settings at nearly no cost, two things to minimise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from bitline.search.fronts import Point, front

MISSING = "a search needs Optuna, which is not installed: pip install 'bitline[search]'"


def optuna() -> Any:
    """The library; raises ImportError saying what to install."""
    try:
        import optuna as found
    except ImportError:
        raise ImportError(MISSING) from None
    return found


def tried(
    layers: Sequence[Sequence[Point]],
    start: Sequence[Sequence[int]],
    trials: int,
    sampler: Literal["nsga2", "tpe"],
    seed: int,
) -> list[tuple[int, ...]]:
    """Places in the layers' points whose sums of costs and of harms are on the front of all trials, cheapest first.

    ``start``: places to begin with, which count as trials.
    """
    library = optuna()
    samplers = library.samplers
    seed %= 2**32  # all that they take
    chosen: Any
    if sampler == "tpe":
        chosen = samplers.TPESampler(seed=seed, multivariate=True)
    else:
        chosen = samplers.NSGAIISampler(seed=seed, population_size=max(8, min(50, trials // 8)))
    found: dict[tuple[int, ...], Point] = {}

    def objective(trial: Any) -> Point:
        here = tuple(trial.suggest_int(str(i), 0, len(points) - 1) for i, points in enumerate(layers))
        found[here] = added(layers, here)
        return found[here]

    with _quiet(library):
        study = library.create_study(directions=["minimize", "minimize"], sampler=chosen)
        for place in start:
            study.enqueue_trial({str(i): at for i, at in enumerate(place)}, skip_if_exists=True)
        study.optimize(objective, n_trials=trials)
    places = list(found)
    return [places[i] for i in front([found[place] for place in places])]


def added(layers: Sequence[Sequence[Point]], place: Sequence[int]) -> Point:
    """Cost and harm of a place in all layers."""
    chosen = [points[at] for points, at in zip(layers, place, strict=True)]
    return sum(cost for cost, _ in chosen), sum(harm for _, harm in chosen)


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Optuna says nothing of its trials."""
    level = library.logging.get_verbosity()
    library.logging.set_verbosity(library.logging.WARNING)
    try:
        yield
    finally:
        library.logging.set_verbosity(level)
