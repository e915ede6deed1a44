// Context gates: weighted sums over places (global context).

#pragma once

#include "planes.h"

namespace {

// sum over c of k * x, k a number a plane
template <class T>
void over_channels(const Shape& s, const T* x, const typename Sum<T>::type* k, typename Sum<T>::type* sums) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p();
    each_run(s, CHUNK, [&](int64_t n, int64_t start, int64_t some) {
        S* sum = sums + n * p + start;
        for (int64_t i = 0; i < some; ++i) sum[i] = 0;
        if (s.last) {
            for (int64_t i = 0; i < some; ++i) {
                const T* line = x + (n * p + start + i) * s.c;
                S all = 0;
#pragma omp simd reduction(+ : all)
                for (int64_t c = 0; c < s.c; ++c) all += widen(line[c]) * k[n * s.c + c];
                sum[i] = all;
            }
            return;
        }
        for (int64_t c = 0; c < s.c; ++c) {
            const T* line = x + (n * s.c + c) * p + start;
            const S factor = k[n * s.c + c];
            for (int64_t i = 0; i < some; ++i) sum[i] += widen(line[i]) * factor;
        }
    });
}

// sum over p of a * x, a a number a place
template <class T>
void over_places(const Shape& s, const T* x, const typename Sum<T>::type* a, typename Sum<T>::type* sums) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p(), apart = pitch(s);
    if (s.last) {
        over_rows(s, sums, [&](int64_t n, int64_t i, S* to) {
            const T* row = x + (n * p + i) * s.c;
            const S weight = a[n * p + i];
            for (int64_t c = 0; c < s.c; ++c) to[c] += widen(row[c]) * weight;
        });
        return;
    }
    each_block(s, block<T>(s), [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> in;
        const S* xs = planes(x, s, n, first, count, in);
        for (int64_t j = 0; j < count; ++j) sums[n * s.c + first + j] = product(xs + j * apart, a + n * p, p);
    });
}

// dx = g * f + u * a + k * v, with f, u, k a number a plane and a, v a number a place.
template <class T>
void context_combine(const Shape& s, const T* g, const typename Sum<T>::type* f, const typename Sum<T>::type* u,
                     const typename Sum<T>::type* a, const typename Sum<T>::type* k, const typename Sum<T>::type* v,
                     T* dx) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p(), apart = pitch(s);
    if (s.last) {
        each_row(s, [&](int64_t n, int64_t i) {
            const int64_t row = (n * p + i) * s.c, at = n * s.c;
            const S ai = a[n * p + i], vi = v[n * p + i];
            for (int64_t c = 0; c < s.c; ++c)
                dx[row + c] = narrow<T>(widen(g[row + c]) * f[at + c] + u[at + c] * ai + k[at + c] * vi);
        });
        return;
    }
    each_block(s, block<T>(s), [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> up, out;
        const S* gs = planes(g, s, n, first, count, up);
        S* ds = draft(dx, s, n, first, count, out);
        const S *as = a + n * p, *vs = v + n * p;
        for (int64_t j = 0; j < count; ++j) {
            const int64_t at = n * s.c + first + j;
            const S factor = f[at], un = u[at], kn = k[at];
            for (int64_t i = 0; i < p; ++i) ds[j * apart + i] = gs[j * apart + i] * factor + un * as[i] + kn * vs[i];
        }
        put(ds, dx, s, n, first, count);
    });
}

}  // namespace
