// Vectors of 16 lanes for each instruction set. Part of body.h.
//
// F holds floats and I integers; a comparison gives 0 and −1. With AVX2 a vector is two halves, one a register each, and
// elsewhere one of GCC's own, of 64 bytes.

#if LEVEL == 1

typedef float Fs __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t Is __attribute__((vector_size(32), aligned(4), may_alias));
struct F {
    Fs low, high;
    INLINE float operator[](int64_t l) const { return l < 8 ? low[l] : high[l - 8]; }
};
struct I {
    Is low, high;
    INLINE int32_t operator[](int64_t l) const { return l < 8 ? low[l] : high[l - 8]; }
};
#define OPERATOR(result, vector, scalar, op)                                                                           \
    INLINE result operator op(vector x, vector y) { return {x.low op y.low, x.high op y.high}; }                       \
    INLINE result operator op(vector x, scalar y) { return {x.low op y, x.high op y}; }                                \
    INLINE result operator op(scalar x, vector y) { return {x op y.low, x op y.high}; }
OPERATOR(F, F, float, +)
OPERATOR(F, F, float, -)
OPERATOR(F, F, float, *)
OPERATOR(F, F, float, /)
OPERATOR(I, F, float, <)
OPERATOR(I, F, float, <=)
OPERATOR(I, F, float, >=)
OPERATOR(I, F, float, !=)
OPERATOR(I, I, int32_t, +)
OPERATOR(I, I, int32_t, -)
OPERATOR(I, I, int32_t, *)
OPERATOR(I, I, int32_t, &)
OPERATOR(I, I, int32_t, |)
OPERATOR(I, I, int32_t, <<)
OPERATOR(I, I, int32_t, >>)
OPERATOR(I, I, int32_t, >=)
OPERATOR(I, I, int32_t, !=)
#undef OPERATOR
INLINE void operator|=(I &x, I y) { x = x | y; }
INLINE F floats(I v) { return {__builtin_convertvector(v.low, Fs), __builtin_convertvector(v.high, Fs)}; }
INLINE F as_floats(I v) { return {(Fs)v.low, (Fs)v.high}; }
INLINE I as_ints(F v) { return {(Is)v.low, (Is)v.high}; }

#else

typedef float F __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t I __attribute__((vector_size(64), aligned(4), may_alias));
INLINE F floats(I v) { return __builtin_convertvector(v, F); }
INLINE F as_floats(I v) { return (F)v; }
INLINE I as_ints(F v) { return (I)v; }
INLINE F chosen(I mask, F yes, F no) { return mask ? yes : no; }
INLINE I chosen(I mask, I yes, I no) { return mask ? yes : no; }

#endif

INLINE F splat(float v) { return F{} + v; }
INLINE I splat(int32_t v) { return I{} + v; }
INLINE F load(const float *p) { return *reinterpret_cast<const F *>(p); }
INLINE I load(const int32_t *p) { return *reinterpret_cast<const I *>(p); }
INLINE void store(float *p, F v) { *reinterpret_cast<F *>(p) = v; }
INLINE void store(int32_t *p, I v) { *reinterpret_cast<I *>(p) = v; }
INLINE F load(const float *p, int64_t count) { // so many lanes, the others 0
    if (count == LANES) return load(p);
    float lanes[LANES] = {};
    std::memcpy(lanes, p, count * sizeof(float));
    return load(lanes);
}
INLINE void store(float *p, F v, int64_t count) {
    if (count == LANES) return store(p, v);
    float lanes[LANES];
    store(lanes, v);
    std::memcpy(p, lanes, count * sizeof(float));
}

#if LEVEL >= 2

