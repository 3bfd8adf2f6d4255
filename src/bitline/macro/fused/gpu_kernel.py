"""The kernel of the fused plan on CUDA, in Triton: what ``kernel.cpp`` does on the CPU, bit for bit.

A program reads a block of positions and outputs: for each conversion, row group and pass a product on tensor cores,
and the converter on what it gives. Digits meet cells as halves: the bits of a field, left where they are, are a
subnormal half that is the digit times a power of two, so that one AND makes an operand. Sums are exact in float32, as
are totals of codes.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, disable-error-code="has-type"

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from bitline.macro.fused.lower import LANES

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
STEPS = 11  # bits of a half that count evenly from its smallest number, 2^-24, on
LIMB = 11  # bits of a cell in each limb but the last: halves hold whole numbers up to 2^11

CONFIGS = [
    triton.Config({"BM": bm, "BN": bn}, num_warps=warps, num_stages=stages)
    for bm, bn, warps, stages in (
        (64, 64, 4, 3),
        (128, 16, 4, 3),
        (64, 32, 4, 3),
        (128, 32, 4, 3),
        (128, 64, 8, 3),
        (64, 128, 4, 3),
        (64, 128, 8, 3),
    )
]


def _fitting(configs: list[Any], named: dict[str, Any], **more: Any) -> list[Any]:
    """Configurations whose blocks are not wider than the outputs need."""
    most = max(LANES, triton.next_power_of_2({**named, **more}["outputs"]))
    return [config for config in configs if config.kwargs["BN"] <= most]


# ------------------------------------------------------------------------------------------------- parts of the kernel


@triton.jit
def _scramble(z):
    """SplitMix64, as draws.py."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def _placed(u, by, shift, SHARES: tl.constexpr):
    """u · by + shift, rounded once; as ``SHARES`` of a converter's range clipped to 0 … 1."""
    if not SHARES:
        return tl.fma(u, by, shift)
    if INTERPRETED:
        return tl.minimum(tl.maximum(tl.fma(u, by, shift), 0.0), 1.0)
    return tl.inline_asm_elementwise("fma.rn.sat.f32 $0, $1, $2, $3;", "=f,f,f,f", [u, by, shift], tl.float32, True, 1)


@triton.jit
def _noised(place, noise, SHARES: tl.constexpr):
    """Place and noise, clipped like ``_placed``."""
    if not SHARES:
        return place + noise
    if INTERPRETED:
        return tl.minimum(tl.maximum(place + noise, 0.0), 1.0)
    return tl.inline_asm_elementwise("add.rn.sat.f32 $0, $1, $2;", "=f,f,f", [place, noise], tl.float32, True, 1)


@triton.constexpr_function
def _bias(bits):
    """Bits of 2^(23 - bits) as float32."""
    return (150 - bits) << 23


@triton.constexpr_function
def _magnitude(value):
    """|value|."""
    return abs(value)


@triton.jit
def _floored(x, BITS: tl.constexpr):
    """Multiples of 2^-BITS in ``x``, which lies in 0 … 1 (2^22 where BITS is 0), counted from ``_bias`` on."""
    if INTERPRETED:
        return tl.floor(x * 2.0**BITS).to(tl.int32) + _bias(BITS)
    grid = tl.full([], 2.0 ** (23 - BITS), tl.float32)  # numbers of float32 lie 2^-BITS apart there
    return tl.inline_asm_elementwise("add.rm.f32 $0, $1, $2;", "=r,f,f", [x, grid], tl.int32, True, 1)


@triton.jit
def _interpolated(u, value, rise, nodes, low, pitch):
    """Linear interpolation over evenly spaced nodes, as macro/curves.py: (value, node)."""
    place = tl.math.div_rn(u - low, pitch)
    node = tl.minimum(tl.maximum(tl.floor(place), 0.0), nodes - 1.0)
    at = node.to(tl.int32)
    return tl.load(value + at) + tl.load(rise + at) * (place - node), at


