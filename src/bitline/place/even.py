"""Placements drawn evenly: each as likely as any other, of all or of those that keep the budget."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from bitline.place.space import Actions, Space

WHOLE = 4096  # placements of a space up to which all are listed
SOME = 1024  # draws of a larger one that are looked at together
UNITS = 4096  # that the budget is counted in
DRAWS = 100  # rounds of draws after which nothing more is found


class Even:
    """Draws from a space. What may follow is counted step by step, with costs rounded down so that nothing is missed;
    what then exceeds the budget is drawn again. A budget that one placement in millions keeps takes no longer."""

    def __init__(self, space: Space, within: bool) -> None:
        self.space, self.within = space, within
        taken = space.costs / space.budget.share * UNITS * (1 - 1e-9)
        self.taken = taken.clamp(max=UNITS + 1).long() if within else torch.zeros_like(taken).long()  # (L, A)
        self.ways = [torch.ones(UNITS + 1, dtype=torch.float64)]  # of going on, by what is left; the last step first
        for row in self.taken.flip(0):
            left = torch.arange(UNITS + 1)[:, None] - row
            self.ways.append((self.ways[-1][left.clamp(min=0)] * (left >= 0)).sum(1))
            self.ways[-1] /= self.ways[-1].max()
        self.ways.reverse()

    def __call__(self, count: int, draw: torch.Generator) -> list[Actions]:
        """So many placements, some perhaps the same; fewer where the space hardly has any."""
        found: list[Actions] = []
        for _ in range(DRAWS):
            found += [one for one in self._walked(count, draw) if not self.within or self.space.within(one)]
            if len(found) >= count:
                break
        return found[:count]

    def all(self) -> list[Actions]:
        """Every placement, in order."""
        every = product(range(self.space.actions), repeat=len(self.space.candidates))
        return [one for one in every if not self.within or self.space.within(one)]

    def _walked(self, count: int, draw: torch.Generator) -> list[Actions]:
        left, steps = torch.full((count,), UNITS), list[Tensor]()
        for row, ways in zip(self.taken, self.ways[1:], strict=True):
            after = left[:, None] - row
            likely = ways[after.clamp(min=0)] * (after >= 0)
            steps.append(torch.multinomial(likely, 1, generator=draw)[:, 0])
            left = after.gather(1, steps[-1][:, None])[:, 0]
        return [tuple(one) for one in torch.stack(steps, 1).tolist()]
