"""Which of the settings screened are tested: spread along the front, beside those with the same bits everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from bitline.evaluate import Row
from bitline.evaluate.result import By
from bitline.search.found import Candidate, law_of
from bitline.search.fronts import front, spread
from bitline.search.setting import Settings
from bitline.search.space import Space


@dataclass(frozen=True)
class Goal:
    """An accuracy to hold at the least energy: itself, or points below the baseline's."""

    hold: float | None = None  # %
    lose: float | None = None  # points
    law: str | None = None  # absent: the first
    by: By = "mean"

    def __post_init__(self) -> None:
        if self.hold is not None and self.lose is not None:
            raise ValueError(f"hold = {self.hold:g} and lose = {self.lose:g} both given: one of them is the goal")
        if self.hold is not None and not 0 <= self.hold <= 100:
            raise ValueError(f"hold = {self.hold:g}: accuracies are in percent, 0 … 100")
        if self.hold is not None and 0 < self.hold <= 1:
            raise ValueError(f"hold = {self.hold:g}: accuracies are in percent: did you mean {100 * self.hold:g}?")
        if self.lose is not None and self.lose < 0:
            raise ValueError(f"lose = {self.lose:g}: points below the baseline, 0 or more, are expected")

    def at_least(self, baseline: float) -> float | None:
        """The accuracy, %; None where there is no goal."""
        return self.hold if self.lose is None else baseline - self.lose


NO_GOAL = Goal()


def tested(
    screened: Sequence[Candidate],
    laws: Sequence[str],
    space: Space,
    goal: Goal,
    test: Callable[[Settings, str], Row],
) -> tuple[Candidate, ...]:
    """The candidates, first the baseline; it and the finals with their tests: settings with the same bits everywhere,
    for each of them the most accurate of those cheaper, as screened, and others along the front.

    Then, where there is a goal, as many as ``space.refined`` between the cheapest that reaches it and the dearest of
    those cheaper that do not.
    """
    found = {one.name: one for one in screened}

    def take(one: Candidate) -> None:
        found[one.name] = one.model_copy(update={"tested": test(one.settings, one.name)})

    own = screened[0]
    take(own)
    floor = own.screened.mean - space.window
    near = [one for one in screened[1:] if one.screened.mean >= floor]
    same, mixed = ([one for one in near if one.same is kind] for kind in (True, False))
    costs = [lambda one, law=law: getattr(one, space.price)[law] for law in laws]
    fronts = [(_front(same, cost), _front(mixed, cost)) for cost in costs]
    evenly = [[plain[i] for i in spread(len(plain), space.finals)] for plain, _ in fronts]
    uniform = _taking_turns(evenly)[: space.finals]
    rivals = [_rival(one, mixed, costs) for one in ([own] if own.same else []) + uniform]
    others = [[other[i] for i in spread(len(other), space.finals)] for _, other in fronts]
    wanted = (*uniform, *filter(None, rivals), *_taking_turns(others)[: space.finals])
    for one in {each.name: each for each in wanted}.values():
        take(one)
    cost = costs[laws.index(law_of(laws, goal.law))]
    if (at_least := goal.at_least(found[own.name].accuracy("tested", goal.by))) is not None:
        line = _front(near, cost)
        for _ in range(space.refined):
            if (middle := _between([found[each.name] for each in line], at_least, goal.by)) is None:
                break
            take(middle)
    return tuple(found.values())


def _front(some: Sequence[Candidate], cost: Callable[[Candidate], float]) -> list[Candidate]:
    return [some[i] for i in front([(cost(one), -one.screened.mean) for one in some])]


def _rival(
    one: Candidate, others: Sequence[Candidate], costs: Sequence[Callable[[Candidate], float]]
) -> Candidate | None:
    """The most accurate of those that cost less, whatever is counted; None where none does."""
    cheaper = [other for other in others if all(cost(other) < cost(one) for cost in costs)]
    return max(cheaper, key=lambda other: other.screened.mean, default=None)


def _taking_turns(lists: Sequence[Iterable[Candidate]]) -> list[Candidate]:
    """The first of each list, then the second of each; each candidate once."""
    found = {one.name: one for some in zip_longest(*lists) for one in some if one is not None}
    return list(found.values())


def _between(line: Sequence[Candidate], at_least: float, by: By) -> Candidate | None:
    """The one in the middle of those not tested below the cheapest that holds the accuracy, down to one that fails.

    ``line``: cheapest first, of rising accuracy as screened.
    """
    holds = [i for i, one in enumerate(line) if one.tested is not None and one.accuracy("tested", by) >= at_least]
    top = holds[0] if holds else len(line)
    fails = [i for i, one in enumerate(line[:top]) if one.tested is not None]
    left = [one for one in line[(fails[-1] + 1 if fails else 0) : top] if one.tested is None]
    return left[len(left) // 2] if left else None
