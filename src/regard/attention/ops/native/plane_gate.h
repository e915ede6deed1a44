// Plane gates (shuffle attention).

#pragma once

#include "gate.h"
#include "planes.h"

namespace {

// Where the channel shuffle takes channel c: in two halves, half by half -> pair by pair.
inline int64_t shuffled(const Shape& s, int64_t c) { return c % (s.c / 2) * 2 + c / (s.c / 2); }

// Channels last, the same row by row: what it takes of a place's channels.
template <class S> struct RowGate {
    const S *a, *d;  // logits of the image: a * x + d
    const S *w, *b;  // (K, C)
    int64_t order, channels;

    // Factors of a row x.
    void values(const S* x, S* u, S* f) const {
        for (int64_t c = 0; c < channels; ++c) {
            u[c] = a[c] * x[c] + d[c];
            f[c] = sigmoid(u[c]);
        }
        for (int64_t k = 0; k < order; ++k)
            for (int64_t c = 0; c < channels; ++c) {
                u[c] = w[k * channels + c] * u[c] + b[k * channels + c];
                f[c] *= sigmoid(u[c]);
            }
    }

    // Factors of a row x, and what reaches the logits, dL/du, for g = dL/dy. u has room for order + 2 rows. Adds to
    // sums[2 + k] and sums[2 + order + k], the rows of dw and db, unless sums is null.
    void slopes(const S* x, const S* g, S* u, S* f, S* du, S* sums) const {
        const int64_t n = channels;
        S* t = u + (order + 1) * n;
        for (int64_t c = 0; c < n; ++c) {
            u[c] = a[c] * x[c] + d[c];
            f[c] = sigmoid(u[c]);
        }
        for (int64_t k = 0; k < order; ++k)
            for (int64_t c = 0; c < n; ++c) {
                u[(k + 1) * n + c] = w[k * n + c] * u[k * n + c] + b[k * n + c];
                f[c] *= sigmoid(u[(k + 1) * n + c]);
            }
        for (int64_t c = 0; c < n; ++c) {
            du[c] = g[c] * x[c] * f[c];
            t[c] = S(1) - sigmoid(u[order * n + c]);
        }
        for (int64_t k = order - 1; k >= 0; --k) {
            if (sums)
                for (int64_t c = 0; c < n; ++c) {
                    sums[(2 + k) * n + c] += du[c] * t[c] * u[k * n + c];
                    sums[(2 + order + k) * n + c] += du[c] * t[c];
                }
            for (int64_t c = 0; c < n; ++c) t[c] = w[k * n + c] * t[c] + S(1) - sigmoid(u[k * n + c]);
        }
        for (int64_t c = 0; c < n; ++c) du[c] *= t[c];
    }
};

// The logits' a and d of every plane.
template <class S>
inline std::vector<S> row_logits(const Shape& s, const S* scale, const S* shift, const uint8_t* local, const S* means,
                                 const S* rstds) {
    std::vector<S> found(2 * s.n * s.c);
    for (int64_t at = 0; at < s.n * s.c; ++at) {
        const int64_t c = at % s.c;
        const S a = local[c] ? scale[c] * rstds[at] : S(0);
        found[at] = a;
        found[s.n * s.c + at] = shift[c] + (local[c] ? -a : scale[c]) * means[at];
    }
    return found;
}

// A row of channels in S, out of the order of the shuffle, or into it.
template <class T, class S> inline void take_row(const T* from, S* to, int64_t channels, bool shuffled) {
    const int64_t half = channels / 2;
    if (!shuffled) {
        for (int64_t c = 0; c < channels; ++c) to[c] = widen(from[c]);
    } else {
        for (int64_t i = 0; i < half; ++i) to[i] = widen(from[2 * i]), to[half + i] = widen(from[2 * i + 1]);
    }
}

template <class T, class S> inline void put_row(const S* from, T* to, int64_t channels, bool shuffled) {
    const int64_t half = channels / 2;
    if (!shuffled) {
        for (int64_t c = 0; c < channels; ++c) to[c] = narrow<T>(from[c]);
    } else {
        for (int64_t i = 0; i < half; ++i) to[2 * i] = narrow<T>(from[i]), to[2 * i + 1] = narrow<T>(from[half + i]);
    }
}

template <class T, class S>
void row_gate_forward(const Shape& s, const T* x, T* y, const S* scale, const S* shift, const uint8_t* local, const S* w,
                      const S* b, int64_t order, double eps, bool shuffle, S* means, S* rstds) {
    const int64_t p = s.p(), planes = s.n * s.c;
    row_means(s, x, means);
    row_squares(s, x, means, rstds);
    for (int64_t at = 0; at < planes; ++at)
        rstds[at] = local[at % s.c] ? S(1) / std::sqrt(rstds[at] / S(p) + S(eps)) : S(0);
    const std::vector<S> logits = row_logits(s, scale, shift, local, means, rstds);
    each_row(s, [&](int64_t n, int64_t i) {
        static thread_local Scratch<S> room;
        S *xs = room.of(3 * s.c), *u = xs + s.c, *f = u + s.c;
        const RowGate<S> gate{logits.data() + n * s.c, logits.data() + planes + n * s.c, w, b, order, s.c};
        take_row(x + (n * p + i) * s.c, xs, s.c, false);
        gate.values(xs, u, f);
        for (int64_t c = 0; c < s.c; ++c) f[c] *= xs[c];
        put_row(f, y + (n * p + i) * s.c, s.c, shuffle);
    });
}

template <class T, class S>
void row_gate_backward(const Shape& s, const T* g, const T* x, const S* means, const S* rstds, const S* scale,
                       const S* shift, const uint8_t* local, const S* w, const S* b, int64_t order, bool shuffle, T* dx,
                       S* dscale, S* dshift, S* dw, S* db) {
    const int64_t p = s.p(), planes = s.n * s.c, each = 2 + 2 * order;
    const std::vector<S> logits = row_logits(s, scale, shift, local, means, rstds);
    // Of a place: x, g, the factors and what reaches the logits.
    const auto row = [&](int64_t n, int64_t i, S* sums, const auto& use) {
        static thread_local Scratch<S> room;
        S *xs = room.of((order + 6) * s.c), *gs = xs + s.c, *f = gs + s.c, *du = f + s.c, *u = du + s.c;
        const RowGate<S> gate{logits.data() + n * s.c, logits.data() + planes + n * s.c, w, b, order, s.c};
        take_row(x + (n * p + i) * s.c, xs, s.c, false);
        take_row(g + (n * p + i) * s.c, gs, s.c, shuffle);
        gate.slopes(xs, gs, u, f, du, sums);
        use(xs, gs, f, du);
    };
    std::vector<S> sums(each * planes);
    over_rows(
        s, sums.data(),
        [&](int64_t n, int64_t i, S* to) {
            row(n, i, to, [&](const S* xs, const S*, const S*, const S* du) {
                const S *mean = means + n * s.c, *rstd = rstds + n * s.c;
                for (int64_t c = 0; c < s.c; ++c) {
                    to[c] += du[c];
                    to[s.c + c] += du[c] * (xs[c] - mean[c]) * rstd[c];
                }
            });
        },
        each);
    std::vector<S> slopes(planes), rests(planes);
    for (int64_t n = 0; n < s.n; ++n) {
        const S* of = sums.data() + n * each * s.c;
        std::copy(of + 2 * s.c, of + (2 + order) * s.c, dw + n * order * s.c);
        std::copy(of + (2 + order) * s.c, of + each * s.c, db + n * order * s.c);
        for (int64_t c = 0; c < s.c; ++c) {
            const int64_t at = n * s.c + c;
            const S a = logits[at], sum = of[c], along = of[s.c + c];
            dshift[at] = sum;
            dscale[at] = local[c] ? along : sum * means[at];
            slopes[at] = -a * along / S(p) * rstds[at];
            rests[at] = local[c] ? -a * sum / S(p) - slopes[at] * means[at] : sum * scale[c] / S(p);
        }
    }
    each_row(s, [&](int64_t n, int64_t i) {
        row(n, i, nullptr, [&](const S* xs, const S* gs, S* f, const S* du) {
            const int64_t at = n * s.c;
            for (int64_t c = 0; c < s.c; ++c)
                f[c] = gs[c] * f[c] + logits[at + c] * du[c] + slopes[at + c] * xs[c] + rests[at + c];
            put_row(f, dx + (n * p + i) * s.c, s.c, false);
        });
    });
}

template <class T>
void plane_gate_forward(const Shape& s, const T* x, T* y, const typename Sum<T>::type* scale,
                        const typename Sum<T>::type* shift, const uint8_t* local, const typename Sum<T>::type* w,
                        const typename Sum<T>::type* b, int64_t order, double eps, int64_t shuffle,
                        typename Sum<T>::type* means, typename Sum<T>::type* rstds) {
    using S = typename Sum<T>::type;
    if (s.last) return row_gate_forward(s, x, y, scale, shift, local, w, b, order, eps, shuffle != 0, means, rstds);
    const int64_t p = s.p();
    each_block(s, 1, [&](int64_t n, int64_t c, int64_t) {
        static thread_local Scratch<S> in, out;
        const int64_t at = n * s.c + c, to = shuffle ? shuffled(s, c) : c;
        const S* xs = planes(x, s, n, c, 1, in);
        S* ys = draft(y, s, n, to, 1, out);
        const Gate<S> gate{w + c, b + c, order, s.c};
        const S mean = total(xs, p) / S(p);
        means[at] = mean;
        rstds[at] = 0;
        if (!local[c]) {
            const S f = gate.value(scale[c] * mean + shift[c]);
            for (int64_t i = 0; i < p; ++i) ys[i] = xs[i] * f;
            return put(ys, y, s, n, to, 1);
        }
        const S rstd = S(1) / std::sqrt(squares(xs, mean, p) / S(p) + S(eps));
        rstds[at] = rstd;
        const S a = scale[c] * rstd, d = shift[c] - a * mean;
        if (order == 0) {
            for (int64_t i = 0; i < p; ++i) ys[i] = xs[i] * sigmoid(a * xs[i] + d);
            return put(ys, y, s, n, to, 1);
        }
        S u[CHUNK], f[CHUNK];
        for (int64_t start = 0; start < p; start += CHUNK) {
            const int64_t some = std::min(CHUNK, p - start);
            for (int64_t i = 0; i < some; ++i) u[i] = a * xs[start + i] + d;
            gate.values(u, f, some);
            for (int64_t i = 0; i < some; ++i) ys[start + i] = xs[start + i] * f[i];
        }
        put(ys, y, s, n, to, 1);
    });
}

template <class T>
void plane_gate_backward(const Shape& s, const T* g, const T* x, const typename Sum<T>::type* means,
                         const typename Sum<T>::type* rstds, const typename Sum<T>::type* scale,
                         const typename Sum<T>::type* shift, const uint8_t* local, const typename Sum<T>::type* w,
                         const typename Sum<T>::type* b, int64_t order, int64_t shuffle, T* dx,
                         typename Sum<T>::type* dscale, typename Sum<T>::type* dshift, typename Sum<T>::type* dw,
                         typename Sum<T>::type* db) {
    using S = typename Sum<T>::type;
    if (s.last) {
        return row_gate_backward(s, g, x, means, rstds, scale, shift, local, w, b, order, shuffle != 0, dx, dscale,
                                 dshift, dw, db);
    }
    const int64_t p = s.p();
    each_block(s, 1, [&](int64_t n, int64_t c, int64_t) {
        static thread_local Scratch<S> in, up, out, chunks;
        const int64_t at = n * s.c + c, from = shuffle ? shuffled(s, c) : c;
        const S* xs = planes(x, s, n, c, 1, in);
        const S* gs = planes(g, s, n, from, 1, up);
        S* ds = draft(dx, s, n, c, 1, out);
        S* u = chunks.of((order + 2) * CHUNK);
        const Gate<S> gate{w + c, b + c, order, s.c};
        S* dws = dw + n * order * s.c + c;  // (N, K, C)
        S* dbs = db + n * order * s.c + c;
        for (int64_t k = 0; k < order; ++k) dws[k * s.c] = dbs[k * s.c] = 0;
        const S mean = means[at], rstd = rstds[at];
        if (!local[c]) {
            S f, d = product(gs, xs, p);
            u[0] = scale[c] * mean + shift[c];
            gate.slopes(u, &f, &d, dws, dbs, 1);
            dscale[at] = d * mean;
            dshift[at] = d;
            const S rest = d * scale[c] / S(p);
            for (int64_t i = 0; i < p; ++i) ds[i] = gs[i] * f + rest;
            return put(ds, dx, s, n, c, 1);
        }
        const S a = scale[c] * rstd, e = shift[c] - a * mean;
        S sum = 0, along = 0;  // of dL/du, and of dL/du * normalised x
        if (order == 0) {
#pragma omp simd reduction(+ : sum, along)
            for (int64_t i = 0; i < p; ++i) {
                const S f = sigmoid(a * xs[i] + e);
                const S d = gs[i] * xs[i] * f * (S(1) - f);
                sum += d;
                along += d * (xs[i] - mean) * rstd;
                ds[i] = gs[i] * f + a * d;
            }
        } else {
            S f[CHUNK], d[CHUNK];
            for (int64_t start = 0; start < p; start += CHUNK) {
                const int64_t some = std::min(CHUNK, p - start);
                const S *xc = xs + start, *gc = gs + start;
                for (int64_t i = 0; i < some; ++i) {
                    u[i] = a * xc[i] + e;
                    d[i] = gc[i] * xc[i];
                }
                gate.slopes(u, f, d, dws, dbs, some);
#pragma omp simd reduction(+ : sum, along)
                for (int64_t i = 0; i < some; ++i) {
                    sum += d[i];
                    along += d[i] * (xc[i] - mean) * rstd;
                    ds[start + i] = gc[i] * f[i] + a * d[i];
                }
            }
        }
        dscale[at] = along;
        dshift[at] = sum;
        const S slope = -a * along / S(p) * rstd, rest = -a * sum / S(p) - slope * mean;
        for (int64_t i = 0; i < p; ++i) ds[i] += slope * xs[i] + rest;
        put(ds, dx, s, n, c, 1);
    });
}

}  // namespace
