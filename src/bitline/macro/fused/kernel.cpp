// The fused plan: the machine's loop over passes, row groups and conversions, partial sums in registers and L1 only.
//
// A plain C interface (bitline_*), called through ctypes: the structures below are mirrored in native.py, and ABI counts
// their changes. The body is compiled once for each instruction set by including this file again; the best one that
// the processor has is taken at run time. Arithmetic is IEEE float32, one rounding an operation (-ffp-contract=off), in
// the order of the reference plan, so that both agree bit for bit.
#ifndef BITLINE_BODY
#define BITLINE_BODY

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#ifndef _OPENMP
#include <thread>
#endif
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#define BITLINE_X86 1
#include <immintrin.h>
#endif
#if defined(BITLINE_X86) && defined(__linux__)
#define BITLINE_AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

#define INLINE TARGET inline __attribute__((always_inline))

#define ISA portable
#define TARGET
#define LEVEL 0
#include "kernel.cpp"
#undef ISA
#undef TARGET
#undef LEVEL

#ifdef BITLINE_X86
#define ISA avx2
#define TARGET __attribute__((target("avx2,fma,bmi2")))
#define LEVEL 1
#include "kernel.cpp"
#undef ISA
#undef TARGET
#undef LEVEL

#define ISA avx512
#define TARGET __attribute__((target("fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi2,prefer-vector-width=512")))
#define LEVEL 2
#include "kernel.cpp"
#undef ISA
#undef TARGET
#undef LEVEL
#endif

#ifdef BITLINE_AMX
#define ISA amx
#define TARGET                                                                                                          \
    __attribute__((target("fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,bmi2,amx-tile,amx-int8,prefer-vector-width=512")))
#define LEVEL 3
#include "kernel.cpp"
#undef ISA
#undef TARGET
#undef LEVEL
#endif

namespace {

int supported() {
#ifdef BITLINE_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512vnni"))
        return 1;
#ifdef BITLINE_AMX
    unsigned a, b, c, d;
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
    constexpr unsigned TILES = 1u << 24 | 1u << 25; // AMX-TILE, AMX-INT8
    if ((d & TILES) == TILES && syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0)
        return 3;
#endif
    return 2;
#else
    return 0;
#endif
}

std::atomic<int> &level() {
    static std::atomic<int> found{supported()};
    return found;
}

} // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int bitline_abi() { return 6; }

EXPORT const char *bitline_cpu() {
    static const char *const names[] = {"portable", "AVX2", "AVX-512 VNNI", "AMX"};
    return names[level()];
}

// Take instruction set `wanted` (0 portable … 3 AMX) or the best there is below it; says which.
EXPORT int bitline_use(int wanted) {
    level() = std::max(0, std::min(wanted, supported()));
    return level();
}

EXPORT void bitline_mac(Job *job) {
    switch (level()) {
#ifdef BITLINE_AMX
    case 3: return amx::mac(*job);
#endif
#ifdef BITLINE_X86
    case 2: return avx512::mac(*job);
    case 1: return avx2::mac(*job);
#endif
    default: return portable::mac(*job);
    }
}

EXPORT int64_t bitline_pack(const Pack *pack) {
    switch (level()) {
#ifdef BITLINE_X86
    case 3:
    case 2: return avx512::pack(*pack);
    case 1: return avx2::pack(*pack);
#endif
    default: return portable::pack(*pack);
    }
}

EXPORT void bitline_numbers(const uint8_t *words, int64_t n, float above, float *into, int64_t threads) {
    switch (level()) {
#ifdef BITLINE_X86
    case 3:
    case 2: return avx512::numbers(words, n, above, into, threads);
    case 1: return avx2::numbers(words, n, above, into, threads);
#endif
    default: return portable::numbers(words, n, above, into, threads);
    }
}

EXPORT void bitline_pass(const Pass *pass) {
    switch (level()) {
#ifdef BITLINE_X86
    case 3:
    case 2: return avx512::pass(*pass);
    case 1: return avx2::pass(*pass);
#endif
    default: return portable::pass(*pass);
    }
}

EXPORT void bitline_unpack(const Pack *pack) {
    switch (level()) {
#ifdef BITLINE_X86
    case 3:
    case 2: return avx512::unpack(*pack);
    case 1: return avx2::unpack(*pack);
#endif
    default: return portable::unpack(*pack);
    }
}

#else // the body, once for each instruction set

