"""A part of a data set in memory, and the batches drawn from it.

Everything random here is a hash of (seed, purpose, epoch, index of the sample), so an order, a subset or an
augmentation is the same on every machine, for every batch size, and touches no global generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from bitline.configuration import Frozen

Batch = tuple[Shaped[Tensor, "B C H W"], Int64[Tensor, "B"], Int64[Tensor, "B"]]
"""Images as stored in the split, labels and index."""

_ORDER, _SUBSET, _CROP = 1, 2, 3  # purposes, so that one seed serves all three independently


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _hash(index: Int64[Tensor, "B"], *key: int) -> NDArray[np.uint64]:
    """64 uniform bits for each index, given the integers of the key (SplitMix64: Steele et al., OOPSLA 2014)."""
    state = index.numpy().astype(np.uint64)
    for part in key:
        state = _mix(state + np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(part % 2**64)
    return _mix(state + np.uint64(0x9E3779B97F4A7C15))


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels.

    images: uint8 or float32 [B, C, H, W]. labels: int64 [B], from 0. index: int64 [B], the place of each sample in the
    original part of the data set; noise is keyed by it, so subsets and shuffles keep it. On the CPU.
    """

    images: Tensor
    labels: Tensor
    index: Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype not in (torch.uint8, torch.float32):
            raise ValueError(
                f"images are {self.images.dtype} {list(self.images.shape)}: expected uint8 or float32 [B, C, H, W]"
            )
        for name, value in (("labels", self.labels), ("index", self.index)):
            if value.dtype != torch.int64 or value.shape != self.images.shape[:1]:
                raise ValueError(
                    f"{name} is {value.dtype} {list(value.shape)}: expected int64 [{len(self.images)}], one per image"
                )
        if len(self) and int(self.labels.min()) < 0:
            place = int(self.labels.argmin())
            raise ValueError(f"label {int(self.labels[place])} of sample {int(self.index[place])} is negative")
        if self.images.is_floating_point() and self.images.numel():
            low, high = torch.aminmax(self.images)
            if not torch.isfinite(low + high):
                bad = ~torch.isfinite(self.images).flatten(1).all(1)
                place = int(bad.int().argmax())
                raise ValueError(
                    f"sample {int(self.index[place])} holds NaN or infinity ({int(bad.sum())} such samples in all)"
                )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, places: Tensor | slice) -> Split:
        """The samples at these places (int64 or bool [n], or a slice), their index kept."""
        return Split(self.images[places], self.labels[places], self.index[places])

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> Split:
        """Float32 images (x − mean)/std per channel; uint8 is first divided by 255."""
        channels = self.images.shape[1]
        if len(mean) != channels or len(std) != channels or min(std) <= 0:
            raise ValueError(f"mean {tuple(mean)} and std {tuple(std)}: expected {channels} values each, std above 0")
        shift = torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1)
        scale = torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1)
        images = self.images.to(torch.float32, copy=True)
        if not self.images.is_floating_point():
            images.div_(255)
        return Split(images.sub_(shift).div_(scale), self.labels, self.index)

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over all samples and pixels, uint8 divided by 255."""
        unit = 1.0 if self.images.is_floating_point() else 255.0
        channels = [self.images[:, c].double() / unit for c in range(self.images.shape[1])]
        return tuple(float(c.mean()) for c in channels), tuple(float(c.std(correction=0)) for c in channels)

    def subset(self, n: int, seed: int = 0, stratified: bool = True) -> Split:
        """n samples drawn without replacement, in their original order.

        Stratified: each class keeps its share, to within one sample. With one seed a larger subset that is not
        stratified contains the smaller.
        """
        if not 1 <= n <= len(self):
            raise ValueError(f"a subset of {n} samples was asked of {len(self)}: expected 1 to {len(self)}")
        rank = np.argsort(_hash(self.index, seed, _SUBSET), kind="stable")
        if stratified:
            # Spread the k-th of a class's m samples to (k + offset)/m of the way: any prefix has every class's share.
            labels = self.labels.numpy()[rank]
            share = np.empty(len(labels))
            offsets = _mix(np.arange(labels.max() + 1).astype(np.uint64) ^ np.uint64(seed % 2**64)) / 2.0**64
            for label in np.unique(labels):
                mine = labels == label
                share[mine] = (np.arange(mine.sum()) + offsets[label]) / mine.sum()
            rank = rank[np.argsort(share, kind="stable")]
        return self[torch.from_numpy(np.sort(rank[:n]))]


class CropFlip(Frozen):
    """Random crop after padding with zeros (the channel's mean, once normalised), then a left-right flip half the time.

    Source: K. He et al., CVPR 2016, section 4.2 (padding 4 for 32×32).
    """

    kind: Literal["crop_flip"] = "crop_flip"
    padding: int = Field(default=4, ge=0, description="pixels added on each side before the crop")
    flip: bool = True

    def __call__(
        self, images: Shaped[Tensor, "B C H W"], index: Int64[Tensor, "B"], seed: int, epoch: int
    ) -> Shaped[Tensor, "B C H W"]:
        """New images [B, C, H, W]; each one's shift depends on (seed, epoch, its index) alone."""
        batch, channels, height, width = images.shape
        pad, span = self.padding, 2 * self.padding + 1
        bits = _hash(index, seed, _CROP, epoch)
        top = torch.from_numpy(((bits & np.uint64(0x7FFFFFFF)) % np.uint64(span)).astype(np.int64)).view(-1, 1)
        left = torch.from_numpy(((bits >> np.uint64(31) & np.uint64(0x7FFFFFFF)) % np.uint64(span)).astype(np.int64))
        across = torch.arange(width).repeat(batch, 1)
        if self.flip:
            turn = torch.from_numpy((bits >> np.uint64(63)).astype(bool)).view(-1, 1)
            across = torch.where(turn, width - 1 - across, across)
        padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
        rows = (top + torch.arange(height)).view(batch, 1, height, 1)
        columns = (left.view(-1, 1) + across).view(batch, 1, 1, width)
        return padded[torch.arange(batch).view(-1, 1, 1, 1), torch.arange(channels).view(1, -1, 1, 1), rows, columns]


@dataclass(frozen=True, eq=False)
class Batches:
    """One epoch of a split in batches; iterating it again gives the same again. `len` is the number of batches."""

    split: Split
    size: int
    seed: int | None = None
    epoch: int = 0
    augment: CropFlip | None = None
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"batch size {self.size}: expected at least 1")
        if self.augment is not None and self.seed is None:
            raise ValueError("augmentation is random and needs a seed: give seed=")

    def __len__(self) -> int:
        return len(self.split) // self.size if self.drop_last else -(-len(self.split) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.arange(len(self.split))
        if self.seed is not None:
            keys = _hash(self.split.index, self.seed, _ORDER, self.epoch)
            order = torch.from_numpy(np.argsort(keys, kind="stable"))
        for start in range(0, len(self) * self.size, self.size):
            places = order[start : start + self.size]
            x, index = self.split.images[places], self.split.index[places]
            if self.augment is not None and self.seed is not None:
                x = self.augment(x, index, self.seed, self.epoch)
            yield x, self.split.labels[places], index


def batches(
    split: Split,
    size: int,
    seed: int | None = None,
    augment: CropFlip | None = None,
    *,
    epoch: int = 0,
    drop_last: bool = False,
) -> Batches:
    """Batches of (x, labels, index), x as the split stores it.

    In order where seed is None, else shuffled by (seed, epoch); the last batch may be smaller unless drop_last.
    """
    return Batches(split, size, seed, epoch, augment, drop_last)
