"""REINFORCE with a recurrent policy, in plain torch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from bitline.place.even import SOME, WHOLE, Even
from bitline.place.searchers.policy import Policy, steps_of
from bitline.place.searchers.searcher import Searcher
from bitline.place.space import Actions
from bitline.place.trials import Trials


class Reinforce(Searcher):
    """∇ = (R − b) ∇ log π(s_1 … s_L), b ← 0.9 b + 0.1 R (Williams, Machine Learning 8, 1992), the policy of S3 as
    reconstructed: a GRU that decides layer after layer.

    Each evaluation is of a placement not tried before. After it the policy learns from all tried so far, the network
    without side paths first, ``replays`` times: R − b in standard deviations of R, b without the bias of its start, and
    a placement weighted by how likely it is now against how likely it was at first, at most 1 (truncated importance
    weights). It ends with the evaluations, or after ``episodes``.
    """

    kind: Literal["reinforce"] = "reinforce"
    episodes: int = Field(default=500, ge=1, description="most that are played")
    within: bool = Field(default=True, description="only placements that keep the budget: costs are known beforehand")
    hidden: int = Field(default=32, ge=1, description="of the GRU")
    lr: float = Field(default=0.01, gt=0, description="of Adam")
    replays: int = Field(default=4, ge=1, description="steps of Adam after an evaluation, on all that was tried")
    decay: float = Field(default=0.9, ge=0, lt=1, description="of the baseline b")

    def search(self, trials: Trials) -> None:
        space, draw, even = trials.space, torch.Generator().manual_seed(self.seed), Even(trials.space, self.within)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            policy = Policy(space, self.hidden)
        optimizer = torch.optim.Adam(policy.parameters(), lr=self.lr)
        pool = list[Actions]()
        for _ in range(self.episodes):
            if not pool or space.size > WHOLE:
                pool = even.all() if space.size <= WHOLE else even(SOME, draw)
            new = torch.tensor([one not in trials.tried for one in pool])
            if trials.spent or not new.any():
                return
            with torch.no_grad():
                chance = policy(steps_of(space, pool)).masked_fill(~new, -torch.inf).softmax(0)
            trials(pool[int(torch.multinomial(chance, 1, generator=draw))])
            steps, gains, count = steps_of(space, [*pool, *trials.tried]), self._gains(trials), len(pool)
            for _ in range(self.replays):
                scores = policy(steps)
                likelier = scores[count:] - scores[:count].logsumexp(0) + math.log(count)  # than at first, a logarithm
                loss = -(likelier.detach().exp().clamp(max=1) * gains * likelier).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def _gains(self, trials: Trials) -> Tensor:
        """R − b of all that was tried, in standard deviations."""
        found = torch.tensor([one.reward for one in trials.tried.values()], dtype=torch.float64)
        weights = self.decay ** torch.arange(len(found) - 1, -1, -1, dtype=torch.float64)
        baseline = (weights * found).sum() / weights.sum()
        return ((found - baseline) / found.std(correction=0).clamp(min=1e-6)).float()
