// What the kernel is asked to do, a structure each, mirrored in native.py; memory and threads of its own.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#ifndef _OPENMP
#include <thread>
#endif
#include <vector>

namespace {

constexpr int64_t LANES = 16;       // outputs in a vector, positions in a block
constexpr int64_t CHUNK = 64;       // rows in a product
constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15ull;

// What a read needs.
enum : int { NOISE = 1, LEGS = 2, EDGES = 4, LAW = 8, INSIDE = 16, SLOPE = 32, STEP = 64, ANY = 128 };

// Linear interpolation over evenly spaced nodes, as macro/curves.py: Lookup.
struct Curve {
    const float *value, *rise;
    int64_t nodes;
    float low, pitch;
};

// One layer's read. Arrays per column are padded to whole vectors: [G][blocks of outputs][C](…)[T][16].
struct Job {
    // where inputs are: words (batch, size[0..2], groups * channels) and 64 more, digits in their bit fields
    const void *words;
    int64_t word_bytes, batch, groups, channels;
    int64_t size[3], kernel[3], stride[3], dilation[3], out[3];
    // the machine: T row groups; P digit fields of (shift, mask); P, then C radices of (log2 of the magnitude, whether
    // negative); chunks of at most 64 rows, each (row group's rows, first input, count, where), T + 1 first chunks
    int64_t reads, passes, conversions, legs, limbs, outputs;
    const int64_t *fields, *radix, *chunks, *firsts;
    int64_t merged;        // two limbs in one sum: the second meets digits times 128
    const int8_t *cells;   // [G][NB][C][L][chunks][limb][16 rows of 4][16 outputs][4]
    const int32_t *start;  // [G][NB][C][L][T][16] sum of a column for all digits at their lowest; or null
    // how positions are walked: planes of lines of `width` positions, their inputs `across` words apart, lines `down`,
    // planes `deep` (one sample: `sample`, of `depth` planes); `reach` words from a position's first input to its last
    int64_t image;         // 1: chunks are read from digit planes of the inputs as they lie; 0: rows are gathered
    int64_t planes, depth, lines, width, strip, across, down, deep, sample, reach;
    // the analog side
    const float *factor, *shift; // [G][NB][C][T][16] place = sum * factor + shift
    const float *leg_gain, *leg_offset; // [G][NB][C][L][T][16] or null
    Curve mean, noise;           // value null where absent
    const float *slope;          // mean read slope at each node of `mean`, or at each ideal code of `law`; or null
    float unit, cell_variance, code_noise;
    const float *low_over_step;  // [G][NB][16] first code's value in steps, where `step` is wanted
    // the converter
    int64_t most, digit_low;
    const float *edges;          // thresholds (converters, most), or null
    const int64_t *which;        // [G][NB][C][T][16] converter (or table) of each conversion, or null
    const uint32_t *law;         // (tables * ideal codes, 2^law_bits) cut, and in the last law_bits alias; or null
    int64_t law_bits, ideal_codes;
    // fresh noise: a key for each sample, words of noise for each position
    const int64_t *keys;
    int64_t noise_words, group_words;
    const float *normals;        // (4096, 16) magnitudes, in steps of the converter unless legs are read one by one
    // what comes out, (batch, positions, groups * outputs), or planar: (batch, groups * outputs, positions)
    int64_t planar;
    float *y, *inside, *mean_slope, *step;
    const float *gain, *constant, *scale, *bias; // [G][NB][16]; scale and bias may be null
    const float *add;            // of the shape of y, added to it; or null
    int64_t relu;                // last of all, nothing below zero
    float inside_weight;
    int64_t what;                // see below
    int64_t threads, tall, split; // lines in a piece of work; pieces that share its outputs
    int64_t clipped;             // set to 1 where any conversion was clipped and `inside` is wanted
};

// Inputs to words: code = clamp(round(x / scale + zero)), word = code >= 0 ? code + above : ((code * sign) << left) + below.
struct Pack {
    const float *x;
    int64_t batch, channels, size[3], jump[5], before[3], after[3];
    float scale, zero, low, high;
    int64_t grid;                // 1: every integer; 2: odd ones
    int64_t above, below, sign, left, pad;
    void *words;
    int64_t word_bytes, threads;
    // backward only: gradient of the codes (padded, channels last), of x (jumps of x), sums for scale and zero
    const float *grad;
    float *grad_x;
    double *sums;                // (batch, 2)
    int64_t rounded;
};

// Gradient of outputs to that of the counts read: passed = grad * scale * share, outputs last; sums of grad * y.
struct Pass {
    const float *grad, *share, *y, *scale; // (batch, outputs, positions); scale (outputs); share and y may be null
    float *passed;                         // (batch, positions, outputs)
    double *sums;                          // (batch, outputs), where there is y
    int64_t batch, outputs, positions, threads;
};

inline uint64_t scramble(uint64_t z) { // SplitMix64, as draws.py
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

// Memory of one thread, aligned to cache lines.
template <class T> struct Buffer {
    std::vector<char> held;
    T *at;
    explicit Buffer(size_t n) : held(n * sizeof(T) + 128, 0) {
        at = reinterpret_cast<T *>((reinterpret_cast<uintptr_t>(held.data()) + 63) / 64 * 64);
    }
};

// Runs `work` on so many threads at once; it takes pieces from a shared counter until none are left. With OpenMP these
// are the threads torch uses, which wait for work by spinning and would otherwise take the cores away.
template <class Work> void parallel(int64_t threads, Work work) {
#ifdef _OPENMP
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    work();
#else
    std::vector<std::thread> others;
    for (int64_t i = 1; i < threads; i++) others.emplace_back(work);
    work();
    for (auto &thread : others) thread.join();
#endif
}

typedef uint16_t H __attribute__((vector_size(64), aligned(1), may_alias));
typedef uint8_t B __attribute__((vector_size(64), aligned(1), may_alias));

} // namespace
