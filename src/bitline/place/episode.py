"""One placement made step by step: a candidate's width each step, the reward after the last."""

from __future__ import annotations

import torch
from torch import Tensor

from bitline.place.result import Tried
from bitline.place.space import Actions
from bitline.place.trials import Trials


class Episode:
    """A walk over the candidates of a search's space."""

    def __init__(self, trials: Trials) -> None:
        self.trials = trials
        self.actions: Actions = ()

    @property
    def done(self) -> bool:
        """Whether every candidate has its action."""
        return len(self.actions) == len(self.trials.space.candidates)

    @property
    def observation(self) -> Tensor:
        """What is seen before the next action, (``space.observed``,)."""
        return self.trials.space.observe(self.actions)

    @property
    def allowed(self) -> Tensor:
        """Actions that do not exceed the budget with what was chosen before, (A,) bool; 0 is one of them."""
        space = self.trials.space
        keeps = [space.within((*self.actions, action)) for action in range(space.actions)]
        return torch.tensor([True, *keeps[1:]])

    def act(self, action: int) -> Tried | None:
        """Choose for the next candidate; the placement's figures after the last one.

        Raises ValueError for an action that is not there, and after the last; Spent as of ``Trials``.
        """
        if self.done:
            raise ValueError("every candidate has its action: begin another episode")
        if not 0 <= action < self.trials.space.actions:
            raise ValueError(f"action {action}: 0 … {self.trials.space.actions - 1} are expected")
        self.actions = (*self.actions, int(action))
        return self.trials(self.actions) if self.done else None
