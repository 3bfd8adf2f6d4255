"""The fused plan on the CPU: a job for ``kernel.cpp``."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from bitline.macro.curves import Lookup
from bitline.macro.fused import native
from bitline.macro.fused.lower import LANES, Lowered
from bitline.macro.fused.words import Words, extents, outer
from bitline.macro.geometry import Conv, Geometry
from bitline.macro.read import Converters, Output, noise_words, weight

NOISE, LEGS, EDGES, LAW, INSIDE, SLOPE, STEP = (1 << bit for bit in range(7))  # as in kernel.cpp
CACHE = 1 << 18  # bytes of digits that a piece of work keeps at hand


def read(
    words: Words,
    low: Lowered,
    geometry: Geometry,
    keys: Tensor | None,
    converters: Converters | None,
    out: Output,
    after: tuple[Tensor, Tensor | None] | None = None,
) -> bool:
    """Fill ``out``; whether any conversion was clipped, as far as ``out.inside`` wants to know.

    ``after``: scale and bias (N,) of what is read, applied last.
    """
    what = 0
    for bit, on in (
        (NOISE, keys is not None and low.column.law is None),
        (LEGS, low.by_legs),
        (EDGES, low.edges is not None),
        (LAW, low.column.law is not None),
        (INSIDE, out.inside is not None),
        (SLOPE, out.slope is not None),
        (STEP, out.step is not None),
    ):
        what |= bit if on else 0
    job = native.Job.from_buffer_copy(_template(low, geometry, what, words.data.shape, words.data.dtype))
    held = []

    def at(tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        held.append(tensor)
        return tensor.data_ptr()

    job.threads = min(native.threads(job.threads), job.groups * job.split * -(-_strips(job) // job.tall))
    scale, factor, shift, gain, constant = low.constants(converters)
    job.factor, job.shift, job.gain, job.constant = map(at, (factor, shift, gain, constant))
    job.words, job.keys = words.data.data_ptr(), at(keys)
    job.y, job.inside, job.mean_slope, job.step = map(at, (out.y, out.inside, out.slope, out.step))
    if out.step is not None:
        job.low_over_step = float((scale.low / scale.step).float())
    if after is not None:
        job.scale, job.bias = map(at, (low.outputs(part) for part in after))
    native.kernel().bitline_mac(ctypes.byref(job))
    return bool(job.clipped)


def _template(low: Lowered, geometry: Geometry, what: int, shape: torch.Size, dtype: torch.dtype) -> native.Job:
    """A job for inputs of this shape, without what changes from read to read; ``threads`` holds the work there is."""
    name = (geometry, what, shape, torch.get_num_threads())
    if name not in low.jobs:
        low.jobs[name] = _job(low, geometry, what, shape, 1 if dtype == torch.uint8 else 2)
    return low.jobs[name]


def _job(low: Lowered, geometry: Geometry, what: int, shape: torch.Size, word_bytes: int) -> native.Job:
    column, layout = low.column, low.column.layout
    macro, code, law = column.macro, column.code, column.law
    assert macro.inputs is not None

    def whole(values: list[int]) -> int:
        low.held.append(torch.tensor(values, dtype=torch.int64))
        return low.held[-1].data_ptr()

    def at(tensor: Tensor | None) -> int | None:
        if tensor is not None:
            low.held.append(tensor)
        return None if tensor is None else tensor.data_ptr()

    radices = (*column.pass_radix, *column.radix)
    batch, *size, channels = shape
    job = native.Job(
        word_bytes=word_bytes,
        batch=batch,
        groups=layout.groups,
        channels=channels // layout.groups,
        reads=layout.reads,
        passes=len(column.pass_radix),
        conversions=layout.conversions,
        legs=low.legs,
        limbs=low.limbs,
        outputs=layout.outputs,
        spans=whole([v for start, count, _, _ in layout.spans for v in (start, count)]),
        fields=whole([v for field in low.fields for v in field]),
        radix=whole([v for r in radices for v in (abs(r).bit_length() - 1, int(r < 0))]),
        merged=low.merged,
        cells=at(low.chunks),
        start=at(low.start),
        leg_gain=at(low.spread[0] if low.spread else None),
        leg_offset=at(low.spread[1] if low.spread else None),
        mean=_curve(column.mean),
        noise=_curve(column.noise),
        slope=at(low.slope),
        unit=column.unit,
        cell_variance=column.cell_variance * len(macro.leg_signs) if column.cell_variance is not None else 0.0,
        code_noise=code.noise if code is not None and code.noise is not None else 0.0,
        most=code.most if code is not None else 0,
        digit_low=macro.inputs.digit_low,
        edges=at(low.edges),
        which=at(low.which),
        law=at(low.law),
        law_bits=law.cut.shape[1].bit_length() - 1 if law is not None else 0,
        ideal_codes=law.ideal_codes if law is not None else 0,
        noise_words=noise_words(column) * layout.reads * layout.groups,
        group_words=noise_words(column),
        normals=at(low.normals if what & NOISE else None),
        inside_weight=float(weight(column)),
        what=what,
    )
    conv = isinstance(geometry, Conv)
    job.planar = conv
    for name in ("kernel", "stride", "dilation"):
        getattr(job, name)[:] = extents(getattr(geometry, name), 1) if conv else (1, 1, 1)
    job.size[:] = size
    job.out[:] = outer(geometry, (size[0], size[1], size[2]))
    _share(job, low)
    return job


def _curve(lookup: Lookup | None) -> native.Curve:
    if lookup is None:
        return native.Curve()
    return native.Curve(lookup.value.data_ptr(), lookup.rise.data_ptr(), len(lookup.value), lookup.low, lookup.pitch)


def _strips(job: native.Job) -> int:
    """Blocks of 16 positions, of all samples."""
    return -(-job.batch * job.out[0] * job.out[1] * job.out[2] // LANES)


def _share(job: native.Job, low: Lowered) -> None:
    """How the work is cut up among threads; results do not depend on it."""
    strips, blocks = _strips(job), -(-job.outputs // LANES)
    strip = low.chunks.shape[4] * job.passes * (1 + job.merged) * 1024  # bytes of digits
    job.threads = strips * LANES * job.outputs * job.reads * job.passes * job.conversions
    threads = torch.get_num_threads()
    reused = low.chunks.numel() // job.groups > 2 * CACHE  # cells are fetched again for each piece
    job.tall = max(1, min(CACHE // strip, strips * job.groups // (8 * threads))) if reused else 1
    pieces = job.groups * -(-strips // job.tall)
    job.split = min(blocks, -(-2 * threads // pieces)) if pieces < 2 * threads else 1
