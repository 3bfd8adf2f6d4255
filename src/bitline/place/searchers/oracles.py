"""Searchers that learn nothing: what an agent has to beat, and what it cannot."""

from __future__ import annotations

from itertools import product
from typing import Literal

import torch
from pydantic import Field

from bitline.place.even import SOME, WHOLE, Even
from bitline.place.searchers.searcher import Searcher
from bitline.place.space import Actions, Space
from bitline.place.trials import Trials

IDLE = 20  # rounds of known placements after which there is nothing left to find


class Random(Searcher):
    """Placements at random, each once."""

    kind: Literal["random"] = "random"
    within: bool = Field(default=False, description="only those that keep the budget: costs are known beforehand")

    def search(self, trials: Trials) -> None:
        space, draw = trials.space, torch.Generator().manual_seed(self.seed)
        even = Even(space, self.within)
        if space.size <= WHOLE:
            pool = even.all()
            for place in torch.randperm(len(pool), generator=draw).tolist():
                trials(pool[place])
            return
        idle = 0  # rounds since the last that was new
        while idle < IDLE and not trials.spent:
            new = [one for one in even(SOME, draw) if one not in trials.tried]
            idle = 0 if new else idle + 1
            for one in new:
                trials(one)


class Greedy(Searcher):
    """From no side path on, again and again the one more that raises the reward most, until none does. Those beyond the
    budget are not tried."""

    kind: Literal["greedy"] = "greedy"
    evaluations: int | None = None

    def search(self, trials: Trials) -> None:
        space = trials.space
        best: Actions = (0,) * len(space.candidates)
        while True:
            more = [
                (*best[:i], action, *best[i + 1 :])
                for i, there in enumerate(best)
                if not there
                for action in range(1, space.actions)
            ]
            tried = [one for one in more if space.within(one)]
            if not tried or trials(first := max(tried, key=lambda a: trials(a).reward)).reward <= trials(best).reward:
                return
            best = first


class Exhaustive(Searcher):
    """Every placement: the maximum, for spaces of up to ``most``."""

    kind: Literal["exhaustive"] = "exhaustive"
    evaluations: int | None = None
    most: int = Field(default=256, ge=1, description="placements; a larger space is refused")

    def refuses(self, space: Space) -> str | None:
        if space.size > self.most:
            return (
                f"{space.size} placements of {len(space.candidates)} layers and {len(space.widths)} widths, exhaustive "
                f"tries up to {self.most}: fewer layers (at) or widths, a larger `most`, or another searcher"
            )
        return None

    def search(self, trials: Trials) -> None:
        for actions in product(range(trials.space.actions), repeat=len(trials.space.candidates)):
            trials(actions)