@triton.jit
def _inputs(words, base, offsets, q, RUN: tl.constexpr):
    """Words of the block's positions that meet the rows of chunk ``q``, (BM, 64); ``RUN`` of them lie together."""
    RUNS: tl.constexpr = 64 // RUN
    offset = tl.load(offsets + q * RUNS + tl.arange(0, RUNS)) * RUN
    at = base[:, None, None] + offset[None, :, None] + tl.arange(0, RUN)[None, None, :]
    return tl.load(words + at).reshape(base.shape[0], 64).to(tl.int16)


@triton.jit
def _operand(w, DOWN: tl.constexpr, KEPT: tl.constexpr):
    """A digit of each word, times a power of two, as a half."""
    if DOWN > 0 or INTERPRETED:
        digit = (w >> DOWN) & KEPT
    else:  # two at once, which the compiler does not see
        mask = tl.full([], KEPT, tl.int16)
        digit = tl.inline_asm_elementwise("and.b32 $0, $1, $2;", "=r,r,r", [w, mask], tl.int16, True, 2)
    return digit.to(tl.float16, bitcast=True)


@triton.jit
def _sums(a, cells, q, n, width):
    """Exact sums over one chunk, (BM, BN), in units of the operand's smallest number."""
    rows = (q * 64 + tl.arange(0, 64)).to(tl.int64) * width
    b = tl.load(cells + rows[:, None] + n[None, :], mask=(n < width)[None, :], other=0.0)
    return tl.dot(a, b, out_dtype=tl.float32)


