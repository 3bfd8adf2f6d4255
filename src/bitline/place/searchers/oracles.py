"""Searchers that learn nothing: what an agent has to beat, and what it cannot."""

from __future__ import annotations

from itertools import product
from typing import Literal

import torch
from pydantic import Field

from bitline.place.searchers.searcher import Searcher
from bitline.place.space import Actions, Space
from bitline.place.trials import Trials

IDLE = 20_000  # draws in a row that are known, or beyond the budget, after which there is nothing left to find


class Random(Searcher):
    """Placements at random, each once."""

    kind: Literal["random"] = "random"
    within: bool = Field(default=False, description="only those that keep the budget: costs are known beforehand")

    def search(self, trials: Trials) -> None:
        space, draw = trials.space, torch.Generator().manual_seed(self.seed)
        seen: set[Actions] = set()
        idle = 0  # draws since the last that was new
        while len(seen) < space.size and idle < IDLE and not trials.spent:
            drawn = tuple(torch.randint(space.actions, (len(space.candidates),), generator=draw).tolist())
            idle += 1
            if drawn not in seen and (space.within(drawn) or not self.within):
                trials(drawn)
                idle = 0
            seen.add(drawn)


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
