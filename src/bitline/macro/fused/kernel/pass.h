// Gradients of outputs to those of the counts read. Part of body.h.

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
