// Sums: 16 positions by 16 outputs, over `n` chunks of 64 rows, for `planes` passes at once. Part of body.h.

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
