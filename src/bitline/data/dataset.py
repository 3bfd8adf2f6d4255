"""What every data set has in common: it is a value that says where the data lie, and reads them when asked."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bitline.configuration import Frozen

from .split import Split

Moments = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of images between 0 and 1."""


class Dataset(Frozen, ABC):
    """A data set as a frozen value. Every concrete one adds a literal tag `kind`."""

    @abstractmethod
    def train(self) -> Split:
        """The training part as stored; index counts from 0."""

    @abstractmethod
    def test(self) -> Split:
        """The test part as stored; index counts from 0 within it."""

    def moments(self) -> Moments:
        """The mean and standard deviation per channel to normalise with: the published ones, or those of train()."""
        return self.train().moments()

    def load(self) -> tuple[Split, Split]:
        """Train and test, both normalised per channel: ready for a network."""
        mean, std = self.moments()
        return self.train().normalised(mean, std), self.test().normalised(mean, std)


def folder(root: Path | None, name: str, expected: str) -> Path:
    """The folder `name` under `root`, or under BITLINE_DATA (read now) where root is None.

    Raises FileNotFoundError with the path, the files expected in it and what to do.
    """
    advice = "run 'make data' or set BITLINE_DATA to the folder that holds it"
    if root is None:
        variable = os.environ.get("BITLINE_DATA")
        if not variable:
            raise FileNotFoundError(f"no data folder was given for {name} ({expected}): {advice}")
        root = Path(variable)
    path = root / name
    if not path.is_dir():
        raise FileNotFoundError(f"no folder {path}: expected {expected} in it; {advice}")
    return path


def split_of(images: NDArray[np.generic], labels: NDArray[np.generic], classes: int | None, where: str) -> Split:
    """A split of arrays uint8 or float [B, C, H, W] and integer [B], its index counting from 0.

    `where` names the source in errors; `classes` bounds the labels where it is known.
    """
    if images.ndim != 4 or not (images.dtype == np.uint8 or np.issubdtype(images.dtype, np.floating)):
        raise ValueError(f"{where}: images are {images.dtype} {list(images.shape)}: expected uint8 or float, 4 axes")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{where}: labels are {labels.dtype} {list(labels.shape)}: expected integers [{len(images)}]")
    bad = np.flatnonzero((labels.astype(np.int64) < 0) | (labels.astype(np.int64) >= (classes or np.inf)))
    if len(bad):
        top = classes - 1 if classes else "…"
        raise ValueError(f"{where}: sample {bad[0]} has label {labels[bad[0]]}: expected 0 to {top}")
    pixels = images if images.dtype == np.uint8 else images.astype(np.float32)
    try:
        return Split(
            torch.from_numpy(np.ascontiguousarray(pixels)),
            torch.from_numpy(labels.astype(np.int64)),
            torch.arange(len(labels)),
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
