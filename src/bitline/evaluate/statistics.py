"""Accuracy over chips and images: means, intervals, percentiles, yield; paired differences.

The unit is a matrix ``right`` (chips, images) of 0 and 1. Chips and images are both samples of larger populations, so
both are resampled: a two-way bootstrap. Its mean over resampled rows and columns is a bilinear form in the counts, so
thousands of replicates are two matrix products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitline import draws
from bitline.evaluate.result import Difference, Row

REPLICATES = 2000
AT_ONCE = 100  # replicates in memory
FEWEST_FOR_PERCENTILE = 20


def accuracies(right: Tensor) -> tuple[float, ...]:
    """Accuracy of each chip, %."""
    return tuple(round(float(a), 4) for a in right.double().mean(1) * 100)


def interval(value: Tensor, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of ``value`` (chips, images), in its own unit."""
    return percentiles(means(value, seed))


def means(value: Tensor, seed: int = 0, replicates: int = REPLICATES) -> Tensor:
    """Means of ``value`` (chips, images) over resampled chips and images, (replicates,) float64."""
    chips, images = value.shape
    return torch.cat(
        [
            (_resampled(chips, seed, "chips", part) @ value.double() * _resampled(images, seed, "images", part)).sum(1)
            for part in torch.arange(replicates).split(AT_ONCE)
        ]
    ) / (chips * images)


def percentiles(value: Tensor) -> tuple[float, float]:
    """2.5th and 97.5th percentile."""
    low, high = torch.quantile(value, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return round(low, 4), round(high, 4)


def _resampled(n: int, seed: int, axis: str, replicates: Tensor) -> Tensor:
    """How often each of ``n`` was drawn in these replicates, (replicates, n) float64; a single one is kept."""
    if n == 1:
        return torch.ones(len(replicates), 1, dtype=torch.float64)
    counter = replicates[:, None] * n + torch.arange(n)
    drawn = (draws.uniform(draws.key("bootstrap", axis, seed, n), counter) * n).long()
    one = torch.ones((), dtype=torch.float64)
    return torch.zeros(counter.shape, dtype=torch.float64).scatter_add_(1, drawn, one.expand(drawn.shape))


def row(
    right: Tensor,
    method: str,
    macro: str,
    *,
    target: float | None = None,
    condition: str = "nominal",
    steps: int | None = None,
    seed: int = 0,
) -> Row:
    """The summary of one network on one macro; ``right`` (chips, images) holds 0 and 1."""
    per_chip = accuracies(right)
    chips, images = right.shape
    percentile = None
    if chips >= FEWEST_FOR_PERCENTILE:
        percentile = round(float(torch.quantile(torch.tensor(per_chip, dtype=torch.float64), 0.05)), 4)
    good = None if target is None else round(100 * sum(a >= target for a in per_chip) / chips, 4)
    return Row(
        method=method,
        macro=macro,
        mean=round(float(right.double().mean()) * 100, 4),
        ci95=interval(right.double() * 100, seed),
        p5=percentile,
        worst=min(per_chip),
        chips=chips,
        images=images,
        per_chip=per_chip,
        target=target,
        yield_=good,
        condition=condition,
        steps=steps,
    )


def difference(of: Tensor, against: Tensor, names: tuple[str, str], seed: int = 0) -> Difference:
    """``of`` − ``against`` on the same chips, images and reads, in points; one chip (an ideal macro) meets all.

    Raises ValueError where they did not meet the same images, or different numbers of chips.
    """
    if of.shape[1] != against.shape[1]:
        raise ValueError(f"{names[0]} saw {of.shape[1]} images and {names[1]} {against.shape[1]}: not paired")
    if of.shape[0] != against.shape[0] and 1 not in (of.shape[0], against.shape[0]):
        raise ValueError(f"{names[0]} saw {of.shape[0]} chips and {names[1]} {against.shape[0]}: not paired")
    delta = (of.double() - against.double()) * 100
    return Difference(of=names[0], against=names[1], mean=round(float(delta.mean()), 4), ci95=interval(delta, seed))