namespace {
namespace ISA {

#include "vectors.h"

// ---- sums: 16 positions by 16 outputs, over `n` chunks of 64 rows, for `planes` passes at once --------------------

// Rows of a product: where their digits begin, and how many fours of rows there are; from there on cells are 0.
// `times`: what their products count in the sum, where that is not in the digits.
struct Chunk {
    int64_t from, fours, times;
};
constexpr bool TWICE = LEVEL != 1; // merged limbs have digits of their own, 128 times; else the second meets the first's

// a: digits of one pass, 64 a chunk and position, positions `step` bytes apart, chunk q as at[q] says; b: cells of the
// chunks, `b_jump` apart; u: (16, 16) sums. Where there are few chunks, `hold` keeps their cells for the sums of all passes:
// `held` begins a sum and `keep` stores it, so that other work fits between.
#if LEVEL == 3
constexpr int64_t HELD = 4;
TARGET inline void hold(const int8_t *b, int64_t n) {
    _tile_loadd(4, b, 64);
    if (n > 1) _tile_loadd(5, b + 1024, 64);
    if (n > 2) _tile_loadd(6, b + 2048, 64);
    if (n > 3) _tile_loadd(7, b + 3072, 64);
}
TARGET inline void held(const uint8_t *a, int64_t step, const Chunk *at, int64_t n) {
    _tile_zero(0);
    _tile_loadd(1, a + at[0].from, step);
    _tile_dpbusd(0, 1, 4);
    if (n > 1) {
        _tile_loadd(2, a + at[1].from, step);
        _tile_dpbusd(0, 2, 5);
    }
    if (n > 2) {
        _tile_loadd(3, a + at[2].from, step);
        _tile_dpbusd(0, 3, 6);
    }
    if (n > 3) {
        _tile_loadd(1, a + at[3].from, step);
        _tile_dpbusd(0, 1, 7);
    }
}
TARGET inline void keep(int32_t *u) { _tile_stored(0, u, 64); }
TARGET inline void sums(int32_t *u, const uint8_t *a, int64_t step, const Chunk *at, const int8_t *b, int64_t b_jump,
                        int64_t n, int64_t, int64_t) {
    _tile_zero(0);
    for (int64_t q = 0; q < n; q++) {
        _tile_loadd(4, b + q * b_jump, 64);
        _tile_loadd(1, a + at[q].from, step);
        _tile_dpbusd(0, 1, 4);
    }
    _tile_stored(0, u, 64);
}
#else
constexpr int64_t HELD = 0;
TARGET inline void hold(const int8_t *, int64_t) {}
TARGET inline void held(const uint8_t *, int64_t, const Chunk *, int64_t) {}
TARGET inline void keep(int32_t *) {}
#if LEVEL == 1
// Four positions: pairs of products add up in 16 bits for `burst` steps. WIDE: digits of eight bits, their highest apart.
template <bool WIDE>
TARGET inline void four(int32_t *u, const uint8_t *a, int64_t step, const Chunk *at, const int8_t *b, int64_t b_jump,
                        int64_t n, int64_t burst) {
    const __m256i high = _mm256_set1_epi16(128);
    const int64_t chunks = std::max<int64_t>(1, burst / 16), steps = std::min<int64_t>(16, burst);
    for (int64_t first = 0, last; first < n; first = last) {
        last = first + 1;
        while (last < std::min(n, first + chunks) && at[last].times == at[first].times) last++;
        const __m256i times = _mm256_set1_epi16((int16_t)at[first].times);
        for (int64_t begin = 0; begin < 16; begin += steps) {
            const bool fresh = first + begin == 0;
            __m256i part[8] = {}, top[8] = {};
            for (int64_t q = first; q < last; q++)
                for (int64_t k = begin; k < std::min(at[q].fours, begin + steps); k++) {
                    const uint8_t *from = a + at[q].from + k * 4;
                    const __m256i *cells = reinterpret_cast<const __m256i *>(b + q * b_jump + k * 64);
                    const __m256i left = _mm256_loadu_si256(cells), right = _mm256_loadu_si256(cells + 1);
#pragma GCC unroll 4
                    for (int m = 0; m < 4; m++) {
                        int32_t digits;
                        std::memcpy(&digits, from + m * step, 4);
                        const __m256i all = _mm256_set1_epi32(digits);
                        const __m256i x = WIDE ? _mm256_and_si256(all, _mm256_set1_epi8(127)) : all;
                        part[2 * m] = _mm256_add_epi16(part[2 * m], _mm256_maddubs_epi16(x, left));
                        part[2 * m + 1] = _mm256_add_epi16(part[2 * m + 1], _mm256_maddubs_epi16(x, right));
                        if (!WIDE) continue;
                        const __m256i bit = _mm256_and_si256(_mm256_srli_epi16(all, 7), _mm256_set1_epi8(1));
                        top[2 * m] = _mm256_maddubs_epi16(bit, left);
                        top[2 * m + 1] = _mm256_maddubs_epi16(bit, right);
                    }
                }
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                __m256i sum = _mm256_madd_epi16(part[i], times), *into = reinterpret_cast<__m256i *>(u + 8 * i);
                if (WIDE) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(top[i], high));
                _mm256_storeu_si256(into, fresh ? sum : _mm256_add_epi32(sum, _mm256_loadu_si256(into)));
            }
        }
    }
}
#endif
// `burst`: steps of four rows whose products fit 16 bits in sum; 0 where those of two rows do not.
TARGET inline void sums(int32_t *u, const uint8_t *a, int64_t step, const Chunk *at, const int8_t *b, int64_t b_jump,
                        int64_t n, int64_t rows, int64_t burst) {
    (void)rows, (void)burst;
#if LEVEL == 2
    __m512i total[16];
    for (auto &t : total) t = _mm512_setzero_si512();
    for (int64_t q = 0; q < n; q++)
        for (int64_t k = 0; k < at[q].fours; k++) {
            const __m512i cells = _mm512_loadu_si512(b + q * b_jump + k * 64);
#pragma GCC unroll 16
            for (int m = 0; m < 16; m++) { // of all 16, so that they stay in registers
                int32_t four;
                std::memcpy(&four, a + at[q].from + m * step + k * 4, 4);
                total[m] = _mm512_dpbusd_epi32(total[m], _mm512_set1_epi32(four), cells);
            }
        }
    for (int m = 0; m < 16; m++) _mm512_store_si512(u + m * 16, total[m]);
#elif LEVEL == 1
    for (int64_t m = 0; m < rows; m += 4) {
        if (burst) four<false>(u + m * LANES, a + m * step, step, at, b, b_jump, n, burst);
        else four<true>(u + m * LANES, a + m * step, step, at, b, b_jump, n, 1);
    }
#else
    for (int64_t m = 0; m < rows; m++) {
        int32_t total[16] = {};
        for (int64_t q = 0; q < n; q++)
            for (int64_t k = 0; k < at[q].fours; k++) {
                const uint8_t *x = a + at[q].from + m * step + k * 4;
                const int8_t *c = b + q * b_jump + k * 64;
                for (int o = 0; o < 16; o++)
                    total[o] += x[0] * c[4 * o] + x[1] * c[4 * o + 1] + x[2] * c[4 * o + 2] + x[3] * c[4 * o + 3];
            }
        std::memcpy(u + m * 16, total, sizeof total);
    }
#endif
}
#endif

TARGET inline void begin(int64_t rows) { // what a thread needs before its first sum of so many positions
    (void)rows;
#if LEVEL == 3
    struct alignas(64) {
        uint8_t palette, start, rest[14];
        uint16_t width[16];
        uint8_t rows[16];
    } tiles{};
    tiles.palette = 1;
    for (int i = 0; i < 8; i++) tiles.width[i] = 64, tiles.rows[i] = i < 4 ? (uint8_t)rows : 16; // sums, digits; cells
    _tile_loadconfig(&tiles);
#endif
}

TARGET inline void end() {
#if LEVEL == 3
    _tile_release();
#endif
}

// ---- inputs as digit planes ----------------------------------------------------------------------------------------

// Fields lie within a byte, so that what a 16-bit shift brings from its neighbour is masked.
INLINE B digits(const uint8_t *words, int64_t shift, int64_t mask) {
    return (B)(*reinterpret_cast<const H *>(words) >> (uint16_t)shift) & (uint8_t)mask;
}
INLINE B digits(const uint16_t *words, int64_t shift, int64_t mask) {
    B v;
    for (int k = 0; k < CHUNK; k++) v[k] = (uint8_t)((words[k] >> shift) & mask);
    return v;
}

