"""The recurrent policy of placements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitline.place.space import Actions, Space


@dataclass(frozen=True)
class Step:
    """A candidate in many placements at once. What comes before it, a beginning, is walked once where some share it."""

    seen: Float[Tensor, "N D"]  # after each beginning
    before: Int[Tensor, " N"]  # the number of the beginning that is one candidate shorter
    rows: Int[Tensor, " M"]  # the number of each placement's beginning
    actions: Int[Tensor, " M"]


def steps_of(space: Space, placements: Sequence[Actions]) -> list[Step]:
    """Placements, whole ones, as steps."""
    whole = torch.tensor(placements)
    rows, steps = torch.zeros(len(whole), dtype=torch.long), list[Step]()
    for i, actions in enumerate(whole.T):
        shorter, begun = rows, whole[:1, :0]
        if i:
            begun, rows = whole[:, :i].unique(dim=0, return_inverse=True)
        before = torch.zeros(len(begun), dtype=torch.long)
        before[rows] = shorter
        steps.append(Step(space.observe_all(begun), before, rows, actions))
    return steps


class Policy(nn.Module):
    """π(s_1 … s_L) ∝ exp Σ f(s_l | s_1 … s_{l−1}): a GRU sees the action before and the layer, and scores each action;
    to this adds what the action scores at the layer whatever came before.

    Scores are normalised over whole placements, not step by step: an action is as likely as all that may follow it
    taken together. Untrained, all placements are as likely; an early layer knows what its width leaves to later ones.
    """

    def __init__(self, space: Space, hidden: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(space.observed, hidden)
        self.head = nn.Linear(hidden, space.actions, bias=False)
        nn.init.zeros_(self.head.weight)
        self.layers = nn.Parameter(torch.zeros(len(space.candidates), space.actions))

    def forward(self, steps: Sequence[Step]) -> Tensor:
        """log π of placements, up to what all have in common, (M,)."""
        state, total = None, torch.zeros(len(steps[0].rows))
        for step, alone in zip(steps, self.layers, strict=True):
            state = self.cell(step.seen, None if state is None else state[step.before])
            total = total + (self.head(state) + alone)[step.rows, step.actions]
        return total
