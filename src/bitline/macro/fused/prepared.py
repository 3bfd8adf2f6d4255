"""A read of which all but the inputs is settled, as evaluation repeats it batch after batch."""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from bitline.macro.column import Column
from bitline.macro.fused import cpu, memory, native
from bitline.macro.fused.lower import After, lowered
from bitline.macro.fused.words import ROOM, Quantised, outer
from bitline.macro.geometry import Conv, Geometry
from bitline.macro.read import Converters, Keep


class Prepared:
    """As ``run`` without anything kept, for inputs of one shape and layout on the CPU: both jobs of the kernel are
    filled in already, and a call adds where inputs, draws and outputs lie.

    ``inputs``: float32, contiguous, of the shape to come; ``column`` needs no digital correction.
    """

    def __init__(
        self, inputs: Quantised, column: Column, geometry: Geometry, converters: Converters | None, after: After
    ) -> None:
        word, low = column.macro.inputs.word, lowered(column)  # type: ignore[union-attr]
        assert word is not None
        self.pack, _, self.padded = inputs.job(word, geometry)
        self.dtype = torch.uint8 if word.bits <= 8 else torch.int16
        self.noisy = column.noisy
        self.job, held = cpu.job_of(
            torch.Size(self.padded), self.dtype, low, geometry, self.noisy, converters, Keep(), after
        )
        self.held = (column, low, held)  # what the job points to
        batch, *size, _ = self.padded
        extent, outputs = outer(geometry, (size[0], size[1], size[2])), column.layout.groups * column.layout.outputs
        if isinstance(geometry, Conv):
            self.shape: tuple[int, ...] = (batch, outputs, *extent[-len(geometry.kernel) :])
        else:
            self.shape = (batch, math.prod(extent), outputs)

    def __call__(self, x: Tensor, keys: Tensor | None, add: Tensor | None) -> Tensor:
        """Outputs in the layer's layout; ``add``: of their shape, contiguous. Raises ValueError where x holds NaN."""
        kernel = native.kernel()
        room = torch.empty(math.prod(self.padded) + ROOM, dtype=self.dtype)
        pack = native.Pack.from_buffer_copy(self.pack)
        pack.x, pack.words = x.data_ptr(), room.data_ptr()
        wrong = kernel.bitline_pack(ctypes.byref(pack))
        if wrong:
            raise ValueError(f"at least {wrong} of {x.numel()} inputs of a layer on the macro are NaN")
        y = memory.empty(*self.shape)
        job = native.Job.from_buffer_copy(self.job)
        job.words, job.y = pack.words, y.data_ptr()
        job.keys = None if keys is None else keys.data_ptr()
        job.add = None if add is None else add.data_ptr()
        kernel.bitline_mac(ctypes.byref(job))
        return y
