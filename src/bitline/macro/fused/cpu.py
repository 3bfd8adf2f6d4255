"""The fused plan on the CPU: a job for ``kernel.cpp``."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from bitline.macro.analog import Scale
from bitline.macro.curves import Lookup
from bitline.macro.fused import native
from bitline.macro.fused.lower import LANES, Lowered
from bitline.macro.fused.words import Words, extents, outer
from bitline.macro.geometry import Conv, Geometry
from bitline.macro.read import Output, noise_words, weight

NOISE, LEGS, EDGES, LAW, INSIDE, SLOPE, STEP = (1 << bit for bit in range(7))  # as in kernel.cpp
CACHE = 1 << 18  # bytes of digits that a piece of work keeps at hand


def read(words: Words, low: Lowered, geometry: Geometry, keys: Tensor | None, scale: Scale, out: Output) -> bool:
    """Fill ``out``; whether any conversion was clipped, as far as ``out.inside`` wants to know."""
    column, layout = low.column, low.column.layout
    macro, code, law = column.macro, column.code, column.law
    inputs = macro.inputs
    assert inputs is not None
    held: list[Tensor] = []

    def at(tensor: Tensor | None, dtype: torch.dtype | None = None) -> int | None:
        if tensor is None:
            return None
        tensor = tensor.to(dtype or tensor.dtype).contiguous()
        held.append(tensor)
        return tensor.data_ptr()

    def whole(values: list[int]) -> int:
        found = at(torch.tensor(values, dtype=torch.int64))
        assert found is not None
        return found

    radices = (*column.pass_radix, *column.radix)
    factor, shift = low.steps(scale)
    gain, constant = low.totals(scale)
    what = 0
    for bit, on in (
        (NOISE, keys is not None and law is None),
        (LEGS, low.by_legs),
        (EDGES, low.edges is not None),
        (LAW, law is not None),
        (INSIDE, out.inside is not None),
        (SLOPE, out.slope is not None),
        (STEP, out.step is not None),
    ):
        what |= bit if on else 0
    job = native.Job(
        words=words.data.data_ptr(),
        word_bytes=words.data.element_size(),
        batch=words.batch,
        groups=layout.groups,
        channels=words.data.shape[-1] // layout.groups,
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
        factor=at(factor),
        shift=at(shift),
        leg_gain=at(low.spread[0] if low.spread else None),
        leg_offset=at(low.spread[1] if low.spread else None),
        mean=_curve(column.mean, held),
        noise=_curve(column.noise, held),
        slope=at(low.slope, torch.float32),
        unit=column.unit,
        cell_variance=column.cell_variance * len(macro.leg_signs) if column.cell_variance is not None else 0.0,
        code_noise=code.noise if code is not None and code.noise is not None else 0.0,
        low_over_step=0.0,
        most=code.most if code is not None else 0,
        digit_low=inputs.digit_low,
        edges=at(low.edges),
        which=at(low.which),
        law=at(low.law),
        law_bits=law.cut.shape[1].bit_length() - 1 if law is not None else 0,
        ideal_codes=law.ideal_codes if law is not None else 0,
        keys=at(keys),
        noise_words=noise_words(column) * layout.reads * layout.groups,
        group_words=noise_words(column),
        normals=at(low.normals) if keys is not None and law is None else None,
        y=out.y.data_ptr(),
        inside=at(out.inside),
        mean_slope=at(out.slope),
        step=at(out.step),
        gain=at(gain),
        constant=at(constant),
        inside_weight=float(weight(column)),
        what=what,
    )
    if out.step is not None:
        job.low_over_step = float((scale.low / scale.step).float())
    conv = isinstance(geometry, Conv)
    for name in ("kernel", "stride", "dilation"):
        getattr(job, name)[:] = extents(getattr(geometry, name), 1) if conv else (1, 1, 1)
    job.size[:] = words.size
    job.out[:] = outer(geometry, words.size)
    _share(job, low)
    native.kernel().bitline_mac(ctypes.byref(job))
    return bool(job.clipped)


def _curve(lookup: Lookup | None, held: list[Tensor]) -> native.Curve:
    if lookup is None:
        return native.Curve()
    held += (lookup.value, lookup.rise)
    return native.Curve(lookup.value.data_ptr(), lookup.rise.data_ptr(), len(lookup.value), lookup.low, lookup.pitch)


def _share(job: native.Job, low: Lowered) -> None:
    """How the work is cut up among threads; results do not depend on it."""
    rows = job.batch * job.out[0] * job.out[1] * job.out[2]
    strips, blocks = -(-rows // LANES), -(-job.outputs // LANES)
    strip = low.chunks.shape[4] * job.passes * (1 + job.merged) * 1024
    threads = native.threads(rows * job.outputs * job.reads * job.passes * job.conversions)
    pieces = max(1, min(8 * threads, strips * job.groups))  # enough for threads to share evenly
    reused = low.chunks.numel() // job.groups > 2 * CACHE  # cells are fetched again for each piece
    job.tall = max(1, min(CACHE // strip, strips * job.groups // pieces)) if reused else 1
    job.split = 1
    if strips * job.groups < 2 * threads and blocks > 1:
        job.split = min(blocks, -(-2 * threads // (strips * job.groups)))
    job.threads = min(threads, job.groups * -(-strips // job.tall) * job.split)
