// Group gates: one map a group of channels (spatial group-wise enhance).

#pragma once

#include "gate.h"
#include "planes.h"

namespace {

// The map of a group: every place's product with the group's mean vector, normalised over the places.
template <class S> inline void similarity(const S* xs, const S* means, int64_t channels, int64_t p, int64_t apart, S* t) {
    for (int64_t i = 0; i < p; ++i) t[i] = means[0] * xs[i];
    for (int64_t c = 1; c < channels; ++c)
        for (int64_t i = 0; i < p; ++i) t[i] += means[c] * xs[c * apart + i];
}

template <class T>
void group_gate_forward(const Shape& s, const T* x, T* y, int64_t groups, const typename Sum<T>::type* weight,
                        const typename Sum<T>::type* bias, const typename Sum<T>::type* w,
                        const typename Sum<T>::type* b, int64_t order, double eps, typename Sum<T>::type* means,
                        typename Sum<T>::type* centres, typename Sum<T>::type* spreads) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p(), apart = pitch(s), channels = s.c / groups;
    each_block(s, channels, [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> in, out, map;
        const int64_t group = first / channels, at = n * groups + group;
        const S* xs = planes(x, s, n, first, count, in);
        S* ys = draft(y, s, n, first, count, out);
        S* mean = means + n * s.c + first;
        S* t = map.of(p);
        for (int64_t c = 0; c < channels; ++c) mean[c] = total(xs + c * apart, p) / S(p);
        similarity(xs, mean, channels, p, apart, t);
        const S centre = total(t, p) / S(p);
        const S spread = p > 1 ? std::sqrt(squares(t, centre, p) / S(p - 1)) : S(0);
        centres[at] = centre;
        spreads[at] = spread;
        const Gate<S> gate{w + group, b + group, order, groups};
        const S a = weight[group] / (spread + S(eps)), d = bias[group];
        S u[CHUNK], f[CHUNK];
        for (int64_t start = 0; start < p; start += CHUNK) {
            const int64_t some = std::min(CHUNK, p - start);
            for (int64_t i = 0; i < some; ++i) u[i] = a * (t[start + i] - centre) + d;
            gate.values(u, f, some);
            for (int64_t c = 0; c < channels; ++c)
                for (int64_t i = 0; i < some; ++i) ys[c * apart + start + i] = xs[c * apart + start + i] * f[i];
        }
        put(ys, y, s, n, first, count);
    });
}

template <class T>
void group_gate_backward(const Shape& s, const T* g, const T* x, int64_t groups, const typename Sum<T>::type* weight,
                         const typename Sum<T>::type* bias, const typename Sum<T>::type* w,
                         const typename Sum<T>::type* b, int64_t order, double eps, const typename Sum<T>::type* means,
                         const typename Sum<T>::type* centres, const typename Sum<T>::type* spreads, T* dx,
                         typename Sum<T>::type* dweight, typename Sum<T>::type* dbias, typename Sum<T>::type* dw,
                         typename Sum<T>::type* db) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p(), apart = pitch(s), channels = s.c / groups;
    each_block(s, channels, [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> in, up, out, map, factors, slopes, chunks;
        const int64_t group = first / channels, at = n * groups + group;
        const S* xs = planes(x, s, n, first, count, in);
        const S* gs = planes(g, s, n, first, count, up);
        S* ds = draft(dx, s, n, first, count, out);
        const S* mean = means + n * s.c + first;
        S *t = map.of(p), *f = factors.of(p), *d = slopes.of(p), *u = chunks.of((order + 2) * CHUNK);
        similarity(xs, mean, channels, p, apart, t);
        const S centre = centres[at], spread = spreads[at], inverse = S(1) / (spread + S(eps));
        const Gate<S> gate{w + group, b + group, order, groups};
        S* dws = dw + n * order * groups + group;  // (N, K, G)
        S* dbs = db + n * order * groups + group;
        for (int64_t k = 0; k < order; ++k) dws[k * groups] = dbs[k * groups] = 0;
        for (int64_t i = 0; i < p; ++i) t[i] = (t[i] - centre) * inverse;
        for (int64_t i = 0; i < p; ++i) d[i] = gs[i] * xs[i];
        for (int64_t c = 1; c < channels; ++c)
            for (int64_t i = 0; i < p; ++i) d[i] += gs[c * apart + i] * xs[c * apart + i];
        S sum = 0, along = 0;
        for (int64_t start = 0; start < p; start += CHUNK) {
            const int64_t some = std::min(CHUNK, p - start);
            for (int64_t i = 0; i < some; ++i) u[i] = weight[group] * t[start + i] + bias[group];
            gate.slopes(u, f + start, d + start, dws, dbs, some);
        }
#pragma omp simd reduction(+ : sum, along)
        for (int64_t i = 0; i < p; ++i) {
            sum += d[i];
            along += d[i] * t[i];
        }
        dbias[at] = sum;
        dweight[at] = along;
        // Through t = (s - mean(s)) / (std(s) + eps), std with P - 1 in the denominator.
        const S lead = weight[group] * inverse;
        const S bend = p > 1 && spread > S(0) ? weight[group] * along / (spread * S(p - 1)) : S(0);
        for (int64_t i = 0; i < p; ++i) d[i] = lead * (d[i] - sum / S(p)) - bend * t[i];
        for (int64_t c = 0; c < channels; ++c) {
            const S *xp = xs + c * apart, *gp = gs + c * apart;
            const S m = mean[c], rest = product(d, xp, p) / S(p);
            S* to = ds + c * apart;
            for (int64_t i = 0; i < p; ++i) to[i] = gp[i] * f[i] + d[i] * m + rest;
        }
        put(ds, dx, s, n, first, count);
    });
}

}  // namespace
