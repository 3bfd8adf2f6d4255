"""Training: one loop, its configuration, its checkpoints and its log."""

from bitline.train.checkpoint import CheckpointError
from bitline.train.config import Adam, AdamW, Optimizer, Sgd, TrainConfig
from bitline.train.loop import History, NonFiniteLoss, constrain, train
from bitline.train.ranks import Ranks, joined, started
from bitline.train.recipes import DNAT, DNAT_BATCH, HASGD, HASGD_BATCH
from bitline.train.schedules import Constant, Cosine, OneCycle, Schedule, Step
from bitline.verbs import verb

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

verb(__name__)
