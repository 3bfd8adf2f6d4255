"""The fused plan on CUDA: as ``cpu.py``, by the kernel in ``gpu_kernel.py``. Imported where words lie there."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from bitline.macro.curves import Lookup
from bitline.macro.fused.gpu_kernel import LIMB, STEPS, mac
from bitline.macro.fused.lower import CHUNK, LANES, After, Lowered
from bitline.macro.fused.words import Words, extents
from bitline.macro.geometry import Conv, Geometry
from bitline.macro.read import Converters, Output, noise_words, weight


def read(
    words: Words,
    low: Lowered,
    geometry: Geometry,
    keys: Tensor | None,
    converters: Converters | None,
    out: Output,
    after: After | None = None,
) -> bool:
    """As ``cpu.read``. ``out.inside`` is kept even where nothing was clipped: asking would wait for the device."""
    layout, law = low.column.layout, low.column.law
    name = ("gpu", geometry, words.data.shape)
    if name not in low.jobs:
        low.jobs[name] = _given(low, geometry, words)
    given = low.jobs[name]
    scale, factor, shift, gain, constant = low.constants(converters)
    ratio = None
    if out.step is not None:
        found = scale.low / scale.step
        ratio = low.outputs(found.flatten() if found.dim() else found)
    after_scale, bias = (None, None) if after is None else map(low.outputs, after[:2])
    noise = keys is not None and law is None
    kept = (out.inside, out.slope, out.step)
    bare = all(part is None for part in kept)
    plain = bare and low.edges is None and law is None and not low.by_legs
    bits = given["most"].bit_length() if plain else 0  # places are then shares of the converter's range
    rows, blocks = given["rows"], given["width"]

    def grid(chosen: dict[str, Any]) -> tuple[int, int]:
        return triton.cdiv(rows, chosen["BM"]) * triton.cdiv(blocks, chosen["BN"]), layout.groups

    mac[grid](
        words=words.data, factor=factor, shift=shift, gain=gain, constant=constant, scale=after_scale, bias=bias,
        keys=None if keys is None else keys.to(words.data.device).contiguous(),
        magnitudes=_magnitudes(low, bits) if noise else None, BITS=bits,
        y=out.y, inside=out.inside, slope=out.slope, step=out.step, low_over_step=ratio,
        NOISE=noise, WHAT=tuple(part is not None for part in kept), size=rows.bit_length(),
        y_sample=out.y.stride(0), y_position=out.y.stride(1), y_output=out.y.stride(2),
        enable_fp_fusion=False,  # products and sums are rounded apart, as everywhere
        **given,
    )  # fmt: skip
    if after is not None and after.add is not None:
        out.y += after.add.flatten(2).mT if isinstance(geometry, Conv) else after.add
    if after is not None and after.relu:
        out.y.relu_()
    return True


def _magnitudes(low: Lowered, bits: int) -> Tensor:
    """Magnitudes of the noise, as shares of a range of 2^bits steps."""
    name = ("gpu noise", bits)
    if name not in low.jobs:
        low.jobs[name] = low.normals * 2.0**-bits
    found: Tensor = low.jobs[name]
    return found


def _given(low: Lowered, geometry: Geometry, words: Words) -> dict[str, Any]:
    """Arguments of the kernel that follow from the column and the shape of its inputs."""
    column, layout, device = low.column, low.column.layout, words.data.device
    macro, code, law = column.macro, column.code, column.law
    assert macro.inputs is not None
    batch, *size, all_channels = words.data.shape
    out, channels = words.outer(geometry), all_channels // layout.groups
    jumps = (size[1] * size[2] * all_channels, size[2] * all_channels, all_channels)  # of planes, rows, columns
    strides = extents(geometry.stride, 1) if isinstance(geometry, Conv) else (1, 1, 1)
    lengths = [-(-count // CHUNK) for _, count, _, _ in layout.spans]
    first = [sum(lengths[:t]) for t in range(len(lengths) + 1)]
    run = math.gcd(channels, 16, *(start for start, _, _, _ in layout.spans))
    curves = {**_curve("mean", column.mean), **_curve("noise", column.noise)}
    if "gpu cells" not in low.jobs:
        low.jobs["gpu cells"] = _cells(low)
    cells = low.jobs["gpu cells"]
    fields = [(0, mask << at, at) if mask << at < 1 << STEPS else (at, mask, 0) for at, mask in low.fields]
    cell_variance = column.cell_variance
    noise = code.noise if code is not None else None
    return {
        "offsets": (_offsets(low, geometry, jumps, channels)[::run] // run).to(device),
        "first": torch.tensor(first, dtype=torch.int32, device=device),
        "counts": torch.tensor([count for _, count, _, _ in layout.spans], dtype=torch.int32, device=device),
        "rows": batch * math.prod(out),
        "positions": math.prod(out),
        "out_x": out[2],
        "out_y": out[1],
        "sample_jump": size[0] * jumps[0],
        "z_jump": strides[0] * jumps[0],
        "y_jump": strides[1] * jumps[1],
        "x_jump": strides[2] * jumps[2],
        "channels": channels,
        "cells": cells,
        "radix": torch.tensor(column.radix, dtype=torch.int32, device=device),
        "start": low.start,
        "leg_gain": low.spread[0] if low.spread else None,
        "leg_offset": low.spread[1] if low.spread else None,
        "depth": cells.shape[-2],
        "width": cells.shape[-1],
        "outputs": layout.outputs,
        "reads": layout.reads,
        "conversions": layout.conversions,
        **curves,
        "slopes": low.slope,
        "unit": column.unit,
        "cell_variance": None if cell_variance is None else cell_variance * len(macro.leg_signs),
        "code_variance": None if noise is None else float(torch.tensor(noise).square()),  # in float32
        "most": code.most if code is not None else 0,
        "edges": low.edges,
        "which": low.which,
        "law": law.words if law is not None else None,
        "ideal_codes": law.ideal_codes if law is not None else 0,
        "noise_words": noise_words(column) * layout.reads * layout.groups,
        "group_words": noise_words(column),
        "radix_sum": sum(column.pass_radix) * sum(column.radix) * layout.reads,
        "inside_weight": float(weight(column)),
        "DOWNS": tuple(down for down, _, _ in fields),
        "KEPTS": tuple(kept for _, kept, _ in fields),
        "UPS": tuple(up for _, _, up in fields),
        "PASSES": column.pass_radix,
        "DIGIT_LOW": macro.inputs.digit_low,
        "LEGS": low.legs,
        "LIMBS": cells.shape[3],
        "ONE": max(lengths) == 1,
        "RUN": run,
        "BY_LEGS": low.by_legs,
        "LAW_BITS": law.bits if law is not None else -1,
        "CODE_BITS": code.most.bit_length() if code is not None and low.edges is not None else 0,
    }


def _cells(low: Lowered) -> Tensor:
    """Cells as halves, (G, C, L, limbs, rows in chunks of 64, outputs in vectors of 16)."""
    cells, spans = low.whole_cells, low.column.layout.spans
    padded = F.pad(cells, (0, -cells.shape[-1] % LANES, 0, 0, 0, 0, 0, -cells.shape[2] % CHUNK))
    tall = padded.shape[2]
    used = [t * tall + i for t, (_, count, _, _) in enumerate(spans) for i in range(-(-count // CHUNK) * CHUNK)]
    rest = padded.flatten(1, 2)[:, torch.tensor(used, device=cells.device)].permute(0, 2, 3, 1, 4)
    most, parts = int(cells.abs().max()) if cells.numel() else 0, []
    while most > 1 << LIMB:
        part = ((rest + (1 << LIMB - 1)) & ((1 << LIMB) - 1)) - (1 << LIMB - 1)
        parts.append(part)
        rest, most = (rest - part) >> LIMB, (most + (1 << LIMB - 1)) >> LIMB
    return torch.stack([*parts, rest], dim=3).half().contiguous()


def _curve(name: str, lookup: Lookup | None) -> dict[str, Any]:
    parts = (None, None, 0, 0.0, 1.0)
    if lookup is not None:
        parts = (lookup.value, lookup.rise, len(lookup.value), lookup.low, lookup.pitch)  # type: ignore[assignment]
    return {
        f"{name}_{part}": value for part, value in zip(("value", "rise", "nodes", "low", "pitch"), parts, strict=True)
    }


def _offsets(low: Lowered, geometry: Geometry, jumps: tuple[int, int, int], channels: int) -> Tensor:
    """Where the input of each row of each chunk lies, from the first input of a position on: (chunks · 64,) int32."""
    spans = low.column.layout.spans
    rows = torch.cat([torch.arange(start, start + -(-count // CHUNK) * CHUNK) for start, count, _, _ in spans])
    if not isinstance(geometry, Conv):
        return rows.int()
    kernel, dilation = extents(geometry.kernel, 1), extents(geometry.dilation, 1)
    beyond = (rows - (math.prod(kernel) * channels - 1)).clamp(min=0)  # rows that are off read what follows the last
    rows = rows - beyond
    tap, offset = rows // channels, rows % channels + beyond
    for extent, pitch, jump in zip(kernel[::-1], dilation[::-1], jumps[::-1], strict=True):
        offset, tap = offset + tap % extent * pitch * jump, tap // extent
    return offset.int()