// Digits of `count` words that lie together, passes `apart`; where limbs are merged, and TWICE, followed by 128 times the same.
template <class Word>
TARGET void spread(const Job &job, const Word *words, int64_t count, uint8_t *into, int64_t apart) {
    for (int64_t p = 0; p < job.passes; p++) {
        const int64_t shift = job.fields[2 * p], mask = job.fields[2 * p + 1], merged = TWICE && job.merged;
        uint8_t *plane = into + p * apart, *high = plane + job.passes * apart;
        for (int64_t i = 0; i < count; i += CHUNK) {
            const B v = digits(words + i, shift, mask);
            *reinterpret_cast<B *>(plane + i) = v;
            if (merged) *reinterpret_cast<H *>(high + i) = (H)v << 7; // of single bits
        }
    }
}

// Inputs of one position, chunk after chunk, from its first word `from`: K words in the order of the rows.
template <class Word> TARGET void gather(const Job &job, const Word *from, Word *room, int64_t chunks, Word *into) {
    const int64_t every = job.groups * job.channels, line = job.size[2] * every, run = job.channels;
    Word *next = room;
    for (int64_t z = 0; z < job.kernel[0]; z++)
        for (int64_t y = 0; y < job.kernel[1]; y++)
            for (int64_t x = 0; x < job.kernel[2]; x++, next += run) {
                const Word *at = from + (z * job.dilation[0] * job.size[1] + y * job.dilation[1]) * line + x * job.dilation[2] * every;
                if (run == 1) *next = *at;
                else std::memcpy(next, at, run * sizeof(Word));
            }
    for (int64_t q = 0; q < chunks; q++, into += CHUNK) {
        const int64_t first = job.chunks[4 * q + 1], count = job.chunks[4 * q + 2];
        std::memcpy(into, room + first, count * sizeof(Word));
    }
}

// Digits of a piece of work: lines `first` … `last` of plane `plane`, of group g.
template <class Word>
TARGET void planes(const Job &job, int64_t g, int64_t plane, int64_t first, int64_t last, int64_t chunks, Word *room,
                   uint8_t *into, int64_t apart) {
    const Word *words = static_cast<const Word *>(job.words) + g * job.channels + plane / job.depth * job.sample +
                        plane % job.depth * job.deep + first * job.down;
    if (job.image) {
        const int64_t rows = job.batch * job.out[0] * job.out[1] * job.out[2] - (plane * job.lines + first) * job.width;
        const int64_t positions = std::min(job.width, rows - (last - 1 - first) * job.width); // of the last line
        return spread(job, words, (last - 1 - first) * job.down + (positions - 1) * job.across + job.reach, into, apart);
    }
    const int64_t strips = (job.width + job.strip - 1) / job.strip;
    Word *row = room + job.channels * job.kernel[0] * job.kernel[1] * job.kernel[2] + CHUNK;
    for (int64_t l = first; l < last; l++)
        for (int64_t i = 0; i < job.width; i++) {
            if ((plane * job.lines + l) * job.width + i >= job.batch * job.out[0] * job.out[1] * job.out[2]) return;
            gather(job, words + (l - first) * job.down + i * job.across, room, chunks, row);
            uint8_t *strip = into + ((l - first) * strips + i / job.strip) * chunks * LANES * CHUNK + i % job.strip * CHUNK;
            for (int64_t q = 0; q < chunks; q++) spread(job, row + q * CHUNK, 1, strip + q * LANES * CHUNK, apart);
        }
}

// Sum of squared digits of each row group, [T][P][16], where cells are noisy.
TARGET inline void powers(const Job &job, const uint8_t *digit, const Chunk *at, int64_t step, int64_t apart, int64_t rows,
                          float *power) {
    for (int64_t t = 0; t < job.reads; t++)
        for (int64_t p = 0; p < job.passes; p++)
            for (int64_t m = 0; m < rows; m++) {
                int64_t sum = 0;
                for (int64_t q = job.firsts[t]; q < job.firsts[t + 1]; q++) {
                    const uint8_t *from = digit + at[q * (1 + job.merged)].from + p * apart + m * step;
                    for (int64_t i = 0; i < job.chunks[4 * q + 2]; i++) {
                        const int32_t d = from[i] + (int32_t)job.digit_low;
                        sum += d * d;
                    }
                }
                power[(t * job.passes + p) * LANES + m] = (float)sum;
            }
}

// ---- one vector of conversions -------------------------------------------------------------------------------------

// The node at or below `u`, and the fraction beyond it.
INLINE F beyond(const Curve &curve, F u, I &node) {
    const F off = u - curve.low, place = curve.pitch == 1.0f ? off : off / curve.pitch;
    const F at = largest(least(floored(place), splat((float)(curve.nodes - 1))), splat(0.0f));
    node = whole(at);
    return place - at;
}

INLINE F interpolated(const Curve &curve, F u, I &node) {
    const F fraction = beyond(curve, u, node);
    return gathered(curve.value, node) + gathered(curve.rise, node) * fraction;
}

// Whether mean and noise are tabulated at the same nodes.
INLINE bool alike(const Job &job) {
    const Curve &a = job.mean, &b = job.noise;
    return a.value && b.value && a.nodes == b.nodes && a.low == b.low && a.pitch == b.pitch;
}

struct Slot { // constants of one vector of columns: 16 outputs, one conversion, one row group
    F factor, shift;
    F gain[2], offset[2];
};

// Places of 16 conversions, analog side leg by leg; `slope` the mean slope of the legs.
INLINE F legs(const Job &job, const float *curves, const Slot &slot, const int32_t *u, int64_t jump, float power, F &sigma,
              F &slope) {
    F value, variance = splat(0.0f);
    for (int64_t l = 0; l < job.legs; l++) {
        const F plain = floats(load(u + l * jump)) * job.unit;
        F leg = plain;
        I node;
        if (job.leg_gain) leg = leg * slot.gain[l] + slot.offset[l];
        F n = splat(0.0f);
        if (curves) {
            F two[2];
            F fraction = beyond(job.mean, leg, node);
            gathered(curves, node, two);
            leg = two[0] + two[1] * fraction;
            I other = node;
            if (job.leg_gain) fraction = beyond(job.noise, plain, other);
            gathered(curves + 2, other, two);
            n = two[0] + two[1] * fraction;
        } else {
            I unused;
            if (job.mean.value) leg = interpolated(job.mean, leg, node);
            if (job.noise.value) n = interpolated(job.noise, plain, unused);
        }
        if (job.mean.value && job.slope) {
            const F s = gathered(job.slope, node);
            slope = l ? (slope + s) * 0.5f : s;
        }
        if (job.noise.value) variance = l ? variance + n * n : n * n;
        value = l ? value - leg : leg;
    }
    if (job.cell_variance != 0) {
        const F extra = splat(power * job.cell_variance);
        variance = job.noise.value ? variance + extra : extra;
    }
    sigma = root(variance) * slot.factor;
    if (job.code_noise != 0) sigma = root(sigma * sigma + splat(job.code_noise * job.code_noise));
    return value * slot.factor + slot.shift;
}

