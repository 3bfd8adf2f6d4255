// The loop over row groups, passes and conversions of 16 positions and 16 outputs. Part of body.h.

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
