// Channel gates: one factor a plane.

#pragma once

#include "planes.h"

namespace {

template <class T>
void plane_statistics(const Shape& s, const T* x, typename Sum<T>::type* means, typename Sum<T>::type* variances,
                      typename Sum<T>::type* tops, int64_t* where) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p(), apart = pitch(s);
    if (s.last && !tops) {
        row_means(s, x, means);
        if (!variances) return;
        row_squares(s, x, means, variances);
        for (int64_t at = 0; at < s.n * s.c; ++at) variances[at] /= S(p > 1 ? p - 1 : 1);
        return;
    }
    each_block(s, block<T>(s), [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> in;
        const S* xs = planes(x, s, n, first, count, in);
        for (int64_t j = 0; j < count; ++j, xs += apart) {
            const int64_t at = n * s.c + first + j;
            const S mean = total(xs, p) / S(p);
            means[at] = mean;
            if (variances) variances[at] = p > 1 ? squares(xs, mean, p) / S(p - 1) : S(0);
            if (tops) tops[at] = largest(xs, p, where + at);
        }
    });
}

template <class T> void plane_scale(const Shape& s, const T* x, const typename Sum<T>::type* f, T* y) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p();
    if (s.last) {
        each_row(s, [&](int64_t n, int64_t i) {
            const T* from = x + (n * p + i) * s.c;
            T* to = y + (n * p + i) * s.c;
            const S* fs = f + n * s.c;
            for (int64_t c = 0; c < s.c; ++c) to[c] = narrow<T>(widen(from[c]) * fs[c]);
        });
        return;
    }
    each_block(s, 1, [&](int64_t n, int64_t c, int64_t) {
        const int64_t at = n * s.c + c;
        const S factor = f[at];
        const T* from = x + at * p;
        T* to = y + at * p;
        for (int64_t i = 0; i < p; ++i) to[i] = narrow<T>(widen(from[i]) * factor);
    });
}

template <class T>
void plane_dot(const Shape& s, const T* g, const T* x, typename Sum<T>::type* dots) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p(), apart = pitch(s);
    if (s.last) {
        over_rows(s, dots, [&](int64_t n, int64_t i, S* sums) {
            const T *gr = g + (n * p + i) * s.c, *xr = x + (n * p + i) * s.c;
            for (int64_t c = 0; c < s.c; ++c) sums[c] += widen(gr[c]) * widen(xr[c]);
        });
        return;
    }
    each_block(s, block<T>(s), [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> in, up;
        const S* xs = planes(x, s, n, first, count, in);
        const S* gs = planes(g, s, n, first, count, up);
        for (int64_t j = 0; j < count; ++j) dots[n * s.c + first + j] = product(gs + j * apart, xs + j * apart, p);
    });
}

// dx = g * f + rest + slope * x, and `peak` more where the plane has its largest value. slope and peak may be absent.
template <class T>
void plane_combine(const Shape& s, const T* g, const typename Sum<T>::type* f, const typename Sum<T>::type* rest,
                   const T* x, const typename Sum<T>::type* slope, const typename Sum<T>::type* peak,
                   const int64_t* where, T* dx) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p(), apart = pitch(s);
    if (s.last && !peak) {
        each_row(s, [&](int64_t n, int64_t i) {
            const int64_t row = (n * p + i) * s.c, at = n * s.c;
            if (slope) {
                for (int64_t c = 0; c < s.c; ++c)
                    dx[row + c] = narrow<T>(widen(g[row + c]) * f[at + c] + rest[at + c] + slope[at + c] * widen(x[row + c]));
            } else {
                for (int64_t c = 0; c < s.c; ++c) dx[row + c] = narrow<T>(widen(g[row + c]) * f[at + c] + rest[at + c]);
            }
        });
        return;
    }
    each_block(s, block<T>(s), [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> in, up, out;
        const S* xs = slope ? planes(x, s, n, first, count, in) : nullptr;
        const S* gs = planes(g, s, n, first, count, up);
        S* ds = draft(dx, s, n, first, count, out);
        for (int64_t j = 0; j < count; ++j) {
            const int64_t at = n * s.c + first + j;
            const S factor = f[at], more = rest[at];
            const S* gp = gs + j * apart;
            S* dp = ds + j * apart;
            if (slope) {
                const S steep = slope[at];
                const S* xp = xs + j * apart;
                for (int64_t i = 0; i < p; ++i) dp[i] = gp[i] * factor + more + steep * xp[i];
            } else {
                for (int64_t i = 0; i < p; ++i) dp[i] = gp[i] * factor + more;
            }
            if (peak) dp[where[at]] += peak[at];
        }
        put(ds, dx, s, n, first, count);
    });
}

}  // namespace