INLINE I converters(const Job &job, int64_t at) { // which, of each output
    int32_t which[LANES];
    for (int l = 0; l < LANES; l++) which[l] = (int32_t)job.which[at * LANES + l];
    return load(which);
}

INLINE I counted(const Job &job, int64_t at, F place) { // code: thresholds not above the place
    const I first = job.which ? converters(job, at) * (int32_t)job.most : splat(0);
    I found = splat(0);
    for (int32_t half = ((int32_t)job.most + 1) / 2; half; half /= 2)
        found = found + ((gathered(job.edges, first + found + (half - 1)) <= place) & half);
    return found;
}

// Codes drawn from a measured table for the ideal codes of 16 places; `row` of the table each is drawn from.
INLINE I drawn(const Job &job, int64_t at, F place, uint64_t key, int64_t vector, I &row) {
    row = whole(largest(least(place, splat((float)job.ideal_codes - 0.5f)), splat(0.0f)));
    if (job.which) row = row + converters(job, at) * (int32_t)job.ideal_codes;
    return taken(row, key + (uint64_t)(vector * 8) * GOLDEN, job.law, (int)job.law_bits);
}

// ---- the loop over row groups, passes and conversions of 16 positions and 16 outputs -------------------------------

// A loop is made for the common sets of what a read needs, and for ANY, which looks at job.what as it runs.
#define HAS(bits) (((WHAT & ANY ? (int)job.what : WHAT) & (bits)) != 0)

struct Work { // what one thread holds
    int32_t *total;    // [16][16]
    int32_t *clipped;  // [16][16]
    float *kept;       // [2][C][16][16] sums of slopes and of derivatives by the step
    const float *power;
    const float *curves;  // [nodes][4] value and rise of the mean, of the noise; null where they are looked up apart
    const uint64_t *keys; // [16] first counter of each position
    bool tally;           // the share clipped is counted from bit 16 of the totals on
};

// Sums of 16 outputs in one row group and pass: to codes, and those to totals.
template <int WHAT>
INLINE void convert(const Job &job, const Work &work, const int32_t *sums, int64_t column, int64_t t, int64_t c, int64_t p,
                    int64_t rows, int64_t g, int64_t vector, uint64_t *words, bool &any_clipped) {
    const int64_t at = column * job.reads + t, leg_jump = job.limbs * job.passes * 256;
    const F zero = splat(0.0f), over = splat((float)job.most + 1.0f);
    const F top = splat(std::nextafter((float)job.most + 1.0f, 0.0f)); // the highest place that is not clipped
    const int64_t *digit = job.radix + 2 * (job.passes + c);
    Slot slot;
    slot.factor = load(job.factor + at * LANES);
    slot.shift = load(job.shift + at * LANES);
    if (HAS(LEGS) && job.leg_gain)
        for (int64_t l = 0; l < job.legs; l++) {
            slot.gain[l] = load(job.leg_gain + ((column * job.legs + l) * job.reads + t) * LANES);
            slot.offset[l] = load(job.leg_offset + ((column * job.legs + l) * job.reads + t) * LANES);
        }
    const int64_t *radix = job.radix + 2 * p, v = vector + p;
    const I power = splat((int32_t)(radix[0] + digit[0]));
    const bool negative = radix[1] ^ digit[1], small = radix[0] + digit[0] < 15 && job.most < 32768;
    const int32_t scale = (negative ? -1 : 1) * (1 << std::min<int64_t>(30, radix[0] + digit[0]));
    const uint64_t first = (uint64_t)((t * job.groups + g) * job.group_words + (v >> 1)) * GOLDEN;
    if (HAS(NOISE) && (p == 0 || !(v & 1))) // a word holds the draws of two vectors
        words_of(work.keys, first, words);
    const uint32_t *halves = reinterpret_cast<const uint32_t *>(words) + (v & 1);
    for (int64_t m = 0; m < rows; m++) {
        const int32_t *u = sums + p * 256 + m * LANES;
        F place, sigma, slope = splat(1.0f);
        if (HAS(LEGS))
            place = legs(job, work.curves, slot, u, leg_jump,
                         work.power ? work.power[(t * job.passes + p) * LANES + m] : 0.0f, sigma, slope);
        else
            place = fused(floats(load(u)), slot.factor, slot.shift);
        if (HAS(NOISE)) {
            const uint32_t drawn = halves[2 * m];
            F e = load(job.normals + ((drawn >> 16) & 4095) * LANES);
            if (HAS(LEGS)) e = e * sigma;
            place = place + flipped(e, drawn);
        }
        I code, out = {};
        if (HAS(LAW)) {
            I table_row;
            code = drawn(job, at, place, work.keys[m] + (uint64_t)((t * job.groups + g) * job.group_words) * GOLDEN,
                         v, table_row);
            if (HAS(SLOPE)) slope = gathered(job.slope, table_row);
        } else if (HAS(EDGES)) {
            code = counted(job, at, place);
        } else {
            const F limited = least(largest(place, zero), top);
            code = whole(limited);
            if (HAS(INSIDE) && work.tally) {
                store(work.total + m * LANES, tallied(load(work.total + m * LANES), place, limited, code, scale));
                continue;
            }
        }
        const I total = load(work.total + m * LANES);
        if (small) store(work.total + m * LANES, scaled(total, code, scale));
        else store(work.total + m * LANES, negative ? total - (code << power) : total + (code << power));
        if (HAS(INSIDE | SLOPE | STEP)) {
            if (!HAS(LAW)) out = (place < zero) | (place >= over);
            if (HAS(INSIDE) && any(out)) {
                any_clipped = true;
                int32_t *count = work.clipped + m * LANES;
                store(count, load(count) + ((out & 1) << power));
            }
            const float weight = (float)(1ll << radix[0]);
            if (HAS(SLOPE)) {
                float *sum = work.kept + c * 256 + m * LANES;
                store(sum, load(sum) + chosen(out, zero, slope) * weight);
            }
            if (HAS(STEP)) {
                float *sum = work.kept + (job.conversions + c) * 256 + m * LANES;
                const F low_of = load(job.low_over_step + column / job.conversions * LANES);
                const F value = floats(code), each = chosen(out, value + low_of, value - (place - 0.5f));
                store(sum, load(sum) + each * (radix[1] ? -weight : weight));
            }
        }
    }
}

// The columns of one conversion and row group: where their cells and digits are, and how they are added up.
struct Group {
    const int8_t *cells;  // of the first leg
    const Chunk *at;
    const int32_t *start;
    int64_t n, every;     // chunks; bytes between legs' cells
    bool held;
};

