"""The grid of codes a quantizer rounds to, and what it remembers of the data it is calibrated on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Role = Literal["inputs", "weights"]
Codes = tuple[Tensor, Tensor, Tensor]
"""``(q, scale, zero)``: codes in the shape of x, a scale and a zero point that broadcast against it."""

SAMPLE = 1 << 16  # values kept per tensor at calibration
CHANNEL_SAMPLE = 1 << 12  # values kept per output when there is a scale for each
SMALLEST_SCALE = 1e-12


@dataclass(frozen=True)
class Grid:
    """The codes ``low, low + step, …, high``; ``step = 2`` is a bipolar grid of odd codes.

    Raises ValueError for a range that does not hold zero between its ends or that the stride does not divide.
    """

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        if not self.low <= 0 < self.high:
            raise ValueError(f"codes {self.low}..{self.high}: low <= 0 < high is needed")
        if self.step not in (1, 2):
            raise ValueError(f"step {self.step}: 1 (every integer) or 2 (odd codes, bipolar) is accepted")
        if self.step == 2 and (self.low % 2 == 0 or self.high % 2 == 0):
            raise ValueError(f"codes {self.low}..{self.high} with step 2: a bipolar grid has odd ends, e.g. -7..7")

    def nearest(self, v: Tensor) -> Tensor:
        """The grid code nearest to v (half up), clipped to the ends. Same shape; no gradient of its own."""
        code = torch.floor(v + 0.5) if self.step == 1 else self.low + 2 * torch.floor((v - self.low) / 2 + 0.5)
        return code.clamp(self.low, self.high)

    def fit(self, low: Tensor, high: Tensor, asymmetric: bool) -> tuple[Tensor, Tensor]:
        """Scale and zero point that cover [low, high] (shape (C,), in units of x), zero included."""
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        if asymmetric:
            scale = (high - low) / (self.high - self.low)
        else:
            scale = high / self.high
            if self.low < 0:
                scale = torch.maximum(scale, low / self.low)
        scale = fill_dead(scale)
        zero = self.low + torch.floor(-low / scale + 0.5) if asymmetric else torch.zeros_like(scale)
        return scale, zero.clamp(self.low, self.high)


def fill_dead(scale: Tensor) -> Tensor:
    """A channel that is all zero takes the mean scale of the others (1 when there is no other)."""
    alive = scale > SMALLEST_SCALE
    spare = scale[alive].mean() if bool(alive.any()) else torch.ones((), dtype=scale.dtype, device=scale.device)
    return torch.where(alive, scale, spare)


def ste(value: Tensor, path: Tensor) -> Tensor:
    """``value`` bit for bit in the forward, the gradient of ``path`` in the backward."""
    return value.detach() + (path - path.detach()) if torch.is_grad_enabled() else value


class Statistics:
    """What was observed: exact extremes, mean magnitude and share of negatives, and a bounded sample of the values.

    The sample holds the values whose running index has the smallest hash, so it is uniform, deterministic, and the
    same whatever the batch size. Memory: C·max(4096, 65536 / C) values.
    """

    def __init__(self, channels: int, device: torch.device):
        self.channels = channels
        self.count = 0  # values per channel
        self.negative = 0  # values below zero, all channels
        self.low = torch.full((channels,), math.inf, device=device)
        self.high = torch.full((channels,), -math.inf, device=device)
        self.magnitude = torch.zeros(channels, dtype=torch.float64, device=device)  # Σ|x|
        self.sample = torch.zeros(channels, 0, device=device)
        self._hash = torch.zeros(0, dtype=torch.int64, device=device)
        self._size = max(CHANNEL_SAMPLE, SAMPLE // channels)

    def update(self, x: Tensor) -> None:
        """Add x, shape (C, n)."""
        n = x.shape[1]
        low, high = torch.aminmax(x, dim=1)
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.magnitude = self.magnitude + x.abs().sum(1, dtype=torch.float64)
        if bool((low < 0).any()):
            self.negative += int((x < 0).sum())
        hashed = _scatter(self.count, n, x.device)
        self.count += n
        # Of count uniform hashes, those below this limit number 1.1 sizes, give or take 1 %: enough, and quick to find.
        limit = int((1.1 * self._size / self.count - 0.5) * 2**64)
        if self.count > 2 * self._size:
            enters = (hashed < limit).nonzero()[:, 0]
            x, hashed = x[:, enters], hashed[enters]
        self._hash = torch.cat([self._hash, hashed])
        self.sample = torch.cat([self.sample, x], 1)
        if self._hash.numel() > self._size:
            self._hash, kept = torch.topk(self._hash, self._size, largest=False)
            self.sample = self.sample[:, kept]

    @property
    def share_negative(self) -> float:
        """Share of all observed values below zero, 0..1."""
        return self.negative / (self.count * self.channels)


def _scatter(start: int, n: int, device: torch.device) -> Tensor:
    """64-bit hashes, shape (n,), of the indices from start on: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    h = torch.arange(start, start + n, device=device).mul_(0x9E3779B97F4A7C15 - (1 << 64))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9 - (1 << 64)), (27, 0x94D049BB133111EB - (1 << 64))):
        h.bitwise_xor_((h >> shift).bitwise_and_((1 << (64 - shift)) - 1)).mul_(factor)
    return h.bitwise_xor_((h >> 31).bitwise_and_((1 << 33) - 1))
