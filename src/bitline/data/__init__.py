"""Data sets as frozen configs that read official layouts, and deterministic batches that keep each sample's index."""

from typing import Annotated

from pydantic import Field

from .arrays import HuggingFace, NumpyArchive, SklearnDigits, split_of_rows
from .cifar import CIFAR10_MOMENTS, CIFAR100_MOMENTS, Cifar10, Cifar100
from .dataset import Dataset, split_of
from .mnist import MNIST_MOMENTS, Mnist
from .split import Batches, CropFlip, Split, batches

AnyDataset = Annotated[
    Cifar10 | Cifar100 | Mnist | NumpyArchive | SklearnDigits | HuggingFace, Field(discriminator="kind")
]
"""The tagged union, for a config that holds a data set."""

__all__ = [
    "CIFAR10_MOMENTS",
    "CIFAR100_MOMENTS",
    "MNIST_MOMENTS",
    "AnyDataset",
    "Batches",
    "Cifar10",
    "Cifar100",
    "CropFlip",
    "Dataset",
    "HuggingFace",
    "Mnist",
    "NumpyArchive",
    "SklearnDigits",
    "Split",
    "batches",
    "split_of",
    "split_of_rows",
]
