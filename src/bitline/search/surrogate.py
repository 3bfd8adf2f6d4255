"""A cheap stand-in for a measurement: what each choice costs alone, added up, and calibrated on settings measured.

What is added are rises of the mean cross entropy, on the same chips and images: they are smoother than accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from bitline.configuration import Frozen
from bitline.search.setting import Setting, Settings

Rises = dict[str, dict[tuple[str, Any], float]]
"""By layer: the rise of the loss for each (knob, choice) alone; none for what the layer has anyway."""
FEWEST = 3  # settings that a line is fitted to
LEAST = 1e-6  # nats: a slope is not told from smaller rises


class Rise(Frozen):
    """What one choice for one layer alone does."""

    layer: str
    choice: str
    loss: float = Field(description="rise of the mean cross entropy, nats")
    accuracy: float = Field(description="points lost")


class Surrogate(Frozen):
    """Accuracy ≈ ``accuracy`` − ``slope`` · Σ rises, of all layers and choices."""

    accuracy: float = Field(description="where nothing rises, %")
    slope: float = Field(description="points a nat")
    settings: int = Field(description="measured, that it was calibrated on")
    residual: float | None = Field(description="of them, measured less told, points rms; null: too few")
    rank: float | None = Field(description="of them, Spearman's rank correlation; null: too few")

    def __call__(self, rise: float) -> float:
        """Accuracy, %."""
        return self.accuracy - self.slope * rise


def rise(rises: Rises, settings: Settings) -> float:
    """Rise of the loss for these settings, nats; infinite where a choice was not measured."""
    return sum(layer_rise(rises, layer, setting) for layer, setting in settings.items())


def layer_rise(rises: Rises, layer: str, setting: Setting) -> float:
    """What one layer adds."""
    found = rises[layer]
    return sum(found.get((knob, getattr(setting, knob)), math.inf) for knob in setting.knobs)


def fit(pairs: Sequence[tuple[float, float]], own: float, window: float) -> Surrogate:
    """The line through (rise, accuracy) of measured settings; ``own``: accuracy where nothing was changed.

    Settings more than ``window`` points below ``own`` are of no interest, and left out where enough others are there.
    """
    usable = [(rise, accuracy) for rise, accuracy in pairs if math.isfinite(rise)]
    near = [pair for pair in usable if pair[1] >= own - window]
    used = near if len(near) >= FEWEST else usable
    if not used:
        return Surrogate(accuracy=own, slope=0.0, settings=0, residual=None, rank=None)
    x, y = (torch.tensor([0.0, *column], dtype=torch.float64) for column in zip(*used, strict=True))
    y[0] = own
    spread = float((x - x.mean()).square().sum())
    slope = max(0.0, -float(((x - x.mean()) * (y - y.mean())).sum()) / spread) if spread > LEAST**2 else 0.0
    start = float(y.mean()) + slope * float(x.mean())
    enough = len(used) >= FEWEST
    left = (y - (start - slope * x))[1:]
    return Surrogate(
        accuracy=start,
        slope=slope,
        settings=len(used),
        residual=float(left.square().mean().sqrt()) if enough else None,
        rank=_rank(-x[1:], y[1:]) if enough else None,
    )


def _rank(a: torch.Tensor, b: torch.Tensor) -> float | None:
    """Spearman's rank correlation; ties share their mean rank; None where one does not vary."""
    ranks = []
    for values in (a, b):
        _, place, count = values.unique(return_inverse=True, return_counts=True)
        ranks.append((count.cumsum(0).double() - (count.double() - 1) / 2)[place])
    a, b = (one - one.mean() for one in ranks)
    size = float((a.square().sum() * b.square().sum()).sqrt())
    return float((a * b).sum()) / size if size else None
