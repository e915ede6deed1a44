// The gate: a product of sigmoids.

#pragma once

#include "loops.h"

namespace {

// sigmoid(u[0]) * … * sigmoid(u[order]) with u[k + 1] = w[k] * u[k] + b[k]. w[k], b[k] are one value for a whole row, or
// (V) one for each of its elements; that of order k lies k strides on.
template <bool V, class S> struct Gate {
    const S *w, *b;
    int64_t order, stride;

    Gate at(int64_t k) const { return {w + k, b + k, order, stride}; }

    // Factors of a chunk; u is destroyed.
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

    // From logits u (with room for order + 1 more chunks behind) and d = dL/df of a chunk: the factors f, and in place
    // of d what reaches the logits. Adds to dw and db, which step by `stride` too, unless they are null.
    void slopes(S* u, S* f, S* d, S* dw, S* db, int64_t count) const {
        for (int64_t i = 0; i < count; ++i) f[i] = sigmoid(u[i]);
        if (order == 0) {
            for (int64_t i = 0; i < count; ++i) d[i] *= f[i] * (S(1) - f[i]);
            return;
        }
        for (int64_t k = 0; k < order; ++k) {
            const auto wk = row<V>(w + k * stride), bk = row<V>(b + k * stride);
            const S* from = u + k * CHUNK;
            S* to = u + (k + 1) * CHUNK;
            for (int64_t i = 0; i < count; ++i) {
                to[i] = wk[i] * from[i] + bk[i];
                f[i] *= sigmoid(to[i]);
            }
        }
        S *last = u + order * CHUNK, *t = last + CHUNK;  // t: what reaches u[k] from above, over d * f
        for (int64_t i = 0; i < count; ++i) {
            d[i] *= f[i];
            t[i] = S(1) - sigmoid(last[i]);
        }
        for (int64_t k = order - 1; k >= 0; --k) {
            const auto wk = row<V>(w + k * stride);
            const S* at = u + k * CHUNK;
            if (dw) {
                add<V>(dw + k * stride, count, [&](int64_t i) { return d[i] * t[i] * at[i]; });
                add<V>(db + k * stride, count, [&](int64_t i) { return d[i] * t[i]; });
            }
            for (int64_t i = 0; i < count; ++i) t[i] = wk[i] * t[i] + S(1) - sigmoid(at[i]);
        }
        for (int64_t i = 0; i < count; ++i) d[i] *= t[i];
    }
};

}  // namespace
