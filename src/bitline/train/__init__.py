"""Training: one loop, its configuration, its checkpoints and its log."""

from bitline.train.checkpoint import CheckpointError
from bitline.train.config import Adam, AdamW, Optimizer, Sgd, TrainConfig
from bitline.train.loop import History, NonFiniteLoss, train
from bitline.train.schedules import Constant, Cosine, OneCycle, Schedule, Step

__all__ = [
    "Adam",
    "AdamW",
    "CheckpointError",
    "Constant",
    "Cosine",
    "History",
    "NonFiniteLoss",
    "OneCycle",
    "Optimizer",
    "Schedule",
    "Sgd",
    "Step",
    "TrainConfig",
    "train",
]