@triton.jit
def _column(
    w, words, base, offsets, cells, q, more, limb_jump, n, width,
    DOWN: tl.constexpr, KEPT: tl.constexpr, LIMBS: tl.constexpr, ONE: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """Sums of one row group, pass and leg, limbs added up."""
    if ONE:
        a = _operand(w, DOWN, KEPT)
        u = _sums(a, cells, q, n, width)
        for limb in tl.static_range(1, LIMBS):
            u += _sums(a, cells + limb * limb_jump, q, n, width) * (1 << (11 * limb))
    else:
        u = tl.zeros([base.shape[0], n.shape[0]], tl.float32)
        for i in range(q, more):
            a = _operand(_inputs(words, base, offsets, i, RUN), DOWN, KEPT)
            for limb in tl.static_range(LIMBS):
                u += _sums(a, cells + limb * limb_jump, i, n, width) * (1 << (11 * limb))
    return u


@triton.jit
def _power(
    w, words, base, offsets, q, more, count,
    DOWN: tl.constexpr, KEPT: tl.constexpr, UP: tl.constexpr, LOW: tl.constexpr, ONE: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """Sum of squared digits of each position in one row group and pass, (BM,)."""
    total = tl.zeros([base.shape[0]], tl.float32)
    for i in range(q, more):
        each = w
        if not ONE:
            each = _inputs(words, base, offsets, i, RUN)
        digit = (((each >> DOWN) & KEPT) >> UP).to(tl.int32) + LOW
        on = (i - q) * 64 + tl.arange(0, 64) < count
        total += tl.sum(tl.where(on[None, :], digit * digit, 0), 1).to(tl.float32)
    return total


@triton.jit
def _normals(drawn, magnitudes):
    """Signed magnitudes of 16 conversions for each 32 bits drawn, (BM, vectors) uint32: (BM, 16 · vectors)."""
    lane = tl.arange(0, 16)
    row = ((drawn >> 16) & 4095) * 16
    bits = tl.load(magnitudes + (row[:, :, None] + lane[None, None, :]).to(tl.int32)).to(tl.uint32, bitcast=True)
    bits ^= (drawn[:, :, None] << (31 - lane)[None, None, :].to(tl.uint32)) & 0x80000000
    return bits.reshape(drawn.shape[0], drawn.shape[1] * 16).to(tl.float32, bitcast=True)


# ---------------------------------------------------------------------------------------------------------- the kernel


@triton.autotune(
    configs=CONFIGS[:1] if INTERPRETED.value else CONFIGS,
    key=["size", "outputs", "reads", "conversions", "PASSES", "NOISE", "WHAT"],
    prune_configs_by={"early_config_prune": _fitting},
    cache_results=True,
)
@triton.jit
def mac(
    # inputs: words, their offsets from the first of a position, chunks of row groups (T + 1), rows of each
    words, offsets, first, counts, rows, positions, out_x, out_y, sample_jump, z_jump, y_jump, x_jump, channels,
    # columns: as Job in kernel/jobs.h, cells as halves (G, C, L, limb, rows, outputs)
    cells, radix, start, factor, shift, leg_gain, leg_offset, depth, width, outputs, reads, conversions,
    mean_value, mean_rise, mean_nodes, mean_low, mean_pitch,
    noise_value, noise_rise, noise_nodes, noise_low, noise_pitch,
    slopes, unit, cell_variance, code_variance,
    # converters
    most, edges, which, law, ideal_codes, keys, magnitudes, noise_words, group_words, radix_sum,
    # what comes out
    y, inside, slope, step, gain, constant, scale, bias, low_over_step, inside_weight, size,
    y_sample, y_position, y_output,
    DOWNS: tl.constexpr, KEPTS: tl.constexpr, UPS: tl.constexpr, PASSES: tl.constexpr, DIGIT_LOW: tl.constexpr,
    LEGS: tl.constexpr, LIMBS: tl.constexpr, ONE: tl.constexpr, RUN: tl.constexpr, BY_LEGS: tl.constexpr,
    NOISE: tl.constexpr, LAW_BITS: tl.constexpr, CODE_BITS: tl.constexpr, BITS: tl.constexpr, WHAT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """A block of positions by a block of outputs, read, converted and added up."""
    P: tl.constexpr = len(PASSES)
    UNIFORM: tl.constexpr = LAW_BITS < 0 and CODE_BITS == 0
    BIAS: tl.constexpr = _bias(BITS) if UNIFORM else 0  # of each code
    vectors = width // 16
    tiles = tl.cdiv(width, BN)
    g = tl.program_id(1)
    m = tl.program_id(0) // tiles * BM + tl.arange(0, BM)
    first_n = tl.program_id(0) % tiles * BN
    n = first_n + tl.arange(0, BN)
    row = tl.minimum(m, rows - 1)
    place_of = row % positions
    base = row // positions * sample_jump + place_of % out_x * x_jump + g * channels
    base += place_of // out_x % out_y * y_jump + place_of // (out_x * out_y) * z_jump
    vector = tl.minimum(n // 16, vectors - 1)
    lane = n % 16
    group = tl.num_programs(1)
    if NOISE or LAW_BITS >= 0:
        state = tl.load(keys + row // positions).to(tl.uint64, bitcast=True)
        state += place_of.to(tl.uint64) * noise_words * GOLDEN
    total = tl.zeros([BM, BN], tl.int32)
    if inside is not None:
        outside = tl.zeros([BM, BN], tl.float32)
    if slope is not None:
        slope_sum = tl.zeros([BM, BN], tl.float32)
    if step is not None:
        step_sum = tl.zeros([BM, BN], tl.float32)
    for c in range(conversions):
        digit_radix = tl.load(radix + c)
        column = (g * vectors + vector) * conversions + c
        limb_jump = depth.to(tl.int64) * width
        cells_of = cells + (g * conversions + c) * (LEGS * LIMBS) * limb_jump
        if slope is not None:
            slope_of = tl.zeros([BM, BN], tl.float32)
        if step is not None:
            step_of = tl.zeros([BM, BN], tl.float32)
        for t in range(reads):
            at = (column * reads + t) * 16 + lane
            factor_of = tl.load(factor + at)
            shift_of = tl.load(shift + at) * 2.0**-BITS
            if ONE:
                q = t
                more = t + 1
                w = _inputs(words, base, offsets, q, RUN)
            else:
                q = tl.load(first + t)
                more = tl.load(first + t + 1)
                w = 0
            counter = ((t * group + g) * group_words).to(tl.uint64)
            for p in tl.static_range(P):
                # ---- the analog side
                if BY_LEGS:
                    for leg in tl.static_range(LEGS):
                        u = _column(
                            w, words, base, offsets, cells_of + leg * LIMBS * limb_jump, q, more, limb_jump, n, width,
                            DOWNS[p], KEPTS[p], LIMBS, ONE, RUN,
                        )  # fmt: skip
                        u *= 2.0 ** (24 - UPS[p])
                        leg_at = ((column * LEGS + leg) * reads + t) * 16 + lane
                        if start is not None:
                            u += tl.load(start + leg_at).to(tl.float32)[None, :]
                        plain = u * unit
                        each = plain
                        if leg_gain is not None:
                            each = each * tl.load(leg_gain + leg_at)[None, :] + tl.load(leg_offset + leg_at)[None, :]
                        if mean_value is not None:
                            each, node = _interpolated(each, mean_value, mean_rise, mean_nodes, mean_low, mean_pitch)
                            if slope is not None:
                                rise = tl.load(slopes + node)
                                leg_slope = rise if leg == 0 else (leg_slope + rise) * 0.5
                        if noise_value is not None:
                            spread, _ = _interpolated(
                                plain, noise_value, noise_rise, noise_nodes, noise_low, noise_pitch
                            )
                            variance = spread * spread if leg == 0 else variance + spread * spread
                        value = each if leg == 0 else value - each
                    place = value * factor_of[None, :] + shift_of[None, :]
                    if NOISE:
                        if cell_variance is not None:
                            power = _power(
                                w, words, base, offsets, q, more, tl.load(counts + t),
                                DOWNS[p], KEPTS[p], UPS[p], DIGIT_LOW, ONE, RUN,
                            )  # fmt: skip
                            extra = (power * cell_variance)[:, None]
                            if noise_value is not None:
                                variance += extra
                            else:
                                variance = tl.broadcast_to(extra, (BM, BN))
                        if noise_value is not None or cell_variance is not None:
                            sigma = tl.sqrt_rn(variance) * factor_of[None, :]
                            if code_variance is not None:
                                sigma = tl.sqrt_rn(sigma * sigma + code_variance)
                        else:
                            sigma = tl.zeros([BM, BN], tl.float32) + tl.sqrt_rn(
                                tl.zeros([BM, BN], tl.float32) + code_variance
                            )
                else:
                    u = _column(
                        w, words, base, offsets, cells_of, q, more, limb_jump, n, width,
                        DOWNS[p], KEPTS[p], LIMBS, ONE, RUN,
                    )  # fmt: skip
                    by = factor_of
                    if start is not None:
                        u = u * 2.0 ** (24 - UPS[p]) + tl.load(start + at).to(tl.float32)[None, :]
                        by *= 2.0**-BITS
                    else:
                        by *= 2.0 ** (24 - UPS[p] - BITS)
                    place = _placed(u, by[None, :], shift_of[None, :], BITS > 0 and not NOISE)
                # ---- fresh noise
                if NOISE:
                    block = first_n // 16 + tl.arange(0, BN // 16)
                    drawing = (c * vectors + block) * P + p
                    if P % 2 == 0:  # two passes share a word
                        if p % 2 == 0:
                            counters = (counter + (drawing // 2).to(tl.uint64)) * GOLDEN
                            word = _scramble(state[:, None] + counters[None, :])
                        drawn = (word >> (p % 2 * 32)).to(tl.uint32)
                    else:
                        counters = (counter + (drawing // 2).to(tl.uint64)) * GOLDEN
                        word = _scramble(state[:, None] + counters[None, :])
                        drawn = (word >> (drawing % 2 * 32).to(tl.uint64)[None, :]).to(tl.uint32)
                    noise = _normals(drawn, magnitudes)
                    if BY_LEGS:
                        noise *= sigma
                    place = _noised(place, noise, BITS > 0)
                # ---- the converter
                if LAW_BITS >= 0:
                    ideal = tl.minimum(tl.maximum(place, 0.0), ideal_codes - 0.5).to(tl.int32)
                    table = ideal
                    if which is not None:
                        table += (tl.load(which + at).to(tl.int32) * ideal_codes)[None, :]
                    drawing = ((c * vectors + n // 16) * P + p) * 8 + lane // 2
                    counters = (counter + drawing.to(tl.uint64)) * GOLDEN
                    word = _scramble(state[:, None] + counters[None, :])
                    random = (word >> (lane % 2 * 32).to(tl.uint64)[None, :]).to(tl.uint32)
                    bin_of = (random >> (32 - LAW_BITS)).to(tl.int32) if LAW_BITS > 0 else table * 0
                    rest = random & ((1 << (32 - LAW_BITS)) - 1)
                    entry = tl.load(law + (table.to(tl.int64) << LAW_BITS) + bin_of).to(tl.uint32, bitcast=True)
                    alias = (entry & ((1 << LAW_BITS) - 1)).to(tl.int32)
                    code = tl.where(rest < (entry >> LAW_BITS), bin_of, alias)
                elif CODE_BITS > 0:
                    found = tl.zeros([BM, BN], tl.int32)
                    edges_of = edges + tl.zeros([BN], tl.int32)
                    if which is not None:
                        edges_of = edges + tl.load(which + at).to(tl.int32) * most
                    for i in tl.static_range(CODE_BITS):
                        edge = tl.load(edges_of[None, :] + found + ((1 << (CODE_BITS - 1 - i)) - 1))
                        found += tl.where(edge <= place, 1 << (CODE_BITS - 1 - i), 0)
                    code = found
                else:
                    held = place if BITS > 0 else tl.maximum(place, 0.0)
                    code = _floored(tl.minimum(held, (most + 0.5) * 2.0**-BITS), BITS)
                # ---- the digital side
                total += code * (digit_radix * PASSES[p])
                if inside is not None or slope is not None or step is not None:
                    clipped = (place < 0.0) | (place >= most + 1.0)
                    if inside is not None:
                        outside += tl.where(clipped, tl.abs(digit_radix * PASSES[p]).to(tl.float32), 0.0)
                    if slope is not None:
                        if LAW_BITS >= 0:
                            slope_of += tl.load(slopes + table) * _magnitude(PASSES[p])
                        elif mean_value is not None:
                            slope_of += tl.where(clipped, 0.0, leg_slope) * _magnitude(PASSES[p])
                        else:
                            slope_of += tl.where(clipped, 0.0, 1.0) * _magnitude(PASSES[p])
                    if step is not None:
                        ratio = tl.load(low_over_step + (g * vectors + vector) * 16 + lane)[None, :]
                        value = (code - BIAS).to(tl.float32)
                        step_of += tl.where(clipped, value + ratio, value - (place - 0.5)) * PASSES[p]
        if slope is not None:
            slope_sum += slope_of * tl.abs(digit_radix).to(tl.float32)
        if step is not None:
            step_sum += step_of * digit_radix.to(tl.float32)
    at = (g * vectors + vector) * 16 + lane
    read = (total - BIAS * radix_sum).to(tl.float32) * tl.load(gain + at)[None, :] + tl.load(constant + at)[None, :]
    if scale is not None:
        read *= tl.load(scale + at)[None, :]
    if bias is not None:
        read += tl.load(bias + at)[None, :]
    there = (m < rows)[:, None] & (n < outputs)[None, :]
    into = (row // positions * y_sample + place_of * y_position)[:, None] + ((g * outputs + n) * y_output)[None, :]
    tl.store(y + into, read, mask=there)
    if inside is not None:
        tl.store(inside + into, 1.0 - tl.math.div_rn(outside, inside_weight), mask=there)
    if slope is not None:
        tl.store(slope + into, tl.math.div_rn(slope_sum, inside_weight), mask=there)
    if step is not None:
        tl.store(step + into, step_sum, mask=there)
