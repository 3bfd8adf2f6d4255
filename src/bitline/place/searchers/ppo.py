"""PPO of Stable-Baselines3 on the environment."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from pydantic import Field

from bitline.place.searchers.searcher import Searcher
from bitline.place.trials import Trials
from bitline.train.batches import kept_random_state


class Ppo(Searcher):
    """Proximal policy optimisation (Schulman et al., arXiv 1707.06347) with a feed-forward policy: what an observation
    leaves out of earlier actions is how much of the budget they use. Needs ``bitline[rl]``."""

    kind: Literal["ppo"] = "ppo"
    episodes: int = Field(default=500, ge=1, description="most that are played")
    lr: float = Field(default=3e-3, gt=0, description="of Adam")
    batch: int = Field(default=8, ge=1, description="episodes between two updates")
    entropy: float = Field(default=0.01, ge=0, description="weight of the policy's entropy")

    def missing(self) -> str | None:
        absent = [name for name in ("gymnasium", "stable_baselines3") if find_spec(name) is None]
        return f"ppo needs {' and '.join(absent).replace('_', '-')}: pip install 'bitline[rl]'" if absent else None

    def search(self, trials: Trials) -> None:
        from stable_baselines3 import PPO

        from bitline.place.environment import PlacementEnv

        steps = len(trials.space.candidates)
        with kept_random_state():
            agent = PPO(
                "MlpPolicy",
                PlacementEnv(trials),
                learning_rate=self.lr,
                n_steps=max(2, steps * self.batch),
                batch_size=max(2, steps * self.batch),
                gamma=1.0,
                ent_coef=self.entropy,
                seed=self.seed,
                device="cpu",
            )
            agent.learn(steps * self.episodes)
