// Place gates: one factor a place, on features x * f (convolutional block attention).

#pragma once

#include "planes.h"

namespace {

template <class T>
void place_statistics(const Shape& s, const T* x, const typename Sum<T>::type* f, typename Sum<T>::type* means,
                      typename Sum<T>::type* tops, int64_t* where) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p();
    each_run(s, CHUNK, [&](int64_t n, int64_t start, int64_t some) {
        S *mean = means + n * p + start, *top = tops + n * p + start;
        int64_t* at = where + n * p + start;
        const S* fs = f + n * s.c;
        if (s.last) {
            static thread_local Scratch<S> room;
            S* row = room.of(s.c);
            for (int64_t i = 0; i < some; ++i) {
                const T* line = x + (n * p + start + i) * s.c;
                for (int64_t c = 0; c < s.c; ++c) row[c] = widen(line[c]) * fs[c];
                mean[i] = total(row, s.c) / S(s.c);
                top[i] = largest(row, s.c, at + i);
            }
            return;
        }
        for (int64_t c = 0; c < s.c; ++c) {
            const T* line = x + (n * s.c + c) * p + start;
            const S factor = fs[c];
            if (c == 0) {
                for (int64_t i = 0; i < some; ++i) mean[i] = top[i] = widen(line[i]) * factor, at[i] = 0;
                continue;
            }
            for (int64_t i = 0; i < some; ++i) {
                const S v = widen(line[i]) * factor;
                mean[i] += v;
                const bool more = (v > top[i]) | ((v != v) & (top[i] == top[i]));
                top[i] = more ? v : top[i];
                at[i] = more ? c : at[i];
            }
        }
        for (int64_t i = 0; i < some; ++i) mean[i] /= S(s.c);
    });
}

// y = x * f * m with f a factor a plane and m one a place.
template <class T>
void place_scale(const Shape& s, const T* x, const typename Sum<T>::type* f, const typename Sum<T>::type* m, T* y) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p();
    if (s.last) {
        each_run(s, CHUNK, [&](int64_t n, int64_t start, int64_t some) {
            for (int64_t i = start; i < start + some; ++i)
                for (int64_t c = 0, at = (n * p + i) * s.c; c < s.c; ++c)
                    y[at + c] = narrow<T>(widen(x[at + c]) * f[n * s.c + c] * m[n * p + i]);
        });
        return;
    }
    each_block(s, 1, [&](int64_t n, int64_t c, int64_t) {
        const int64_t at = n * s.c + c;
        const S factor = f[at];
        const S* ms = m + n * p;
        for (int64_t i = 0; i < p; ++i) y[at * p + i] = narrow<T>(widen(x[at * p + i]) * factor * ms[i]);
    });
}

// sum over c of g * x * f
template <class T>
void place_dot(const Shape& s, const T* g, const T* x, const typename Sum<T>::type* f, typename Sum<T>::type* dots) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p();
    each_run(s, CHUNK, [&](int64_t n, int64_t start, int64_t some) {
        S* dot = dots + n * p + start;
        for (int64_t i = 0; i < some; ++i) dot[i] = 0;
        if (s.last) {
            for (int64_t i = 0; i < some; ++i) {
                const int64_t at = (n * p + start + i) * s.c;
                S sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int64_t c = 0; c < s.c; ++c) sum += widen(g[at + c]) * widen(x[at + c]) * f[n * s.c + c];
                dot[i] = sum;
            }
            return;
        }
        for (int64_t c = 0; c < s.c; ++c) {
            const int64_t at = (n * s.c + c) * p + start;
            const S factor = f[n * s.c + c];
            for (int64_t i = 0; i < some; ++i) dot[i] += widen(g[at + i]) * widen(x[at + i]) * factor;
        }
    });
}

// What reaches x * f: g * m + mean_rest at every channel, and `peak` more at the channel that was largest there.
template <class S>
inline void reach(const S* gp, const S* m, const S* rest, const S* peak, const int64_t* where, int64_t c, int64_t p,
                  S* out) {
    for (int64_t i = 0; i < p; ++i) out[i] = gp[i] * m[i] + rest[i] + (where[i] == c ? peak[i] : S(0));
}

// df: the sum over the plane of x times what reaches x * f.
template <class T>
void place_plane_dot(const Shape& s, const T* g, const T* x, const typename Sum<T>::type* m,
                     const typename Sum<T>::type* rest, const typename Sum<T>::type* peak, const int64_t* where,
                     typename Sum<T>::type* dots) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p(), apart = pitch(s);
    each_block(s, block<T>(s), [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> in, up, room;
        const S* xs = planes(x, s, n, first, count, in);
        const S* gs = planes(g, s, n, first, count, up);
        S* d = room.of(p);
        for (int64_t j = 0; j < count; ++j) {
            reach(gs + j * apart, m + n * p, rest + n * p, peak + n * p, where + n * p, first + j, p, d);
            dots[n * s.c + first + j] = product(d, xs + j * apart, p);
        }
    });
}

// dx = f * (what reaches x * f) + plane_rest, and plane_peak more where the plane is largest.
template <class T>
void place_combine(const Shape& s, const T* g, const typename Sum<T>::type* f, const typename Sum<T>::type* m,
                   const typename Sum<T>::type* rest, const typename Sum<T>::type* peak, const int64_t* where,
                   const typename Sum<T>::type* plane_rest, const typename Sum<T>::type* plane_peak,
                   const int64_t* plane_where, T* dx) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p(), apart = pitch(s);
    each_block(s, block<T>(s), [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> up, out;
        const S* gs = planes(g, s, n, first, count, up);
        S* ds = draft(dx, s, n, first, count, out);
        for (int64_t j = 0; j < count; ++j) {
            const int64_t at = n * s.c + first + j;
            const S factor = f[at], more = plane_rest[at];
            S* dp = ds + j * apart;
            reach(gs + j * apart, m + n * p, rest + n * p, peak + n * p, where + n * p, first + j, p, dp);
            for (int64_t i = 0; i < p; ++i) dp[i] = dp[i] * factor + more;
            dp[plane_where[at]] += plane_peak[at];
        }
        put(ds, dx, s, n, first, count);
    });
}

}  // namespace
