"""The fused plan on the CPU: a job for ``kernel.cpp``."""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from bitline.macro.curves import Lookup
from bitline.macro.fused import native
from bitline.macro.fused.lower import CHUNK, LANES, After, Chunk, Lowered
from bitline.macro.fused.words import Words, extents, outer
from bitline.macro.geometry import Conv, Geometry
from bitline.macro.read import Converters, Keep, Output, noise_words, weight

NOISE, LEGS, EDGES, LAW, INSIDE, SLOPE, STEP = (1 << bit for bit in range(7))  # as in kernel/jobs.h
FIRST, CACHE = 24 << 10, 1 << 18  # bytes of digits that a piece of work keeps in the first, or second, level cache


def read(
    words: Words,
    low: Lowered,
    geometry: Geometry,
    keys: Tensor | None,
    converters: Converters | None,
    out: Output,
    after: After | None = None,
) -> bool:
    """Fill ``out``; whether any conversion was clipped, as far as ``out.inside`` wants to know."""
    job, _held = job_of(
        words.data.shape, words.data.dtype, low, geometry, keys is not None, converters, out.keeps, after
    )
    job.words, job.keys = words.data.data_ptr(), None if keys is None else keys.data_ptr()
    for name, tensor in (("y", out.y), ("inside", out.inside), ("mean_slope", out.slope), ("step", out.step)):
        setattr(job, name, None if tensor is None else tensor.data_ptr())
    if after is not None and after.add is not None:
        job.add = after.add.data_ptr()
    native.kernel().bitline_mac(ctypes.byref(job))
    return bool(job.clipped)


def job_of(
    shape: torch.Size,
    dtype: torch.dtype,
    low: Lowered,
    geometry: Geometry,
    noisy: bool,
    converters: Converters | None,
    keep: Keep,
    after: After | None = None,
) -> tuple[native.Job, list[Tensor]]:
    """(a job for words of this shape, tensors it points to): all but where words, keys, outputs and sums are."""
    what = 0
    for bit, on in (
        (NOISE, noisy and low.column.law is None),
        (LEGS, low.by_legs),
        (EDGES, low.edges is not None),
        (LAW, low.column.law is not None),
        (INSIDE, keep.inside),
        (SLOPE, keep.slope),
        (STEP, keep.step),
    ):
        what |= bit if on else 0
    job = native.Job.from_buffer_copy(_template(low, geometry, what, shape, dtype))
    held = []

    def at(tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        held.append(tensor)
        return tensor.data_ptr()

    pieces = job.groups * job.planes * -(-job.lines // job.tall) * job.split
    job.threads = min(native.threads(job.threads), pieces)
    scale, factor, shift, gain, constant = low.constants(converters)
    job.factor, job.shift, job.gain, job.constant = map(at, (factor, shift, gain, constant))
    if keep.step:
        job.low_over_step = at(low.flat((scale.low / scale.step).float()))
    if after is not None:
        job.scale, job.bias, job.relu = at(low.outputs(after.scale)), at(low.outputs(after.bias)), after.relu
    return job, held


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
        fields=whole([v for field in low.fields for v in field]),
        radix=whole([v for r in radices for v in (abs(r).bit_length() - 1, int(r < 0))]),
        merged=low.merged,
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
        law=at(law.words if law is not None else None),
        law_bits=law.bits if law is not None else 0,
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
    _walk(job)
    chunks = _segments(job, low) if word_bytes == 1 else None
    job.image = chunks is not None
    chunks = chunks or low.whole_chunks()
    firsts = [next((q for q, chunk in enumerate(chunks) if chunk.group >= t), len(chunks)) for t in range(job.reads)]
    starts = [start for start, _, _, _ in layout.spans]
    job.firsts = whole([*firsts, len(chunks)])
    job.chunks = whole([v for c in chunks for v in (c.first, starts[c.group] + c.first, c.rows, c.at)])
    job.cells = at(low.cut(chunks))
    _share(job, low, chunks)
    return job


def _walk(job: native.Job) -> None:
    """How the kernel walks over positions: lines along the last dimension, or all rows of a layer without a kernel."""
    every = job.groups * job.channels
    line, area = job.size[2] * every, job.size[1] * job.size[2] * every
    kernel, stride, dilation = tuple(job.kernel), tuple(job.stride), tuple(job.dilation)
    if math.prod(kernel) == math.prod(stride) == 1:  # positions of all samples follow one another
        rows = job.batch * math.prod(job.size)
        job.planes, job.depth, job.lines, job.width = 1, 1, -(-rows // LANES), LANES
        job.across, job.down, job.deep, job.sample, job.reach = every, LANES * every, 0, 0, job.channels
    else:
        job.planes, job.depth, job.lines, job.width = job.batch * job.out[0], job.out[0], job.out[1], job.out[2]
        job.across, job.down, job.deep = stride[2] * every, stride[1] * line, stride[0] * area
        job.sample = job.size[0] * area
        steps = tuple((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
        job.reach = steps[0] * area + steps[1] * line + steps[2] * every + job.channels
    job.strip = -(-job.width // -(-job.width // LANES))  # even shares of a line


def _segments(job: native.Job, low: Lowered) -> tuple[Chunk, ...] | None:
    """Chunks that can be read where the inputs lie: rows of a row group whose inputs follow one another.

    None where there would be too many, or a line's inputs too long to keep at hand.
    """
    every = job.groups * job.channels
    joined = job.groups == 1 and job.dilation[2] == 1
    run = (job.kernel[2] if joined else 1) * job.channels
    found = []
    for t, (start, count, _, _) in enumerate(low.column.layout.spans):
        row = 0
        while row < count:
            tap, within = divmod(start + row, run)
            rest, x = (tap, 0) if joined else divmod(tap, job.kernel[2])
            z, y = divmod(rest, job.kernel[1])
            line = (z * job.dilation[0] * job.size[1] + y * job.dilation[1]) * job.size[2]
            many = min(CHUNK, count - row, run - within)
            found.append(Chunk(t, row, many, (line + x * job.dilation[2]) * every + within))
            row += many
    most = sum(-(-count // CHUNK) for _, count, _, _ in low.column.layout.spans)
    bytes_of = (job.width * job.across + job.reach) * job.passes * (1 + job.merged)
    return tuple(found) if len(found) <= 2 * most and bytes_of <= CACHE else None


def _curve(lookup: Lookup | None) -> native.Curve:
    if lookup is None:
        return native.Curve()
    return native.Curve(lookup.value.data_ptr(), lookup.rise.data_ptr(), len(lookup.value), lookup.low, lookup.pitch)


def _share(job: native.Job, low: Lowered, chunks: tuple[Chunk, ...]) -> None:
    """How the work is cut up among threads; results do not depend on it."""
    blocks, threads, copies = -(-job.outputs // LANES), torch.get_num_threads(), job.passes * (1 + job.merged)
    strips = -(-job.width // job.strip)
    line = (job.down if job.image else strips * len(chunks) * LANES * CHUNK) * copies  # bytes of digits
    whole = job.groups * job.planes * job.lines  # lines
    refetched = low.cut(chunks).numel() // job.groups > 2 * CACHE  # cells do not stay in the cache from piece to piece
    fit = (CACHE if refetched else FIRST) // line
    job.tall = max(1, min(fit, job.lines, -(-whole // (4 * threads))))
    pieces = job.groups * job.planes * -(-job.lines // job.tall)
    job.split = min(blocks, -(-2 * threads // pieces)) if pieces < 2 * threads else 1
    job.threads = whole * job.width * job.outputs * job.reads * job.passes * job.conversions