INLINE F fused(F a, F b, F c) { return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
// total + code * radix, both below 2^15
INLINE I scaled(I total, I code, int32_t radix) {
    return (I)_mm512_dpwssd_epi32((__m512i)total, (__m512i)code, _mm512_set1_epi32(radix & 0xFFFF));
}
// The same, and from bit 16 on the radix's magnitude, below 2^13, where the place is clipped.
INLINE I tallied(I total, F place, F limited, I code, int32_t radix) {
    const __mmask16 out = _mm512_cmp_ps_mask((__m512)place, (__m512)limited, _CMP_NEQ_OQ);
    const __m512i both = _mm512_mask_or_epi32((__m512i)code, out, (__m512i)code, _mm512_set1_epi32(1 << 30));
    const int32_t weight = radix < 0 ? -radix : radix;
    return (I)_mm512_dpwssd_epi32((__m512i)total, both, _mm512_set1_epi32((radix & 0xFFFF) | weight << 18));
}
INLINE F least(F a, F b) { return (F)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE F largest(F a, F b) { return (F)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE I whole(F v) { return (I)_mm512_cvttps_epi32((__m512)v); }
INLINE F floored(F v) { return (F)_mm512_roundscale_ps((__m512)v, 9); }
INLINE F root(F v) { return (F)_mm512_sqrt_ps((__m512)v); }
INLINE F gathered(const float *p, I at) { return (F)_mm512_i32gather_ps((__m512i)at, p, 4); }
// The two numbers from 4 · `at` on, lane by lane, in half the loads of two gathers.
INLINE void gathered(const float *p, I at, F *two) {
    const __m512i twice = _mm512_slli_epi32((__m512i)at, 1);
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    const double *pairs = reinterpret_cast<const double *>(p);
    const __m512d first = _mm512_i32gather_pd(_mm512_castsi512_si256(twice), pairs, 8);
    const __m512d last = _mm512_i32gather_pd(_mm512_extracti64x4_epi64(twice, 1), pairs, 8);
    two[0] = (F)_mm512_permutex2var_ps(_mm512_castpd_ps(first), even, _mm512_castpd_ps(last));
    two[1] = (F)_mm512_permutex2var_ps(_mm512_castpd_ps(first), odd, _mm512_castpd_ps(last));
}
INLINE F flipped(F v, uint32_t signs) { // sign of lane l flipped where bit l is set
    return (F)_mm512_castsi512_ps(_mm512_mask_xor_epi32(_mm512_castps_si512((__m512)v), (__mmask16)signs,
                                                        _mm512_castps_si512((__m512)v), _mm512_set1_epi32(INT32_MIN)));
}
INLINE __m512i scrambled(__m512i z) {
    z = _mm512_mullo_epi64(_mm512_xor_si512(z, _mm512_srli_epi64(z, 30)), _mm512_set1_epi64((int64_t)0xBF58476D1CE4E5B9ull));
    z = _mm512_mullo_epi64(_mm512_xor_si512(z, _mm512_srli_epi64(z, 27)), _mm512_set1_epi64((int64_t)0x94D049BB133111EBull));
    return _mm512_xor_si512(z, _mm512_srli_epi64(z, 31));
}
INLINE __m512i scrambled(uint64_t first) { // eight words that follow one another
    const __m512i steps = _mm512_set_epi64(7 * GOLDEN, 6 * GOLDEN, 5 * GOLDEN, 4 * GOLDEN, 3 * GOLDEN, 2 * GOLDEN, GOLDEN, 0);
    return scrambled(_mm512_add_epi64(_mm512_set1_epi64((int64_t)first), steps));
}
INLINE void words_of(const uint64_t *keys, uint64_t first, uint64_t *words) { // one for each position
    for (int64_t m = 0; m < LANES; m += 8) {
        const __m512i counters = _mm512_add_epi64(_mm512_loadu_si512(keys + m), _mm512_set1_epi64((int64_t)first));
        _mm512_storeu_si512(words + m, scrambled(counters));
    }
}
INLINE bool any(I mask) { return _mm512_movepi32_mask((__m512i)mask) != 0; }
// Of 32 bits a lane, where the low `rest` say whether the bin above them, or its alias, is taken.
INLINE I taken(I row, uint64_t first, const uint32_t *law, int bits) {
    const unsigned rest = 32 - bits;
    const __m512i random = scrambled(first), bin = _mm512_srli_epi32(random, rest);
    const __m512i left = _mm512_and_si512(random, _mm512_set1_epi32((int)((1u << rest) - 1)));
    const __m512i entry = _mm512_add_epi32(_mm512_slli_epi32((__m512i)row, (unsigned)bits), bin);
    const __m512i found = _mm512_i32gather_epi32(entry, law, 4);
    const __m512i cut = _mm512_srli_epi32(found, (unsigned)bits);
    const __m512i alias = _mm512_and_si512(found, _mm512_set1_epi32((1 << bits) - 1));
    return (I)_mm512_mask_blend_epi32(_mm512_cmplt_epu32_mask(left, cut), alias, bin);
}
INLINE F paired(F a, F b, I lanes) { return (F)_mm512_permutex2var_ps((__m512)a, (__m512i)lanes, (__m512)b); }

#elif LEVEL == 1

INLINE F chosen(I mask, F yes, F no) {
    return {(Fs)_mm256_blendv_ps((__m256)no.low, (__m256)yes.low, (__m256)mask.low),
            (Fs)_mm256_blendv_ps((__m256)no.high, (__m256)yes.high, (__m256)mask.high)};
}
INLINE I chosen(I mask, I yes, I no) { return as_ints(chosen(mask, as_floats(yes), as_floats(no))); }
INLINE F fused(F a, F b, F c) {
    return {(Fs)_mm256_fmadd_ps((__m256)a.low, (__m256)b.low, (__m256)c.low),
            (Fs)_mm256_fmadd_ps((__m256)a.high, (__m256)b.high, (__m256)c.high)};
}
INLINE I added(I total, I pairs, int32_t by) { // products of both halves of 32 bits
    const __m256i all = _mm256_set1_epi32(by);
    return total + I{(Is)_mm256_madd_epi16((__m256i)pairs.low, all), (Is)_mm256_madd_epi16((__m256i)pairs.high, all)};
}
INLINE I scaled(I total, I code, int32_t radix) { return added(total, code, radix & 0xFFFF); }
INLINE I tallied(I total, F place, F limited, I code, int32_t radix) {
    const int32_t weight = radix < 0 ? -radix : radix;
    return added(total, code | ((place != limited) & (1 << 30)), (radix & 0xFFFF) | weight << 18);
}
INLINE F least(F a, F b) {
    return {(Fs)_mm256_min_ps((__m256)a.low, (__m256)b.low), (Fs)_mm256_min_ps((__m256)a.high, (__m256)b.high)};
}
INLINE F largest(F a, F b) {
    return {(Fs)_mm256_max_ps((__m256)a.low, (__m256)b.low), (Fs)_mm256_max_ps((__m256)a.high, (__m256)b.high)};
}
INLINE I whole(F v) { return {(Is)_mm256_cvttps_epi32((__m256)v.low), (Is)_mm256_cvttps_epi32((__m256)v.high)}; }
INLINE F floored(F v) { return {(Fs)_mm256_floor_ps((__m256)v.low), (Fs)_mm256_floor_ps((__m256)v.high)}; }
INLINE F root(F v) { return {(Fs)_mm256_sqrt_ps((__m256)v.low), (Fs)_mm256_sqrt_ps((__m256)v.high)}; }
INLINE F gathered(const float *p, I at) {
    return {(Fs)_mm256_i32gather_ps(p, (__m256i)at.low, 4), (Fs)_mm256_i32gather_ps(p, (__m256i)at.high, 4)};
}
INLINE void gathered(const float *p, Is at, Fs &even, Fs &odd) {
    const __m128i low = _mm256_castsi256_si128((__m256i)at), high = _mm256_extracti128_si256((__m256i)at, 1);
    const double *pairs = reinterpret_cast<const double *>(p);
    // lanes 0 1 4 5 and 2 3 6 7, so that the shuffles below put them in order
    const __m256 first = _mm256_castpd_ps(_mm256_i32gather_pd(pairs, _mm_unpacklo_epi64(low, high), 8));
    const __m256 last = _mm256_castpd_ps(_mm256_i32gather_pd(pairs, _mm_unpackhi_epi64(low, high), 8));
    even = (Fs)_mm256_shuffle_ps(first, last, 0x88);
    odd = (Fs)_mm256_shuffle_ps(first, last, 0xDD);
}
INLINE void gathered(const float *p, I at, F *two) {
    gathered(p, at.low << 1, two[0].low, two[1].low);
    gathered(p, at.high << 1, two[0].high, two[1].high);
}
INLINE F flipped(F v, uint32_t signs) {
    const I up = {{31, 30, 29, 28, 27, 26, 25, 24}, {23, 22, 21, 20, 19, 18, 17, 16}};
    const I sign = (splat((int32_t)signs) << up) & INT32_MIN;
    return {(Fs)((Is)v.low ^ sign.low), (Fs)((Is)v.high ^ sign.high)};
}
INLINE __m256i times(__m256i z, uint64_t by) { // modulo 2^64
    const __m256i low = _mm256_set1_epi64x((int64_t)by), high = _mm256_set1_epi64x((int64_t)(by >> 32));
    const __m256i cross = _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64(z, 32), low), _mm256_mul_epu32(z, high));
    return _mm256_add_epi64(_mm256_mul_epu32(z, low), _mm256_slli_epi64(cross, 32));
}
INLINE __m256i scrambled(__m256i z) {
    z = times(_mm256_xor_si256(z, _mm256_srli_epi64(z, 30)), 0xBF58476D1CE4E5B9ull);
    z = times(_mm256_xor_si256(z, _mm256_srli_epi64(z, 27)), 0x94D049BB133111EBull);
    return _mm256_xor_si256(z, _mm256_srli_epi64(z, 31));
}
INLINE void words_of(const uint64_t *keys, uint64_t first, uint64_t *words) {
    for (int64_t m = 0; m < LANES; m += 4) {
        const __m256i key = _mm256_loadu_si256((const __m256i *)(keys + m));
        _mm256_storeu_si256((__m256i *)(words + m), scrambled(_mm256_add_epi64(key, _mm256_set1_epi64x((int64_t)first))));
    }
}
INLINE Is taken(Is row, __m256i random, const uint32_t *law, int bits) {
    const int rest = 32 - bits;
    const __m256i bin = _mm256_srli_epi32(random, rest);
    const __m256i left = _mm256_and_si256(random, _mm256_set1_epi32((int)((1u << rest) - 1)));
    const __m256i entry = _mm256_add_epi32(_mm256_slli_epi32((__m256i)row, bits), bin);
    const __m256i found = _mm256_i32gather_epi32((const int *)law, entry, 4);
    const __m256i cut = _mm256_srli_epi32(found, bits), alias = _mm256_and_si256(found, _mm256_set1_epi32((1 << bits) - 1));
    return (Is)_mm256_blendv_epi8(alias, bin, _mm256_cmpgt_epi32(cut, left));
}
INLINE I taken(I row, uint64_t first, const uint32_t *law, int bits) {
    const __m256i steps = _mm256_set_epi64x(3 * GOLDEN, 2 * GOLDEN, GOLDEN, 0);
    const __m256i low = _mm256_add_epi64(_mm256_set1_epi64x((int64_t)first), steps);
    const __m256i high = _mm256_add_epi64(low, _mm256_set1_epi64x((int64_t)(4 * GOLDEN)));
    return {taken(row.low, scrambled(low), law, bits), taken(row.high, scrambled(high), law, bits)};
}
INLINE bool any(I mask) { return !_mm256_testz_si256((__m256i)(mask.low | mask.high), _mm256_set1_epi32(-1)); }

#else

INLINE void words_of(const uint64_t *keys, uint64_t first, uint64_t *words) {
    for (int64_t m = 0; m < LANES; m++) words[m] = scramble(keys[m] + first);
}
INLINE F paired(F a, F b, I lanes) { // lane l: that lane of a, or from 16 on of b
    F v;
    for (int l = 0; l < LANES; l++) v[l] = lanes[l] < LANES ? a[lanes[l]] : b[lanes[l] - LANES];
    return v;
}
// One rounding: exact in double, since a is whole, below 2^24, and c a multiple of the last bit of b.
INLINE F fused(F a, F b, F c) {
    for (int l = 0; l < LANES; l++) a[l] = (float)((double)a[l] * (double)b[l] + (double)c[l]);
    return a;
}
INLINE I scaled(I total, I code, int32_t radix) { return total + code * radix; }
INLINE I tallied(I total, F place, F limited, I code, int32_t radix) {
    const int32_t weight = radix < 0 ? -radix : radix;
    return total + code * radix + ((place != limited) & (weight << 16));
}
INLINE F least(F a, F b) { return a < b ? a : b; }
INLINE F largest(F a, F b) { return a > b ? a : b; }
INLINE I whole(F v) { return __builtin_convertvector(v, I); }
INLINE F floored(F v) {
    F t = floats(whole(v));
    t = t > v ? t - 1.0f : t;
    return (v < 8388608.0f) & (v > -8388608.0f) ? t : v;
}
INLINE F root(F v) {
    for (int l = 0; l < LANES; l++) v[l] = std::sqrt(v[l]);
    return v;
}
INLINE F gathered(const float *p, I at) {
    F v;
    for (int l = 0; l < LANES; l++) v[l] = p[at[l]];
    return v;
}
INLINE void gathered(const float *p, I at, F *two) {
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < 2; i++) two[i][l] = p[4 * at[l] + i];
}
INLINE F flipped(F v, uint32_t signs) {
    const I lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    I flip = ((splat((int32_t)signs) >> lane) & 1) << 31;
    return (F)((I)v ^ flip);
}
INLINE I taken(I row, uint64_t first, const uint32_t *law, int bits) {
    I code;
    const int rest = 32 - bits;
    for (int l = 0; l < LANES; l++) {
        const uint32_t random = (uint32_t)(scramble(first + (uint64_t)(l / 2) * GOLDEN) >> (l % 2 * 32));
        const uint32_t bin = random >> rest, left = random & ((1u << rest) - 1);
        const uint32_t entry = law[((uint32_t)row[l] << bits) + bin];
        code[l] = (int32_t)(left < entry >> bits ? bin : entry & ((1u << bits) - 1));
    }
    return code;
}
INLINE bool any(I mask) {
    int32_t found = 0;
    for (int l = 0; l < LANES; l++) found |= mask[l];
    return found != 0;
}

