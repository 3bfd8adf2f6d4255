"""Inputs as words: the codes of a layer's inputs, packed channels last, digits in their bit fields."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bitline.encode import Word
from bitline.macro.fused import native
from bitline.macro.geometry import Conv, Geometry
from bitline.macro.macro import Macro

ROOM = 64  # words beyond the last that a kernel may read


@dataclass(frozen=True)
class Grid:
    """codes = low, low + stride … high; a code is round(x / scale + zero), half up, clipped."""

    scale: float
    zero: float
    low: int
    high: int
    stride: int = 1


@dataclass(frozen=True)
class Words:
    """Packed inputs (B, D, H, W, channels), spatially padded; Dense inputs are (B, 1, 1, S, K)."""

    data: Tensor  # uint8, or int16 that holds 16 bits without a sign
    word: Word
    dims: int  # spatial dimensions of the layer's own layout; 0: dense

    @property
    def batch(self) -> int:
        """Samples."""
        return len(self.data)

    @property
    def size(self) -> tuple[int, int, int]:
        """Padded extents."""
        _, d, h, w, _ = self.data.shape
        return d, h, w

    def positions(self, geometry: Geometry) -> int:
        """Positions of an output of one sample; raises ValueError where the kernel is larger than the input."""
        out = outer(geometry, self.size)
        return out[0] * out[1] * out[2]

    def codes(self) -> Tensor:
        """The codes again, float32, padded, in the layer's layout: (B, C, …), channels last in memory, or (B, S, K)."""
        word, data = self.word, self.data
        if data.dtype == torch.uint8 and word.below == word.left == 0 and word.sign == 1:
            x = data.float() if not word.above else data.float() - word.above
        else:
            table = torch.arange(1 << word.bits, dtype=torch.float32)
            negative = ((table - word.below) / (1 << word.left)) * word.sign
            upper = (
                table >= 1 << (word.bits - 1) if not word.above else table < word.above
            )  # the sign bit, or an offset not reached
            if word.left:
                upper = table >= 1 << word.left
            x = torch.where(upper, negative, table - word.above)[data.to(torch.int32) & 0xFFFF]
        if self.dims == 0:
            return x.flatten(1, 3)
        b, d, h, w, c = x.shape
        kept = (d, h, w)[3 - self.dims :]
        return x.view(b, *kept, c).movedim(-1, 1)


def extents(values: tuple[int, ...], fill: int) -> tuple[int, int, int]:
    """Values of one to three dimensions as three."""
    full = (*(fill,) * (3 - len(values)), *values)
    return full[0], full[1], full[2]


def outer(geometry: Geometry, size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Output extents; raises ValueError where the kernel is larger than the padded input."""
    if not isinstance(geometry, Conv):
        return size
    kernel, stride, dilation = (extents(v, 1) for v in (geometry.kernel, geometry.stride, geometry.dilation))
    out = tuple((s - d * (k - 1) - 1) // j + 1 for s, k, j, d in zip(size, kernel, stride, dilation, strict=True))
    if min(out) < 1:
        raise ValueError(
            f"padded input of {size[3 - len(geometry.kernel) :]} is smaller than the kernel {geometry.kernel}"
        )
    return out[0], out[1], out[2]


def words_of(x: Tensor, macro: Macro, geometry: Geometry) -> Words:
    """Words of integer-valued codes ``x``, already padded, in the layer's layout."""
    inputs = macro.inputs
    assert inputs is not None
    grid = Grid(1.0, 0.0, inputs.low, inputs.high)
    return pack(x, grid, inputs.word, geometry)


def pack(
    x: Tensor,
    grid: Grid,
    word: Word | None,
    geometry: Geometry,
    pads: tuple[tuple[int, int], ...] = (),
    pad: int = 0,
) -> Words:
    """Quantise ``x`` (float32, the layer's layout) to ``grid`` and pack it, padded by ``pads`` (one pair a dimension)
    with the code ``pad``. Raises ValueError where x holds NaN."""
    assert word is not None
    job, x, padded = describe(x, grid, word, geometry, pads)
    job.pad = pad + word.above if pad >= 0 else ((pad * word.sign) << word.left) + word.below
    dtype = torch.uint8 if word.bits <= 8 else torch.int16
    room = torch.empty(math.prod(padded) + ROOM, dtype=dtype)  # vectors reach past the last word
    data = room[: len(room) - ROOM].view(padded)
    job.words, job.word_bytes = data.data_ptr(), data.element_size()
    if data.numel():
        wrong = native.kernel().bitline_pack(ctypes.byref(job))
        if wrong:
            raise ValueError(f"{wrong} inputs of a layer on the macro are NaN")
    return Words(data, word, len(geometry.kernel) if isinstance(geometry, Conv) else 0)


def describe(
    x: Tensor, grid: Grid, word: Word, geometry: Geometry, pads: tuple[tuple[int, int], ...]
) -> tuple[native.Pack, Tensor, tuple[int, ...]]:
    """(what the kernel needs of x, x in a layout it can walk, shape of the words)."""
    x = x.detach().float()
    if isinstance(geometry, Conv):
        dims = len(geometry.kernel)
        if x.dim() == 0 or not x.is_contiguous():
            if x.movedim(1, -1).is_contiguous():
                pass
            else:
                x = x.contiguous()
        view = x.view(*x.shape[:2], *x.shape[2:])
        size = extents(tuple(view.shape[2:]), 1)
        jumps = extents(tuple(view.stride()[2:]), 0)
        jump = (view.stride(0), view.stride(1), *jumps)
        channels, batch = x.shape[1], x.shape[0]
        before = extents(tuple(p[0] for p in pads), 0) if pads else (0, 0, 0)
        after = extents(tuple(p[1] for p in pads), 0) if pads else (0, 0, 0)
        assert dims <= 3
    else:
        x = x.contiguous()
        batch, rows, channels = x.shape
        size, jump = (1, 1, rows), (rows * channels, 1, 0, 0, channels)
        before = after = (0, 0, 0)
    job = native.Pack(
        x=x.data_ptr(), batch=batch, channels=channels, scale=grid.scale, zero=grid.zero, low=grid.low, high=grid.high,
        grid=grid.stride, above=word.above, below=word.below, sign=word.sign, left=word.left,
        threads=native.threads(x.numel()),
    )  # fmt: skip
    for name, values in (("size", size), ("jump", jump), ("before", before), ("after", after)):
        getattr(job, name)[:] = values
    padded = (batch, *(s + b + a for s, b, a in zip(size, before, after, strict=True)), channels)
    return job, x, padded
