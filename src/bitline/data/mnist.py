"""MNIST in its IDX files, packed with gzip or not.

Source: Y. LeCun et al., Proc. IEEE 1998; the IDX format as published with http://yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset, Moments, folder, split_of
from .split import Split

MNIST_MOMENTS: Moments = ((0.1307,), (0.3081,))


def read_idx(file: Path, axes: int) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes with this many axes, `file` or `file`.gz."""
    packed = file.with_name(file.name + ".gz")
    if file.is_file():
        data = file.read_bytes()
    elif packed.is_file():
        file = packed
        try:
            data = gzip.decompress(packed.read_bytes())
        except (EOFError, OSError, zlib.error) as error:
            size = packed.stat().st_size
            raise ValueError(f"{packed} is truncated or not gzip ({size} bytes found): {error}") from error
    else:
        raise FileNotFoundError(
            f"no file {file} or {packed.name}: run 'make data' or set BITLINE_DATA to the folder that holds it"
        )
    header = 4 * (1 + axes)
    magic, wanted = int.from_bytes(data[:4], "big"), 0x0800 + axes
    if magic != wanted or len(data) < header:
        raise ValueError(f"{file} starts with IDX magic {magic}, expected {wanted} (unsigned bytes, {axes} axes)")
    shape = tuple(np.frombuffer(data, ">u4", axes, offset=4).astype(int).tolist())
    expected = header + int(np.prod(shape))
    if len(data) != expected:
        raise ValueError(f"{file} holds {len(data)} bytes unpacked, expected {expected} for {shape}: it is truncated")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()


class Mnist(Dataset):
    """MNIST: 60 000 training and 10 000 test images, uint8 [B, 1, 28, 28], 10 classes.

    Reads root/MNIST/raw; root is the environment's BITLINE_DATA where it is not given.
    """

    kind: Literal["mnist"] = "mnist"
    root: Path | None = None

    def train(self) -> Split:
        return self._read("train")

    def test(self) -> Split:
        return self._read("t10k")

    def moments(self) -> Moments:
        return MNIST_MOMENTS

    def _read(self, part: str) -> Split:
        place = folder(self.root, "MNIST/raw", "{train,t10k}-{images-idx3,labels-idx1}-ubyte, each with or without .gz")
        images = read_idx(place / f"{part}-images-idx3-ubyte", 3)
        labels = read_idx(place / f"{part}-labels-idx1-ubyte", 1)
        return split_of(images[:, None], labels, 10, f"{place}/{part}-*")
