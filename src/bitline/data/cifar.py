"""CIFAR-10 and CIFAR-100 in their official "binary version".

Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009; https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset, Moments, folder, split_of
from .split import Split

PIXELS = 3 * 32 * 32
CIFAR10_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10_MOMENTS: Moments = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100_MOMENTS: Moments = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


def read_records(file: Path, label_bytes: int, records: int) -> NDArray[np.uint8]:
    """The file's records, uint8 [records, label_bytes + 3072]."""
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}: run 'make data' or set BITLINE_DATA to the folder that holds it")
    expected = records * (label_bytes + PIXELS)
    found = file.stat().st_size
    if found != expected:
        raise ValueError(f"{file} holds {found} bytes, expected {expected}: the file is truncated or another version")
    return np.fromfile(file, np.uint8).reshape(records, label_bytes + PIXELS)


def _split(records: NDArray[np.uint8], label: int, classes: int, where: Path) -> Split:
    images = records[:, -PIXELS:].reshape(-1, 3, 32, 32)
    return split_of(images, records[:, label], classes, str(where))


class Cifar10(Dataset):
    """CIFAR-10: 50 000 training and 10 000 test images, uint8 [B, 3, 32, 32], 10 classes.

    Reads root/cifar-10-batches-bin; root is the environment's BITLINE_DATA where it is not given.
    """

    kind: Literal["cifar10"] = "cifar10"
    root: Path | None = None

    def train(self) -> Split:
        return self._read(CIFAR10_TRAIN)

    def test(self) -> Split:
        return self._read(("test_batch.bin",))

    def moments(self) -> Moments:
        return CIFAR10_MOMENTS

    def _read(self, names: tuple[str, ...]) -> Split:
        place = folder(self.root, "cifar-10-batches-bin", "data_batch_1.bin to data_batch_5.bin and test_batch.bin")
        return _split(np.concatenate([read_records(place / name, 1, 10_000) for name in names]), 0, 10, place)


class Cifar100(Dataset):
    """CIFAR-100: 50 000 training and 10 000 test images, uint8 [B, 3, 32, 32], 100 fine or 20 coarse classes.

    Reads root/cifar-100-binary; root is the environment's BITLINE_DATA where it is not given. In some copies the test
    images are sorted by class: take a part of them with `Split.subset`, never the first n.
    """

    kind: Literal["cifar100"] = "cifar100"
    root: Path | None = None
    labels: Literal["fine", "coarse"] = "fine"

    def train(self) -> Split:
        return self._read("train.bin", 50_000)

    def test(self) -> Split:
        return self._read("test.bin", 10_000)

    def moments(self) -> Moments:
        return CIFAR100_MOMENTS

    def _read(self, name: str, records: int) -> Split:
        file = folder(self.root, "cifar-100-binary", "train.bin and test.bin") / name
        label, classes = (1, 100) if self.labels == "fine" else (0, 20)
        return _split(read_records(file, 2, records), label, classes, file)
