// One vector of conversions. Part of body.h.

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
