"""Data that come as arrays or rows: NumPy archives, scikit-learn's digits, Hugging Face datasets."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from .dataset import Dataset, Moments, split_of
from .split import Split

DIGITS_MOMENTS: Moments = ((0.3053,), (0.3760,))


def channels_first(images: NDArray[Any], channels: Literal["first", "last"]) -> NDArray[Any]:
    """[B, H, W], [B, C, H, W] or [B, H, W, C] as [B, C, H, W]; anything else is returned as it is, to be refused."""
    if images.ndim == 3:
        return images[:, None]
    return np.moveaxis(images, -1, 1) if images.ndim == 4 and channels == "last" else images


class NumpyArchive(Dataset):
    """Arrays of one or two .npz files.

    Either `file` holds x_train, y_train, x_test and y_test, or `file` holds x and y for training and `test_file` x and
    y for testing. x is uint8 (0 to 255) or float [B, C, H, W], [B, H, W, C] or [B, H, W]; y is integer [B].
    """

    kind: Literal["numpy"] = "numpy"
    file: Path
    test_file: Path | None = None
    channels: Literal["first", "last"] = "first"
    classes: int | None = Field(default=None, ge=2)
    mean: tuple[float, ...] | None = Field(default=None, description="per channel; None: of the training images")
    std: tuple[float, ...] | None = Field(default=None, description="per channel; None: of the training images")

    def train(self) -> Split:
        return self._read(self.file, ("x_train", "y_train") if self.test_file is None else ("x", "y"))

    def test(self) -> Split:
        if self.test_file is None:
            return self._read(self.file, ("x_test", "y_test"))
        return self._read(self.test_file, ("x", "y"))

    def moments(self) -> Moments:
        return _given_or(self.mean, self.std, self)

    def _read(self, file: Path, names: tuple[str, str]) -> Split:
        if not file.is_file():
            raise FileNotFoundError(f"no file {file}: expected a NumPy archive (.npz) with {names[0]} and {names[1]}")
        try:
            with np.load(file, allow_pickle=False) as archive:
                held = archive.files
                found = [archive[name] for name in names if name in held]
        except Exception as error:  # a broken zip file raises half a dozen types
            raise ValueError(f"{file} is not a readable .npz ({file.stat().st_size} bytes): {error}") from error
        if len(found) < 2:
            raise ValueError(
                f"{file} holds {', '.join(held) or 'nothing'}; expected {names[0]} and {names[1]} (an archive with "
                "x_train, y_train, x_test, y_test, or two archives with x, y: give test_file)"
            )
        return split_of(channels_first(found[0], self.channels), found[1], self.classes, str(file))


class SklearnDigits(Dataset):
    """scikit-learn's copy of the UCI handwritten digits: 1797 images, float32 [B, 1, 8, 8] between 0 and 1, 10 classes.

    `test_images` of them, stratified and chosen by `seed`, are the test part. The index is the place in the full set
    in both parts. Source: E. Alpaydin and C. Kaynak, UCI repository, 1998.
    """

    kind: Literal["sklearn_digits"] = "sklearn_digits"
    seed: int = 0
    test_images: int = Field(default=597, ge=1, le=1796)

    def train(self) -> Split:
        return self._parts()[0]

    def test(self) -> Split:
        return self._parts()[1]

    def moments(self) -> Moments:
        return DIGITS_MOMENTS

    def _parts(self) -> tuple[Split, Split]:
        try:
            digits = importlib.import_module("sklearn.datasets").load_digits()
        except ImportError as error:
            raise ImportError("the handwritten digits come with scikit-learn: pip install scikit-learn") from error
        full = split_of(digits.images[:, None] / 16, digits.target, 10, "scikit-learn's digits")
        test = full.subset(self.test_images, self.seed)
        rest = torch.ones(len(full), dtype=torch.bool)
        rest[test.index] = False
        return full[rest], test


class HuggingFace(Dataset):
    """A data set of the Hugging Face hub, or a folder written by `save_to_disk`, with an image and a label column."""

    kind: Literal["huggingface"] = "huggingface"
    name: str
    config: str | None = None
    revision: str | None = Field(default=None, description="commit or tag on the hub, to pin what is read")
    image: str = "image"
    label: str = "label"
    train_split: str = "train"
    test_split: str = "test"
    classes: int | None = Field(default=None, ge=2)
    mean: tuple[float, ...] | None = Field(default=None, description="per channel; None: of the training images")
    std: tuple[float, ...] | None = Field(default=None, description="per channel; None: of the training images")

    def train(self) -> Split:
        return self._read(self.train_split)

    def test(self) -> Split:
        return self._read(self.test_split)

    def moments(self) -> Moments:
        return _given_or(self.mean, self.std, self)

    def _read(self, part: str) -> Split:
        try:
            datasets = importlib.import_module("datasets")
        except ImportError as error:
            raise ImportError("Hugging Face data sets need the package datasets: pip install 'bitline[hf]'") from error
        where = f"{self.name} [{part}]"
        if Path(self.name).is_dir():
            parts = datasets.load_from_disk(self.name)
            if part not in parts:
                raise ValueError(f"{where}: no such part; there: {', '.join(map(str, parts))}")
            rows = parts[part]
        else:
            rows = datasets.load_dataset(self.name, self.config, split=part, revision=self.revision)
        return split_of_rows(rows, self.image, self.label, self.classes, where)


def split_of_rows(rows: Iterable[Mapping[str, Any]], image: str, label: str, classes: int | None, where: str) -> Split:
    """A split from rows with an image (anything NumPy can read, [H, W] or [H, W, C]) and an integer label."""
    images: list[NDArray[Any]] = []
    labels: list[int] = []
    for place, row in enumerate(rows):
        for column in (image, label):
            if column not in row:
                raise ValueError(f"{where}: no column {column!r}; there: {', '.join(row)}")
        pixels = np.asarray(row[image])
        if images and pixels.shape != images[0].shape:
            raise ValueError(
                f"{where}: sample {place} is {list(pixels.shape)}, the first is {list(images[0].shape)}: "
                "expected images of one size and one colour mode"
            )
        images.append(pixels)
        labels.append(int(row[label]))
    if not images:
        raise ValueError(f"{where}: no rows")
    return split_of(channels_first(np.stack(images), "last"), np.array(labels), classes, where)


def _given_or(mean: tuple[float, ...] | None, std: tuple[float, ...] | None, dataset: Dataset) -> Moments:
    if mean is not None and std is not None:
        return mean, std
    own_mean, own_std = dataset.train().moments()
    return mean or own_mean, std or own_std