TARGET inline Group group(const Job &job, const Chunk *at, int64_t column, int64_t length, int64_t t) {
    Group of;
    const int64_t first = job.firsts[t];
    of.every = length * job.limbs * 1024;
    of.cells = job.cells + column * job.legs * of.every + first * job.limbs * 1024;
    of.start = job.start ? job.start + (column * job.legs * job.reads + t) * LANES : nullptr;
    of.n = (job.firsts[t + 1] - first) * (job.merged ? 2 : 1);
    of.at = at + first * (job.merged ? 2 : 1);
    of.held = of.n <= HELD && job.legs == 1 && (job.limbs == 1 || job.merged);
    if (of.held) hold(of.cells, of.n);
    return of;
}

// Sums of a strip and 16 outputs in pass p, all legs: [L][limb][P][16][16]; where cells are held they have begun.
TARGET inline void add_up(const Job &job, const Group &of, const uint8_t *digit, int64_t step, int32_t *u, int64_t p,
                          int64_t rows, int64_t burst) {
    const int64_t all = job.passes * 256, apart = job.merged ? 1 : job.limbs;
    if (of.held) {
        keep(u + p * 256);
    } else {
        for (int64_t l = 0; l < job.legs; l++) {
            int32_t *into = u + l * job.limbs * all + p * 256;
            const int8_t *cells = of.cells + l * of.every;
            for (int64_t limb = 0; limb < apart; limb++)
                sums(into + limb * all, digit, step, of.at, cells + limb * 1024, apart * 1024, of.n, rows, burst);
            for (int64_t limb = 1; limb < apart; limb++)
                for (int64_t i = 0; i < rows * LANES; i += LANES)
                    store(into + i, load(into + i) + (load(into + limb * all + i) << splat((int32_t)(7 * limb))));
        }
    }
    if (of.start)
        for (int64_t l = 0; l < job.legs; l++) {
            int32_t *into = u + l * job.limbs * all + p * 256;
            const I first = load(of.start + l * job.reads * LANES);
            for (int64_t i = 0; i < rows * LANES; i += LANES) store(into + i, load(into + i) + first);
        }
}

// Where the outputs of a strip go: (batch, positions, outputs), or `planar` (batch, outputs, positions).
struct Place {
    int64_t row, rows, positions, first, many, every; // of the strip; first output and how many; outputs in all
    bool planar;

    // `add`, if any, lies like `base`; where `relu`, nothing below zero.
    INLINE void put(float *base, F *values, const float *add = nullptr, bool relu = false) const {
        const int64_t b = row / positions, at = row % positions;
        const bool across = planar && at + rows <= positions; // else into the next sample, lane by lane
        if (across) transpose(values);
        const int64_t count = across ? many : rows, each = across ? rows : many;
        for (int64_t i = 0; i < count; i++) {
            const int64_t start = across ? (b * every + first + i) * positions + at : (row + i) * every + first;
            F v = values[i];
            if (planar && !across) {
                const int64_t sample = (row + i) / positions, position = (row + i) % positions;
                for (int64_t n = 0; n < many; n++) {
                    const int64_t to = (sample * every + first + n) * positions + position;
                    const float sum = add ? v[n] + add[to] : v[n];
                    base[to] = relu && !(sum > 0) ? 0 : sum;
                }
                continue;
            }
            if (add) v = v + load(add + start, each);
            if (relu) v = largest(v, splat(0.0f));
            store(base + start, v, each);
        }
    }
};

// Whether total and clipped share of an output fit 16 bits each, and are counted together.
template <int WHAT> TARGET bool tallies(const Job &job) {
    if (!HAS(INSIDE) || HAS(EDGES | LAW | SLOPE | STEP)) return false;
    int64_t most = 0, all = 0;
    for (int64_t p = 0; p < job.passes; p++)
        for (int64_t c = 0; c < job.conversions; c++) {
            const int64_t power = job.radix[2 * p] + job.radix[2 * (job.passes + c)];
            most = std::max(most, power);
            all += power < 15 ? job.reads << power : 1 << 15;
        }
    return most < 13 && all * std::max<int64_t>(job.most, 1) < 1 << 15;
}

// Sums of codes to counts, and what the backward pass wants of each output.
template <int WHAT>
TARGET void finish(const Job &job, const Work &work, int64_t g, int64_t nb, int64_t blocks, const Place &to, bool &any_clipped) {
    const int64_t at = (g * blocks + nb) * LANES;
    if (HAS(INSIDE) && work.tally) {
        I all = {};
        for (int64_t m = 0; m < to.rows * LANES; m += LANES) {
            const I both = load(work.total + m), total = (both << 16) >> 16, count = (both - total) >> 16;
            store(work.total + m, total);
            store(work.clipped + m, count);
            all |= count;
        }
        any_clipped |= any(all != 0);
    }
    const F gain = load(job.gain + at), constant = load(job.constant + at);
    F values[LANES] = {};
    for (int64_t m = 0; m < to.rows; m++) {
        values[m] = floats(load(work.total + m * LANES)) * gain + constant;
        if (job.scale) values[m] = values[m] * load(job.scale + at);
        if (job.bias) values[m] = values[m] + load(job.bias + at);
    }
    to.put(job.y, values, job.add, job.relu != 0);
    if (HAS(INSIDE)) {
        for (int64_t m = 0; m < to.rows; m++)
            values[m] = 1.0f - floats(load(work.clipped + m * LANES)) / job.inside_weight;
        to.put(job.inside, values);
    }
    for (int kind = 0; kind < 2; kind++) {
        if (!HAS(kind ? STEP : SLOPE)) continue;
        for (int64_t m = 0; m < to.rows; m++) {
            F sum = splat(0.0f);
            for (int64_t c = 0; c < job.conversions; c++) {
                const int64_t *radix = job.radix + 2 * (job.passes + c);
                const float weight = (kind && radix[1] ? -1.0f : 1.0f) * (float)(1ll << radix[0]);
                const F each = load(work.kept + (kind * job.conversions + c) * 256 + m * LANES) * weight;
                sum = c ? sum + each : each;
            }
            values[m] = kind ? sum : sum / job.inside_weight;
        }
        to.put(kind ? job.step : job.mean_slope, values);
    }
}

// How many steps of four rows add up in 16 bits: two products of a digit and a cell of −128 … 127 each.
TARGET inline int64_t bursts(const Job &job) {
    int64_t most = 1;
    for (int64_t p = 0; p < job.passes; p++) most = std::max(most, job.fields[2 * p + 1]);
    return most > 128 ? 0 : std::max<int64_t>(1, 127 / most);
}

