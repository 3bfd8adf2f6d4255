// Inputs to words, and the gradient of that. Part of body.h.

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
