"""The search for a placement as an environment of Gymnasium, for agents of other libraries."""

from __future__ import annotations

from typing import Any, SupportsInt

import numpy as np
from numpy.typing import NDArray

from bitline.place.episode import Episode
from bitline.place.trials import Trials

try:
    import gymnasium
except ImportError:
    raise ImportError(
        "the environment of a placement needs gymnasium, and ppo stable-baselines3: pip install 'bitline[rl]'"
    ) from None

Seen = NDArray[np.float32]


class PlacementEnv(gymnasium.Env[Seen, SupportsInt]):
    """An episode is a placement, a step a candidate: the action is the number of its width, 0 for no side path. Rewards
    are 0 but for the last, R. Observations: ``Space.observe``. ``info`` of the last step holds ``at`` and ``mean``.

    Where all evaluations are used up, a new placement raises ``Spent``.
    """

    def __init__(self, trials: Trials) -> None:
        self.trials = trials
        self.action_space = gymnasium.spaces.Discrete(trials.space.actions)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (trials.space.observed,), np.float32)
        self.episode = Episode(trials)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Seen, dict[str, Any]]:
        """Begin another placement."""
        super().reset(seed=seed)
        self.episode = Episode(self.trials)
        return self._seen(), {}

    def step(self, action: SupportsInt) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """Choose for the next candidate."""
        found = self.episode.act(int(action))
        if found is None:
            return self._seen(), 0.0, False, False, {}
        return self._seen(), found.reward, True, False, {"at": found.at, "mean": found.mean}

    def _seen(self) -> Seen:
        return self.episode.observation.numpy()