template <int WHAT> TARGET void layer(Job &job, std::atomic<int64_t> &next, std::atomic<int64_t> &clipped) {
    const int64_t positions = job.out[0] * job.out[1] * job.out[2], all = job.batch * positions;
    const int64_t inputs = job.channels * job.kernel[0] * job.kernel[1] * job.kernel[2], length = job.firsts[job.reads];
    const int64_t burst = bursts(job);
    const int64_t blocks = (job.outputs + LANES - 1) / LANES, per = (blocks + job.split - 1) / job.split;
    const int64_t strips = (job.width + job.strip - 1) / job.strip, tall = std::min(job.tall, job.lines);
    const int64_t pieces = (job.lines + tall - 1) / tall, copies = 1 + job.merged;
    // digits: as the inputs lie, or strip by strip, [strip][chunk][16][64]; passes `apart`
    const int64_t step = job.image ? job.across : CHUNK;
    const int64_t apart = (job.image ? (tall - 1) * job.down + (job.width - 1) * job.across + job.reach + 16 * step + 2 * CHUNK
                                     : tall * strips * length * LANES * CHUNK) / CHUNK * CHUNK + CHUNK;
    std::vector<Chunk> at(length * copies);
    for (int64_t q = 0; q < length; q++)
        for (int64_t copy = 0; copy < copies; copy++)
            at[q * copies + copy] = {(job.image ? job.chunks[4 * q + 3] : q * LANES * CHUNK) +
                                         (TWICE ? copy * job.passes * apart : 0),
                                     (job.chunks[4 * q + 2] + 3) / 4, copy && !TWICE ? 128 : 1};
    const int64_t powered = job.reads * job.passes * LANES, buffer = job.legs * job.limbs * job.passes * 256;
    Buffer<uint8_t> digit(job.passes * (TWICE ? copies : 1) * apart);
    Buffer<uint16_t> room(inputs + (length + 2) * CHUNK);
    Buffer<int32_t> u(2 * buffer), total(256), count(256);
    Buffer<float> kept(2 * job.conversions * 256), power(job.cell_variance != 0 ? powered : 1);
    const bool joined = HAS(LEGS) && alike(job);
    Buffer<float> curves(joined ? 4 * job.mean.nodes : 1);
    for (int64_t node = 0; joined && node < job.mean.nodes; node++) {
        const float four[] = {job.mean.value[node], job.mean.rise[node], job.noise.value[node], job.noise.rise[node]};
        std::memcpy(curves.at + 4 * node, four, sizeof four);
    }
    uint64_t keys[LANES] = {}, words[LANES];
    Work work{total.at, count.at, kept.at, job.cell_variance != 0 ? power.at : nullptr, joined ? curves.at : nullptr, keys,
              tallies<WHAT>(job)};
    bool any_clipped = false;
    begin(job.strip);
    const int64_t items = job.groups * job.planes * pieces * job.split;
    const int64_t grab = std::max<int64_t>(1, items / (8 * job.threads));
    for (int64_t taken = 0, item = 0;; taken--, item++) {
        if (taken == 0) item = next.fetch_add(taken = grab); // neighbours stay together
        if (item >= items) break;
        const int64_t part = item % job.split, piece = item / job.split % pieces;
        const int64_t plane = item / job.split / pieces % job.planes, g = item / job.split / pieces / job.planes;
        const int64_t first = piece * tall, last = std::min(job.lines, first + tall);
        if (job.word_bytes == 1) planes(job, g, plane, first, last, length, (uint8_t *)room.at, digit.at, apart);
        else planes(job, g, plane, first, last, length, room.at, digit.at, apart);
        for (int64_t nb = part * per; nb < std::min(blocks, (part + 1) * per); nb++)
            for (int64_t s = 0; s < (last - first) * strips; s++) {
                const int64_t line = s / strips, along = s % strips * job.strip;
                const int64_t row = (plane * job.lines + first + line) * job.width + along;
                const int64_t here = std::min(std::min(job.strip, job.width - along), all - row);
                if (here <= 0) break;
                const uint8_t *from = digit.at + (job.image ? line * job.down + along * job.across : s * length * LANES * CHUNK);
                if (HAS(NOISE | LAW)) {
                    int64_t sample = row / positions, position = row % positions;
                    for (int64_t m = 0; m < here; m++) {
                        keys[m] = (uint64_t)job.keys[sample] + (uint64_t)(position * job.noise_words) * GOLDEN;
                        if (++position == positions) position = 0, sample++;
                    }
                }
                if (work.power) powers(job, from, at.data(), step, apart, here, power.at);
                std::memset(total.at, 0, 1024);
                if (HAS(INSIDE)) std::memset(count.at, 0, 1024);
                if (HAS(SLOPE | STEP)) std::memset(kept.at, 0, 2 * job.conversions * 1024);
                // Sums run one row group ahead of their conversion and take turns with it, pass by pass.
                const int64_t columns = (g * blocks + nb) * job.conversions;
                Group of = group(job, at.data(), columns, length, 0);
                for (int64_t p = 0; p < job.passes; p++) {
                    if (of.held) held(from + p * apart, step, of.at, of.n);
                    add_up(job, of, from + p * apart, step, u.at, p, here, burst);
                }
                int64_t now = 0;
                for (int64_t c = 0; c < job.conversions; c++)
                    for (int64_t t = 0; t < job.reads; t++, now ^= 1) {
                        const bool end_of = t + 1 == job.reads, more = !end_of || c + 1 < job.conversions;
                        if (more) of = group(job, at.data(), columns + c + end_of, length, end_of ? 0 : t + 1);
                        for (int64_t p = 0; p < job.passes; p++) {
                            if (more && of.held) held(from + p * apart, step, of.at, of.n);
                            convert<WHAT>(job, work, u.at + now * buffer, columns + c, t, c, p, here, g,
                                          (c * blocks + nb) * job.passes, words, any_clipped);
                            if (more) add_up(job, of, from + p * apart, step, u.at + (now ^ 1) * buffer, p, here, burst);
                        }
                    }
                finish<WHAT>(job, work, g, nb, blocks,
                             {row, here, positions, g * job.outputs + nb * LANES,
                              std::min(LANES, job.outputs - nb * LANES), job.groups * job.outputs, job.planar != 0},
                             any_clipped);
            }
    }
    end();
    if (any_clipped) clipped = 1;
}

template <int WHAT> TARGET void run(Job &job) {
    std::atomic<int64_t> next{0}, clipped{0};
    parallel(job.threads, [&] { layer<WHAT>(job, next, clipped); });
    job.clipped = clipped;
}

