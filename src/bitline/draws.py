"""Random numbers that are functions, not streams.

Every draw is addressed: ``word(key, counter)`` is the SplitMix64 output number ``counter`` of the stream ``key``
(Steele, Lea, Flood, OOPSLA 2014; passes BigCrush). The key names the effect (seed, chip, layer, …) and the counter the
place (a physical address, a position in a feature map), so that a draw depends on neither batch size, thread count,
order, device nor on what was drawn before. Nothing here keeps state.

Two normal generators: ``normal`` for frozen errors (53-bit inverse CDF, float64), and ``read_normals`` for fresh
noise, four a word from a table of 65 536 quantiles: exact zero mean and unit variance, correct tails to 4.17 σ.
"""

from __future__ import annotations

import hashlib
from functools import cache

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def key(*parts: object) -> int:
    """A 64-bit signed key from names and integers: blake2 of their text, the same in every process."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def scramble_(z: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place on int64."""
    z ^= (z >> 30).bitwise_and_(0x3FFFFFFFF)
    z *= _FIRST
    z ^= (z >> 27).bitwise_and_(0x1FFFFFFFFF)
    z *= _SECOND
    z ^= (z >> 31).bitwise_and_(0x1FFFFFFFF)
    return z


def words(stream: int, counter: Tensor) -> Tensor:
    """64 random bits for each counter (int64, any shape)."""
    return scramble_((counter * GOLDEN).add_(stream))


def uniform(stream: int, counter: Tensor) -> Tensor:
    """Uniform float64 in the open interval (0, 1), 53 bits."""
    return (((words(stream, counter) >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53


def normal(stream: int, counter: Tensor) -> Tensor:
    """Standard normal float64 by the inverse CDF."""
    return torch.special.ndtri(uniform(stream, counter))


@cache
def normal_table(device: torch.device) -> Tensor:
    """65 536 normal quantiles at bin centres, scaled to unit variance, indexed by an int16 offset by 32 768."""
    quantiles = torch.special.ndtri((torch.arange(65536, dtype=torch.float64) + 0.5) / 65536)
    return (quantiles / quantiles.square().mean().sqrt()).float().to(device)


def read_normals(counters: Tensor) -> Tensor:
    """Standard normals (float32) from mixed-in counters (int64, consumed): four a word along the last axis."""
    lanes = scramble_(counters).view(torch.int16).to(torch.int32).add_(32768)
    return normal_table(counters.device).index_select(0, lanes.view(-1)).view(lanes.shape)


def sample_normals(keys: Tensor, shape: torch.Size) -> Tensor:
    """Standard normals (float32) of ``shape``: those of sample i from key i (int64, (B,)) and the place in it."""
    places = shape[1:].numel()
    lanes = torch.arange((places + 3) // 4, device=keys.device).mul_(GOLDEN)
    return read_normals(lanes + keys[:, None])[:, :places].view(shape)


def read_uniforms(counters: Tensor) -> Tensor:
    """Uniform float32 multiples of 2^-24 in [0, 1) from mixed-in counters (int64, consumed): two a word."""
    lanes = scramble_(counters).view(torch.int32)
    return ((lanes >> 8) & 0xFFFFFF).float().mul_(2.0**-24)
