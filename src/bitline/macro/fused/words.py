"""Inputs as words: the codes of a layer's inputs, packed channels last, digits in their bit fields."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bitline.encode import Word
from bitline.macro.fused import memory, native
from bitline.macro.geometry import Conv, Geometry
from bitline.macro.macro import Macro

ROOM = 64  # words beyond the last that a kernel may read


@dataclass(frozen=True)
class Quantised:
    """Real inputs ``x`` (float32, the layer's layout) and how they become codes: round(x / scale + zero), half up,
    clipped to low, low + stride … high; and then padded by ``pads`` (before and after, a pair a dimension)."""

    x: Tensor
    scale: Tensor  # ()
    zero: Tensor  # ()
    low: int
    high: int
    stride: int = 1
    rounded: bool = False  # the gradient of the scale is that of the code, without the rounding error
    pads: tuple[tuple[int, int], ...] = ()
    pad: int = 0

    def words(self, word: Word, geometry: Geometry) -> Words:
        """Quantised, packed and padded. Raises ValueError where x holds NaN or words pass 2^31."""
        if self.x.is_cuda:
            from bitline.macro.fused import gpu_words

            return gpu_words.pack(self, word, geometry)
        job, held, padded = self.job(word, geometry)
        dtype = torch.uint8 if word.bits <= 8 else torch.int16
        room = torch.empty(math.prod(padded) + ROOM, dtype=dtype)  # vectors reach past the last word
        data = room[: len(room) - ROOM].view(padded)
        job.words, job.word_bytes = data.data_ptr(), data.element_size()
        if data.numel():
            wrong = native.kernel().bitline_pack(ctypes.byref(job))
            if wrong:
                raise ValueError(f"at least {wrong} of {held.numel()} inputs of a layer on the macro are NaN")
        return Words(data, word, len(geometry.kernel) if isinstance(geometry, Conv) else 0)

    def backward(self, grad: Tensor, word: Word, geometry: Geometry) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, scale and zero from that of the padded codes (the layer's layout)."""
        grad_x, scale, zero = self._inside(grad, word, geometry)
        if self.zero.requires_grad:  # padding is the code of zero
            for axis, (before, after) in enumerate(self.pads, grad.dim() - len(self.pads)):
                size = grad.shape[axis] - before - after
                for border in (grad.narrow(axis, 0, before), grad.narrow(axis, before + size, after)):
                    zero = zero + border.sum(dtype=torch.float64).to(zero.dtype)
                grad = grad.narrow(axis, before, size)
        return grad_x, scale, zero

    def _inside(self, grad: Tensor, word: Word, geometry: Geometry) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients that come through the codes of x itself."""
        if self.x.is_cuda:
            from bitline.macro.fused import gpu_words

            return gpu_words.unpack(self, grad, geometry)
        job, held, _ = self.job(word, geometry)
        grad = (grad.movedim(1, -1) if isinstance(geometry, Conv) else grad).float().contiguous()
        planar = held.is_contiguous()
        grad_x = memory.empty(*held.shape) if planar else torch.empty_strided(held.shape, held.stride())
        sums = torch.zeros(len(held), 2, dtype=torch.float64)
        job.grad, job.grad_x, job.sums = grad.data_ptr(), grad_x.data_ptr(), sums.data_ptr()
        job.rounded = self.rounded
        if held.numel():
            native.kernel().bitline_unpack(ctypes.byref(job))
        scale, zero = sums.sum(0)
        return grad_x, scale.to(self.scale.dtype), zero.to(self.zero.dtype)

    def job(self, word: Word, geometry: Geometry) -> tuple[native.Pack, Tensor, tuple[int, ...]]:
        """(what the kernel needs, x in a layout it can walk, shape of the words)."""
        grown = [sum(pair) for pair in self.pads] or [0] * (self.x.dim() - 2)
        total = math.prod(self.x.shape[:2]) * math.prod(n + g for n, g in zip(self.x.shape[2:], grown, strict=True))
        if total >= 1 << 31:
            raise ValueError(f"inputs of shape {tuple(self.x.shape)} pass 2^31 elements: give smaller batches")
        x = self.x.detach().float()
        if isinstance(geometry, Conv):
            x = x if x.is_contiguous() or x.movedim(1, -1).is_contiguous() else x.contiguous()
            batch, channels = x.shape[:2]
            size, jumps = extents(tuple(x.shape[2:]), 1), extents(x.stride()[2:], 0)
            jump = (x.stride(0), x.stride(1), *jumps)
        else:
            x = x.contiguous()
            batch, rows, channels = x.shape
            size, jump = (1, 1, rows), (rows * channels, 1, 0, 0, channels)
        before, after = (extents(tuple(pair[side] for pair in self.pads), 0) for side in (0, 1))
        below = ((self.pad * word.sign) << word.left) + word.below
        job = native.Pack(
            x=x.data_ptr(),
            batch=batch,
            channels=channels,
            scale=float(self.scale),
            zero=float(self.zero),
            low=self.low,
            high=self.high,
            grid=self.stride,
            above=word.above,
            below=word.below,
            sign=word.sign,
            left=word.left,
            pad=self.pad + word.above if self.pad >= 0 else below,
            threads=native.threads(x.numel()),
        )
        for name, values in (("size", size), ("jump", jump), ("before", before), ("after", after)):
            getattr(job, name)[:] = values
        padded = (batch, *(s + b + a for s, b, a in zip(size, before, after, strict=True)), channels)
        return job, x, padded


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
        return math.prod(self.outer(geometry))

    def outer(self, geometry: Geometry) -> tuple[int, int, int]:
        """Extents of the output."""
        return outer(geometry, self.size)

    def codes(self) -> Tensor:
        """The codes again, float32, padded, in the layer's layout: (B, C, …), channels last in memory, or (B, S, K)."""
        word, data = self.word, self.data
        if data.dtype == torch.uint8 and word.below == word.left == 0 and word.sign == 1:
            x = memory.empty(*data.shape)
            count = data.numel()
            native.kernel().bitline_numbers(
                data.data_ptr(), count, float(word.above), x.data_ptr(), native.threads(count)
            )
        else:
            table = torch.arange(1 << word.bits, dtype=torch.float32, device=data.device)
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
    return extents(geometry.extent(size[3 - len(geometry.kernel) :]), 1) if isinstance(geometry, Conv) else size


ONE, NONE = torch.ones(()), torch.zeros(())


def words_of(x: Tensor | Quantised, macro: Macro, geometry: Geometry) -> Words:
    """Words of inputs, or of integer-valued codes, already padded, in the layer's layout."""
    inputs = macro.inputs
    assert inputs is not None
    word = inputs.word
    assert word is not None
    if isinstance(x, Tensor):
        x = Quantised(x, ONE, NONE, inputs.low, inputs.high)
    return x.words(word, geometry)