TARGET inline void mac(Job &job) {
    switch (job.what) {
    case 0: return run<0>(job);
    case NOISE: return run<NOISE>(job);
    case INSIDE: return run<INSIDE>(job);
    case NOISE | INSIDE: return run<NOISE | INSIDE>(job);
    case LEGS: return run<LEGS>(job);
    case LEGS | NOISE: return run<LEGS | NOISE>(job);
    case LEGS | NOISE | INSIDE: return run<LEGS | NOISE | INSIDE>(job);
    case LAW: return run<LAW>(job);
    case LAW | SLOPE: return run<LAW | SLOPE>(job);
    default: return run<ANY>(job);
    }
}

// ---- inputs to words, and the gradient of that ---------------------------------------------------------------------

// Words of 16 inputs; `wrong` lanes are set where an input is NaN.
INLINE I packed(const Pack &p, F x, I &wrong) {
    const F v = x / p.scale + p.zero;
    wrong |= v != v;
    const F clipped = least(largest(v, splat(p.low)), splat(p.high));
    F q = p.grid == 1 ? floored(clipped + 0.5f) : floored((clipped - p.low) / 2.0f + 0.5f) * 2.0f + p.low;
    const I code = whole(least(q, splat(p.high)));
    const I below = ((code * (int32_t)p.sign) << splat((int32_t)p.left)) + (int32_t)p.below;
    return chosen(code >= 0, code + (int32_t)p.above, below);
}

// Words of `n` inputs that lie together, `every` words apart.
template <class Word> TARGET int64_t pack_line(const Pack &p, const float *x, int64_t n, Word *into, int64_t every) {
    I wrong = {};
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t here = std::min(LANES, n - i);
        const F v = load(x + i, here);
        const I words = packed(p, v, wrong);
        if (every == 1 && here == LANES) {
            narrowed(words, into + i);
        } else {
            Word each[LANES];
            narrowed(words, each);
            for (int64_t l = 0; l < here; l++) into[(i + l) * every] = each[l];
        }
    }
    int64_t count = 0;
    if (any(wrong))
        for (int l = 0; l < LANES; l++) count += wrong[l] != 0;
    return count;
}

// Words of 16 channels of one sample whose positions lie together, the sample's padding written already.
TARGET int64_t pack_sixteen(const Pack &p, const float *x, int64_t lines, uint8_t *into) {
    const int64_t n = lines * p.size[2], wide = (p.size[2] + p.before[2] + p.after[2]) * p.channels;
    I wrong = {};
    int64_t along = 0;
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t here = std::min(LANES, n - i);
        F four[4]; // lanes: positions, each with the bytes of four channels
        for (int64_t c = 0; c < LANES; c += 4) {
            I bytes = {};
            for (int k = 0; k < 4; k++) bytes |= packed(p, load(x + (c + k) * p.jump[1] + i, here), wrong) << (8 * k);
            four[c / 4] = as_floats(bytes);
        }
        swap<1>(four[0], four[1]); // to 16 bytes a position
        swap<1>(four[2], four[3]);
        swap<2>(four[0], four[2]);
        swap<2>(four[1], four[3]);
        for (int64_t l = 0; l < here; l++) {
            std::memcpy(into + along * p.channels, (const char *)&four[l % 4] + l / 4 * 16, 16);
            if (++along == p.size[2]) along = 0, into += wide;
        }
    }
    int64_t count = 0;
    if (any(wrong))
        for (int l = 0; l < LANES; l++) count += wrong[l] != 0;
    return count;
}

// Samples of bytes, 16 channels at a time, positions of a channel together as torch lays out a convolution's inputs.
TARGET inline int64_t pack_samples(const Pack &p, std::atomic<int64_t> &next) {
    const int64_t wide = (p.size[2] + p.before[2] + p.after[2]) * p.channels, high = p.size[1] + p.before[1] + p.after[1];
    int64_t wrong = 0;
    for (int64_t b; (b = next.fetch_add(1)) < p.batch;) {
        uint8_t *words = static_cast<uint8_t *>(p.words) + b * high * wide;
        std::memset(words, (int)p.pad, high * wide);
        for (int64_t c = 0; c < p.channels; c += LANES)
            wrong += pack_sixteen(p, p.x + b * p.jump[0] + c * p.jump[1], p.size[1],
                                  words + p.before[1] * wide + p.before[2] * p.channels + c);
    }
    return wrong;
}

// A line of one sample: words of all channels along the last dimension, its padding included.
template <class Word> TARGET int64_t pack_lines(const Pack &p, std::atomic<int64_t> &next) {
    const int64_t size[3] = {p.size[0] + p.before[0] + p.after[0], p.size[1] + p.before[1] + p.after[1],
                             p.size[2] + p.before[2] + p.after[2]};
    const int64_t lines = p.batch * size[0] * size[1];
    Word *words = static_cast<Word *>(p.words);
    int64_t wrong = 0;
    for (int64_t first; (first = next.fetch_add(64)) < lines;)
        for (int64_t line = first; line < std::min(lines, first + 64); line++) {
            const int64_t b = line / (size[0] * size[1]), z = line / size[1] % size[0] - p.before[0];
            const int64_t y = line % size[1] - p.before[1];
            Word *into = words + line * size[2] * p.channels;
            if (z < 0 || z >= p.size[0] || y < 0 || y >= p.size[1]) {
                std::fill(into, into + size[2] * p.channels, (Word)p.pad);
                continue;
            }
            std::fill(into, into + p.before[2] * p.channels, (Word)p.pad);
            into += p.before[2] * p.channels;
            std::fill(into + p.size[2] * p.channels, into + (p.size[2] + p.after[2]) * p.channels, (Word)p.pad);
            const float *x = p.x + b * p.jump[0] + z * p.jump[2] + y * p.jump[3];
            if (p.jump[1] == 1 && p.jump[4] == p.channels)
                wrong += pack_line(p, x, p.size[2] * p.channels, into, 1);
            else if (p.jump[1] == 1)
                for (int64_t i = 0; i < p.size[2]; i++)
                    wrong += pack_line(p, x + i * p.jump[4], p.channels, into + i * p.channels, 1);
            else
                for (int64_t c = 0; c < p.channels; c++)
                    wrong += pack_line(p, x + c * p.jump[1], p.size[2], into + c, p.channels);
        }
    return wrong;
}

TARGET inline int64_t pack(const Pack &p) {
    std::atomic<int64_t> next{0}, wrong{0};
    const bool planar = p.jump[4] == 1 && p.jump[3] == p.size[2] && p.size[0] + p.before[0] + p.after[0] == 1;
    parallel(p.threads, [&] {
        if (p.word_bytes == 2) wrong += pack_lines<uint16_t>(p, next);
        else if (planar && p.channels % LANES == 0) wrong += pack_samples(p, next);
        else wrong += pack_lines<uint8_t>(p, next);
    });
    return wrong;
}

