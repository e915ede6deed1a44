// The gate: a product of sigmoids.

#pragma once

#include "loops.h"

namespace {

// sigmoid(u[0]) * … * sigmoid(u[order]) with u[k + 1] = w[k] * u[k] + b[k]. w[k] and b[k] are one value for a whole row,
// or (V) one value per element; they start at offset k * stride.
template <bool V, class S> struct Gate {
    const S *w, *b;
    int64_t order, stride;

    // Computes the factors of a chunk; overwrites u.
    void values(S* u, S* f, int64_t count) const {
        for (int64_t i = 0; i < count; ++i) f[i] = sigmoid(u[i]);
        for (int64_t k = 0; k < order; ++k) {
            const auto wk = row<V>(w + k * stride), bk = row<V>(b + k * stride);
            for (int64_t i = 0; i < count; ++i) {
                u[i] = wk[i] * u[i] + bk[i];
                f[i] *= sigmoid(u[i]);
            }
        }
    }

    // From logits u (followed by 2 * order + 1 chunks of scratch memory) and d = dL/df of a chunk, computes the factors f,
    // and overwrites d with dL/du. Adds to dw and db, which have the same stride, unless they are null.
    void slopes(S* u, S* f, S* d, S* dw, S* db, int64_t count) const {
        S* s = u + (order + 1) * CHUNK;  // the sigmoids
        for (int64_t i = 0; i < count; ++i) f[i] = s[i] = sigmoid(u[i]);
        for (int64_t k = 0; k < order; ++k) {
            const auto wk = row<V>(w + k * stride), bk = row<V>(b + k * stride);
            const S* src = u + k * CHUNK;
            S *dst = u + (k + 1) * CHUNK, *next = s + (k + 1) * CHUNK;
            for (int64_t i = 0; i < count; ++i) {
                dst[i] = wk[i] * src[i] + bk[i];
                next[i] = sigmoid(dst[i]);
                f[i] *= next[i];
            }
        }
        S* t = s + order * CHUNK;  // dL/du[k] divided by d * f
        for (int64_t i = 0; i < count; ++i) {
            d[i] *= f[i];
            t[i] = S(1) - t[i];
        }
        for (int64_t k = order - 1; k >= 0; --k) {
            const auto wk = row<V>(w + k * stride);
            const S *uk = u + k * CHUNK, *sk = s + k * CHUNK;
            if (dw) {
                add<V>(dw + k * stride, count, [&](int64_t i) { return d[i] * t[i] * uk[i]; });
                add<V>(db + k * stride, count, [&](int64_t i) { return d[i] * t[i]; });
            }
            for (int64_t i = 0; i < count; ++i) t[i] = wk[i] * t[i] + S(1) - sk[i];
        }
        for (int64_t i = 0; i < count; ++i) d[i] *= t[i];
    }
};

}  // namespace
