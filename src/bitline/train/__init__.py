"""Training: one loop, its configuration, its checkpoints and its log."""

import sys
from types import ModuleType
from typing import Any

from bitline.train.checkpoint import CheckpointError
from bitline.train.config import Adam, AdamW, Optimizer, Sgd, TrainConfig
from bitline.train.loop import History, NonFiniteLoss, constrain, train
from bitline.train.ranks import Ranks, joined, started
from bitline.train.recipes import DNAT, DNAT_BATCH, HASGD, HASGD_BATCH
from bitline.train.schedules import Constant, Cosine, OneCycle, Schedule, Step

__all__ = [
    "DNAT",
    "DNAT_BATCH",
    "HASGD",
    "HASGD_BATCH",
    "Adam",
    "AdamW",
    "CheckpointError",
    "Constant",
    "Cosine",
    "History",
    "NonFiniteLoss",
    "OneCycle",
    "Optimizer",
    "Ranks",
    "Schedule",
    "Sgd",
    "Step",
    "TrainConfig",
    "constrain",
    "joined",
    "started",
    "train",
]


class _Callable(ModuleType):
    """``bl.train`` is this package and the verb: importing a package binds its name in ``bitline``."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.train(*arguments, **named)


sys.modules[__name__].__class__ = _Callable