// Words of a byte as numbers, `above` less.
TARGET void numbers(const uint8_t *words, int64_t n, float above, float *into, std::atomic<int64_t> &next) {
    for (int64_t first; (first = next.fetch_add(1 << 16)) < n;)
        for (int64_t i = first; i < std::min(n, first + (1 << 16)); i++) into[i] = (float)(int32_t)words[i] - above;
}

TARGET inline void numbers(const uint8_t *words, int64_t n, float above, float *into, int64_t threads) {
    std::atomic<int64_t> next{0};
    parallel(threads, [&] { numbers(words, n, above, into, next); });
}

TARGET void unpack_sample(const Pack &p, int64_t b) {
    const int64_t size[3] = {p.size[0] + p.before[0] + p.after[0], p.size[1] + p.before[1] + p.after[1],
                             p.size[2] + p.before[2] + p.after[2]};
    double by_scale = 0, by_zero = 0;
    const bool last = p.jump[1] == 1;
    const float inverse = 1.0f / p.scale;
    for (int64_t z = 0; z < p.size[0]; z++)
        for (int64_t y = 0; y < p.size[1]; y++) {
            const int64_t line = (b * size[0] + z + p.before[0]) * size[1] + y + p.before[1];
            const float *grad = p.grad + (line * size[2] + p.before[2]) * p.channels;
            const int64_t offset = b * p.jump[0] + z * p.jump[2] + y * p.jump[3];
            const int64_t outer = last ? p.size[2] : p.channels, inner = last ? p.channels : p.size[2];
            for (int64_t o = 0; o < outer; o++) {
                const float *x = p.x + offset + o * (last ? p.jump[4] : p.jump[1]);
                float *into = p.grad_x + offset + o * (last ? p.jump[4] : p.jump[1]);
                const float *from = last ? grad + o * p.channels : grad + o;
                const int64_t step = last ? 1 : p.jump[4], every = last ? 1 : p.channels;
                float scale_sum = 0, zero_sum = 0;
                for (int64_t i = 0; i < inner; i++) {
                    const float v = x[i * step] / p.scale + p.zero;
                    const bool inside = (v >= p.low) & (v <= p.high);
                    const float g = inside ? from[i * every] : 0.0f;
                    into[i * step] = g * inverse;
                    scale_sum -= g * inverse * (p.rounded ? std::floor(v + 0.5f) - p.zero : v - p.zero);
                    zero_sum += g;
                }
                by_scale += scale_sum;
                by_zero += zero_sum;
            }
        }
    p.sums[2 * b] = by_scale;
    p.sums[2 * b + 1] = by_zero;
}

// The same for 16 channels at a time, where positions of a channel lie together in x.
TARGET void unpack_planar(const Pack &p, int64_t b) {
    const int64_t wide = (p.size[2] + p.before[2] + p.after[2]) * p.channels, high = p.size[1] + p.before[1] + p.after[1];
    const int64_t n = p.size[1] * p.size[2];
    const F low = splat(p.low), top = splat(p.high), inverse = splat(1.0f / p.scale);
    double by_scale = 0, by_zero = 0;
    for (int64_t c = 0; c < p.channels; c += LANES) {
        const float *corner = p.grad + b * high * wide + p.before[1] * wide + p.before[2] * p.channels + c;
        F scales = {}, zeros = {};
        int64_t along = 0;
        for (int64_t i = 0; i < n; i += LANES) {
            const int64_t here = std::min(LANES, n - i);
            F rows[LANES] = {};
            for (int64_t l = 0; l < here; l++) {
                rows[l] = load(corner + along * p.channels);
                if (++along == p.size[2]) along = 0, corner += wide;
            }
            transpose(rows);
            for (int64_t k = 0; k < LANES; k++) {
                const int64_t at = b * p.jump[0] + (c + k) * p.jump[1] + i;
                const F v = load(p.x + at, here) / p.scale + p.zero;
                const I in = (v >= low) & (v <= top);
                const F g = as_floats(as_ints(rows[k]) & in), gx = g * inverse;
                store(p.grad_x + at, gx, here);
                scales = scales - gx * (p.rounded ? floored(v + 0.5f) - p.zero : v - p.zero);
                zeros = zeros + g;
            }
        }
        for (int l = 0; l < LANES; l++) by_scale += scales[l], by_zero += zeros[l];
    }
    p.sums[2 * b] = by_scale;
    p.sums[2 * b + 1] = by_zero;
}

TARGET inline void unpack(const Pack &p) {
    const bool planar = p.jump[4] == 1 && p.jump[3] == p.size[2] && p.size[0] + p.before[0] + p.after[0] == 1;
    std::atomic<int64_t> next{0};
    parallel(p.threads, [&] {
        for (int64_t b; (b = next.fetch_add(1)) < p.batch;)
            if (planar && p.channels % LANES == 0) unpack_planar(p, b);
            else unpack_sample(p, b);
    });
}

// 16 outputs of one sample, 16 positions at a time.
TARGET inline void pass_sixteen(const Pass &p, int64_t b, int64_t first) {
    const int64_t many = std::min(LANES, p.outputs - first), start = (b * p.outputs + first) * p.positions;
    F sums[LANES] = {};
    for (int64_t at = 0; at < p.positions; at += LANES) {
        const int64_t here = std::min(LANES, p.positions - at);
        F rows[LANES] = {};
        for (int64_t n = 0; n < many; n++) {
            const int64_t from = start + n * p.positions + at;
            const F grad = load(p.grad + from, here);
            if (p.y) sums[n] = sums[n] + grad * load(p.y + from, here);
            rows[n] = grad * p.scale[first + n];
            if (p.share) rows[n] = rows[n] * load(p.share + from, here);
        }
        transpose(rows);
        for (int64_t m = 0; m < here; m++)
            store(p.passed + (b * p.positions + at + m) * p.outputs + first, rows[m], many);
    }
    if (p.y)
        for (int64_t n = 0; n < many; n++) {
            double sum = 0;
            for (int l = 0; l < LANES; l++) sum += sums[n][l];
            p.sums[b * p.outputs + first + n] = sum;
        }
}

TARGET inline void pass(const Pass &p) {
    std::atomic<int64_t> next{0};
    parallel(p.threads, [&] {
        for (int64_t b; (b = next.fetch_add(1)) < p.batch;)
            for (int64_t n = 0; n < p.outputs; n += LANES) pass_sixteen(p, b, n);
    });
}

} // namespace ISA
} // namespace
#endif
