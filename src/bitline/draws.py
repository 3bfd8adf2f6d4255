"""Random numbers that are functions, not streams.

Every draw is addressed: ``word(key, counter)`` is the SplitMix64 output number ``counter`` of the stream ``key``
(Steele, Lea, Flood, OOPSLA 2014; passes BigCrush). The key names the effect (seed, chip, layer, …) and the counter the
place (a physical address, a position in a feature map), so that a draw depends on neither batch size, thread count,
order, device nor on what was drawn before. Nothing here keeps state.

Two normal generators: ``normal`` for frozen errors (53-bit inverse CDF, float64), and ``read_normals`` for fresh
noise, 32 a word: signs from the word's bits, magnitudes from a table of 65 536 quantiles. Exactly symmetric, unit
variance, correct tails to 4.3 σ, and cheap enough to cost a kernel next to nothing (docs/decisions/0008).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

BLOCK = 32768  # numbers a thread works on at once, which stay in its cache on the way to a draw
LANES = 16  # draws that come together: the width of a vector of conversions
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
    return _by_blocks(counter, lambda some: _uniform(stream, some))


def normal(stream: int, counter: Tensor) -> Tensor:
    """Standard normal float64 by the inverse CDF."""
    return _by_blocks(counter, lambda some: torch.special.ndtri(_uniform(stream, some)))


def _uniform(stream: int, counter: Tensor) -> Tensor:
    return (((words(stream, counter) >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53


def _by_blocks(counter: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """What ``draw`` gives for each counter, float64; on a CPU so many at a time that memory is passed once."""
    block = BLOCK * torch.get_num_threads()
    if counter.device.type != "cpu" or counter.numel() <= block:
        return draw(counter)
    found = torch.empty(counter.shape, dtype=torch.float64, device=counter.device)
    for into, some in zip(found.view(-1).split(block), counter.reshape(-1).split(block), strict=True):
        into.copy_(draw(some))
    return found


@cache
def magnitudes(device: torch.device) -> Tensor:
    """65 536 half-normal quantiles of unit mean square, (4096, 16) float32: the magnitudes of 16 draws a row.

    Each lane has one quantile of each 16 neighbours, so that all lanes have the same distribution, in an order of its
    own, so that no two lanes go together.
    """
    quantiles = torch.special.ndtri((torch.arange(65536, dtype=torch.float64) + 65536.5) / 131072)
    quantiles = (quantiles / quantiles.square().mean().sqrt()).float().view(4096, LANES)
    places = torch.arange(65536).view(4096, LANES)
    lanes = words(key("lane of a quantile"), places).argsort(1)
    rows = words(key("row of a quantile"), places).argsort(0)
    return quantiles.gather(1, lanes).gather(0, rows).to(device)


def read_normals(counters: Tensor) -> Tensor:
    """Standard normals (float32) from mixed-in counters (int64, consumed): 32 a word along the last axis.

    Each half of a word draws 16: twelve bits choose their magnitudes, sixteen more the sign of each. So draws of one
    half share a row of ``magnitudes``, their signs are independent, and halves are independent of one another. Each of
    the 16 has 4096 magnitudes of its own, the largest between 3.7 and 4.5 σ: a tail beyond that is right over all.
    """
    halves = scramble_(counters).view(torch.int32)
    size = magnitudes(counters.device).index_select(0, ((halves >> 16) & 4095).flatten())
    signs = (halves.unsqueeze(-1) >> torch.arange(LANES, dtype=torch.int32, device=halves.device)) & 1
    size = size.view(signs.shape)
    return torch.where(signs.bool(), -size, size).flatten(-2)


def sample_normals(keys: Tensor, shape: torch.Size) -> Tensor:
    """Standard normals (float32) of ``shape``: those of sample i from key i (int64, (B,)) and the place in it."""
    if not len(keys):
        return torch.empty(shape, device=keys.device)
    places = shape[1:].numel()
    lanes = torch.arange(-(-places // (2 * LANES)), device=keys.device).mul_(GOLDEN)
    return read_normals(lanes + keys[:, None])[:, :places].reshape(shape)


def read_words(counters: Tensor) -> Tensor:
    """Uniform integers of 32 bits (int64) from mixed-in counters (int64, consumed): two a word."""
    return scramble_(counters).view(torch.int32).to(torch.int64) & 0xFFFFFFFF
