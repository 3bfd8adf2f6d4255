// Inputs as digit planes. Part of body.h.

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
