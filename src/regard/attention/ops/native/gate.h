// The gate: a product of sigmoids.

#pragma once

#include <cstdint>

#include "planes.h"

namespace {

// sigmoid(u[0]) * … * sigmoid(u[K]) with u[k + 1] = w[k] * u[k] + b[k]; w and b step by `stride`.
template <class S> struct Gate {
    const S* w;
    const S* b;
    int64_t order, stride;

    S value(S u) const {
        S f = sigmoid(u);
        for (int64_t k = 0; k < order; ++k) {
            u = w[k * stride] * u + b[k * stride];
            f *= sigmoid(u);
        }
        return f;
    }

    // Factors of a chunk; u is destroyed.
    void values(S* u, S* f, int64_t count) const {
        for (int64_t i = 0; i < count; ++i) f[i] = sigmoid(u[i]);
        for (int64_t k = 0; k < order; ++k) {
            const S wk = w[k * stride], bk = b[k * stride];
            for (int64_t i = 0; i < count; ++i) {
                u[i] = wk * u[i] + bk;
                f[i] *= sigmoid(u[i]);
            }
        }
    }

    // From logits u (at u, with room for order more chunks behind) and d = dL/df of a chunk: the factors, and in place
    // of d what reaches the logits, dL/du. Adds to dw and db, which step by `stride` too.
    void slopes(S* u, S* f, S* d, S* dw, S* db, int64_t count) const {
        S* last = u + order * CHUNK;
        for (int64_t i = 0; i < count; ++i) f[i] = sigmoid(u[i]);
        if (order == 0) {
            for (int64_t i = 0; i < count; ++i) d[i] *= f[i] * (S(1) - f[i]);
            return;
        }
        for (int64_t k = 0; k < order; ++k) {
            const S wk = w[k * stride], bk = b[k * stride];
            const S* from = u + k * CHUNK;
            S* to = u + (k + 1) * CHUNK;
            for (int64_t i = 0; i < count; ++i) {
                to[i] = wk * from[i] + bk;
                f[i] *= sigmoid(to[i]);
            }
        }
        // Behind `last`: what reaches u[k] from above, all over d * f.
        S* t = last + CHUNK;
        for (int64_t i = 0; i < count; ++i) {
            d[i] *= f[i];
            t[i] = S(1) - sigmoid(last[i]);
        }
        for (int64_t k = order - 1; k >= 0; --k) {
            const S wk = w[k * stride];
            const S* at = u + k * CHUNK;
            S sw = 0, sb = 0;
#pragma omp simd reduction(+ : sw, sb)
            for (int64_t i = 0; i < count; ++i) {
                const S above = d[i] * t[i];
                sw += above * at[i];
                sb += above;
                t[i] = wk * t[i] + S(1) - sigmoid(at[i]);
            }
            dw[k * stride] += sw;
            db[k * stride] += sb;
        }
        for (int64_t i = 0; i < count; ++i) d[i] *= t[i];
    }
};

}  // namespace
