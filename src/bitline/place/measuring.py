"""How a placement is measured: its side paths trained a little on fresh chips, then tested on a few others."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from bitline import draws
from bitline.compensate import AnyPath
from bitline.evaluate import fingerprint, over_chips
from bitline.evaluate.montecarlo import Batch
from bitline.methods import Compensate
from bitline.methods.protocol import Batches
from bitline.train import TrainConfig, train


def lot(seed: int) -> int:
    """The seed of the dies that placements are chosen on: no network is tested on them afterwards."""
    return draws.key("placement", seed)


@dataclass(frozen=True)
class Measuring:
    """A placement's accuracies, one a chip. The model is not changed."""

    model: nn.Module
    batches: Batches
    source: Callable[[], Iterable[Batch]]
    path: AnyPath
    training: TrainConfig
    chips: int
    seed: int

    def __call__(self, at: dict[str, float]) -> list[float]:
        """Accuracies, 0 … 1, in the order of the chips."""
        model = copy.deepcopy(self.model)
        if at:
            method = Compensate(path=self.path, at=at, seed=self.seed)
            config = self.training.model_copy(update={"seed": self.seed})
            train(model, self.batches, config=config, method=method, progress=False)
        trials = over_chips(model, self.source, self.chips, lot(self.seed))
        return [float(trial.right.double().mean()) for trial in trials]

    def key(self, data: str) -> str:
        """A hash of everything that sets the accuracies; ``data``: what the images are."""
        index = next(iter(self.batches(0)))[2]
        more = [data, index.tolist(), self.path.model_dump(), self.training.model_dump(), self.chips, self.seed]
        return fingerprint(self.model, json.dumps(more), "placement")
