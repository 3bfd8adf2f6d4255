"""REINFORCE with a recurrent policy, in plain torch."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bitline.place.episode import Episode
from bitline.place.searchers.searcher import Searcher
from bitline.place.trials import Trials

NEVER = -1e9  # a logit; finite, so that its gradient is


class Policy(nn.Module):
    """π(s_1 … s_L) = Π π(s_l | s_1 … s_{l−1}): a GRU sees the action before and the layer, and gives logits."""

    def __init__(self, observed: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(observed, hidden)
        self.head = nn.Linear(hidden, actions)
        nn.init.zeros_(self.head.weight)  # all placements are as likely as it begins
        nn.init.zeros_(self.head.bias)

    def forward(self, seen: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """(log-probabilities of actions, (1, A); the next state) from an observation, (1, D)."""
        state = self.cell(seen, state)
        return self.head(state).log_softmax(-1), state


class Reinforce(Searcher):
    """∇ = (R − b) ∇ log π(s_1 … s_L), b ← 0.9 b + 0.1 R (Williams, Machine Learning 8, 1992), the policy of S3 as
    reconstructed: a GRU that decides layer after layer.

    An episode that was met before costs no evaluation. It ends with the evaluations, or after ``episodes``.
    """

    kind: Literal["reinforce"] = "reinforce"
    episodes: int = Field(default=500, ge=1, description="most that are played")
    within: bool = Field(default=True, description="only placements that keep the budget: costs are known beforehand")
    hidden: int = Field(default=32, ge=1, description="of the GRU")
    lr: float = Field(default=0.02, gt=0, description="of Adam")
    decay: float = Field(default=0.9, ge=0, lt=1, description="of the baseline b")
    entropy: float = Field(default=0.03, ge=0, description="weight of the policy's entropy, in rewards a nat")

    def search(self, trials: Trials) -> None:
        space, draw = trials.space, torch.Generator().manual_seed(self.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            policy = Policy(space.observed, space.actions, self.hidden)
        optimizer = torch.optim.Adam(policy.parameters(), lr=self.lr)
        baseline = trials((0,) * len(space.candidates)).reward
        for _ in range(self.episodes):
            if trials.spent:
                return
            reward, chosen, unsure = self._play(policy, trials, draw)
            loss = -(reward - baseline) * chosen - self.entropy * unsure
            baseline = self.decay * baseline + (1 - self.decay) * reward
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def _play(self, policy: Policy, trials: Trials, draw: torch.Generator) -> tuple[float, Tensor, Tensor]:
        """(reward, log π of the placement, entropy of the policy on the way)."""
        episode, state, found = Episode(trials), None, None
        chosen = unsure = torch.zeros(())
        while found is None:
            logs, state = policy(episode.observation[None], state)
            if self.within:
                logs = logs.masked_fill(~episode.allowed, NEVER).log_softmax(-1)
            action = int(torch.multinomial(logs[0].detach().exp(), 1, generator=draw))
            chosen, unsure = chosen + logs[0, action], unsure - (logs.exp() * logs).sum()
            found = episode.act(action)
        return found.reward, chosen, unsure