#endif

// Integers to words of 8 or 16 bits, without a sign.
template <class Word> INLINE void narrowed(I v, Word *into) {
#if LEVEL == 1
    const __m256i mask = _mm256_set1_epi32((1 << 8 * sizeof(Word)) - 1);
    const __m256i low = _mm256_and_si256((__m256i)v.low, mask), high = _mm256_and_si256((__m256i)v.high, mask);
    const __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xD8);
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    if (sizeof(Word) == 2) _mm256_storeu_si256((__m256i *)into, both);
    else _mm_storeu_si128((__m128i *)into, bytes);
#else
    typedef Word W __attribute__((vector_size(LANES * sizeof(Word)), aligned(1), may_alias));
    *reinterpret_cast<W *>(into) = __builtin_convertvector(v, W);
#endif
}

// Blocks of S lanes of two rows change places: (a0 a1 …), (b0 b1 …) to (a0 b0 …), (a1 b1 …).
#if LEVEL == 1
template <int S> INLINE Fs paired(Fs a, Fs b, bool odd) {
    const __m256 x = (__m256)a, y = (__m256)b;
    if (S == 1) return (Fs)(odd ? _mm256_blend_ps(_mm256_movehdup_ps(x), y, 0xAA) : _mm256_blend_ps(x, _mm256_moveldup_ps(y), 0xAA));
    if (S == 2) return (Fs)(odd ? _mm256_shuffle_ps(x, y, 0xEE) : _mm256_shuffle_ps(x, y, 0x44));
    return (Fs)(odd ? _mm256_permute2f128_ps(x, y, 0x31) : _mm256_permute2f128_ps(x, y, 0x20));
}
template <int S> INLINE void swap(F &a, F &b) {
    const F x = a, y = b;
    a = S == 8 ? F{x.low, y.low} : F{paired<S>(x.low, y.low, false), paired<S>(x.high, y.high, false)};
    b = S == 8 ? F{x.high, y.high} : F{paired<S>(x.low, y.low, true), paired<S>(x.high, y.high, true)};
}
#else
template <int S> INLINE void swap(F &a, F &b) {
#define FROM(l, odd) (((l) & S) ? 16 + (l) - ((odd) ? 0 : S) : (l) + ((odd) ? S : 0))
#define ALL(odd)                                                                                                       \
    {FROM(0, odd), FROM(1, odd), FROM(2, odd), FROM(3, odd), FROM(4, odd), FROM(5, odd), FROM(6, odd), FROM(7, odd),   \
     FROM(8, odd), FROM(9, odd), FROM(10, odd), FROM(11, odd), FROM(12, odd), FROM(13, odd), FROM(14, odd), FROM(15, odd)}
    const I even = ALL(0), odd = ALL(1);
    const F first = paired(a, b, even);
    b = paired(a, b, odd);
    a = first;
#undef FROM
#undef ALL
}
#endif
template <int S> INLINE void swaps(F *rows) {
    for (int r = 0; r < LANES; r++)
        if (!(r & S)) swap<S>(rows[r], rows[r + S]);
}
// Lane l of row r to lane r of row l.
INLINE void transpose(F *rows) {
    swaps<1>(rows);
    swaps<2>(rows);
    swaps<4>(rows);
    swaps<8>(rows);
}
