"""A chip: the random numbers of one die, and the reads made on it.

``Chip`` holds no weights: it says what the die is, not what is stored. ``Reads`` says which reads are made now: their
noise is keyed by (seed, chip, layer, index of the sample in its data set, read, position), so that batch size,
workers, threads and resuming cannot change a result.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bitline import draws


@dataclass(frozen=True)
class Chip:
    """Die ``number`` of the lot ``seed``."""

    seed: int
    number: int

    def stream(self, effect: str, where: str) -> int:
        """Key of an effect's draws on this die; ``where`` names the silicon (a layer's arrays, or the shared pool)."""
        return draws.key("chip", self.seed, self.number, effect, where)


@dataclass(frozen=True)
class Effect:
    """The draws of one effect at given physical addresses; another ``part`` is independent of them."""

    stream: int
    address: Tensor

    def normal(self, part: str = "") -> Tensor:
        """Standard normal at each address, float64."""
        return draws.normal(self._key(part), self.address)

    def uniform(self, part: str = "") -> Tensor:
        """Uniform in (0, 1) at each address, float64: the same number as ``normal`` of this part."""
        return draws.uniform(self._key(part), self.address)

    def some(self, which: Tensor) -> Effect:
        """The same draws at some of the addresses, a mask or an index over them."""
        return Effect(self.stream, self.address[which])

    def _key(self, part: str) -> int:
        return draws.key(self.stream, part) if part else self.stream


@dataclass(frozen=True)
class Reads:
    """Reads of a batch: sample ``samples[i]`` of the data set (int64, (B,)) for the ``read``-th time."""

    seed: int
    chip: Chip
    read: int
    samples: Tensor

    def keys(self, layer: str, call: int = 0) -> Tensor:
        """One int64 key a sample for the fresh noise of ``layer`` in its ``call``-th use in a forward pass, (B,)."""
        return draws.words(
            draws.key("read", self.seed, self.chip.seed, self.chip.number, self.read, layer, call), self.samples
        )
