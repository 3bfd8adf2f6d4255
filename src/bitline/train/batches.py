"""Batches in a fixed order with fixed random numbers, whatever happened before."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from typing import Any, cast

import numpy as np
import torch

from bitline.methods.protocol import Batch, Batches


def seed_all(seed: int, *key: str | int) -> None:
    """Set the global random states (torch, Python, NumPy) from a seed and a place in the run."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little") >> 1
    torch.default_generator.manual_seed(number)  # torch.manual_seed takes 80 µs to ask for every kind of device
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
    random.seed(number)
    np.random.seed(number & 0xFFFFFFFF)  # noqa: NPY002  (what data augmentation draws from)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Leave the caller's random states (torch CPU, Python, NumPy) as they were."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])  # noqa: NPY002


class Stream:
    """Batches ``(x, y, index)`` by epoch, from a function of the epoch or from a loader.

    Random states are set before each batch is fetched, so that shuffling and augmentation depend on seed, epoch and
    position alone. A loader that gives ``(x, y)`` has its samples counted from the epoch's start.
    """

    def __init__(self, source: Batches | Iterable[Any], seed: int):
        if isinstance(source, Iterator):
            raise TypeError(
                f"batches is a {type(source).__name__}, which can be walked once; "
                "give a loader or a function epoch -> batches"
            )
        self.source = source
        self.seed = seed

    def _open(self, epoch: int) -> Iterable[Any]:
        if callable(self.source):
            return cast(Iterable[Any], self.source(epoch))
        for holder in (self.source, getattr(self.source, "sampler", None)):
            if callable(set_epoch := getattr(holder, "set_epoch", None)):
                set_epoch(epoch)
            if isinstance(generator := getattr(holder, "generator", None), torch.Generator):
                generator.manual_seed(torch.initial_seed())
        return self.source

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (from 0)."""
        seed_all(self.seed, "epoch", epoch)
        iterator = iter(self._open(epoch))
        seen = 0
        for position in count():
            seed_all(self.seed, "batch", epoch, position)
            try:
                item = next(iterator)
            except StopIteration:
                return
            if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
                raise TypeError(f"a batch is (x, y) or (x, y, index), not {type(item).__name__} of {_size(item)}")
            x, y = item[0], item[1]
            index = item[2] if len(item) == 3 else torch.arange(seen, seen + len(x))
            seen += len(x)
            yield x, y, torch.as_tensor(index)

    def groups(self, epoch: int, size: int, skip: int) -> Iterator[list[Batch]]:
        """The epoch's batches in lists of ``size`` (the last may be shorter), after the first ``skip``.

        Raises RuntimeError when the epoch has fewer than ``skip`` batches or none at all.
        """
        batches = self(epoch)
        skipped = sum(1 for _ in islice(batches, skip))
        if skipped < skip:
            raise RuntimeError(f"epoch {epoch} has {skipped} batches, the checkpoint saw {skip}: other data?")
        empty = skip == 0
        while group := list(islice(batches, size)):
            empty = False
            yield group
        if empty:
            raise RuntimeError(f"batches of epoch {epoch}: there are none")

    def length(self) -> int:
        """Batches in an epoch. A source that does not know is walked once."""
        source = self._open(0) if callable(self.source) else self.source
        try:
            return len(cast(Any, source))
        except TypeError:
            return sum(1 for _ in self(0))


def _size(item: Any) -> str:
    return f"{len(item)}" if hasattr(item, "__len__") else "no length"
