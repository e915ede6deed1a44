// The gate of spatial group-wise enhance: one map of logits for each group of channels.

#pragma once

#include "gate.h"

namespace {

// The channels of one group of an image, in place or as a copy, at a distance of `pitch` elements.
template <class T> struct Group {
    using S = typename Sum<T>::type;
    const Call& call;
    int64_t n, first, channels, p = call.p(), pitch = call.last ? (p + 31) / 16 * 16 : p;
    int64_t step_c = call.last ? 1 : p, step_p = call.last ? call.c : 1;

    int64_t offset(int64_t c, int64_t i) const { return n * p * call.c + (first + c) * step_c + i * step_p; }
    const S* read(const T* x, Scratch<S>& scratch) const {
        if constexpr (std::is_same_v<T, S>)
            if (!call.last) return x + offset(0, 0);
        S* dst = scratch.get(channels * pitch);
        tiles([&](int64_t start, auto pixels) {
            const T* src = x + offset(0, start);
            for (int64_t c = 0; c < channels; ++c)
                for (int64_t i = 0; i < pixels; ++i) dst[c * pitch + start + i] = widen(src[c * step_c + i * step_p]);
        });
        return dst;
    }
    S* draft(T* y, Scratch<S>& scratch) const {
        if constexpr (std::is_same_v<T, S>)
            if (!call.last) return y + offset(0, 0);
        return scratch.get(channels * pitch);
    }
    void write(const S* src, T* y) const {
        if constexpr (std::is_same_v<T, S>)
            if (!call.last) return;
        tiles([&](int64_t start, auto pixels) {
            T* dst = y + offset(0, start);
            for (int64_t i = 0; i < pixels; ++i)
                for (int64_t c = 0; c < channels; ++c)
                    dst[c * step_c + i * step_p] = narrow<T>(src[c * pitch + start + i]);
        });
    }
    // Tiles of 16 pixels, a constant size, so that the compiler transposes them in registers.
    template <class Work> void tiles(const Work& work) const {
        int64_t start = 0;
        for (; start + 16 <= p; start += 16) work(start, std::integral_constant<int64_t, 16>());
        if (start < p) work(start, p - start);
    }
    // The dot product of every pixel with the group's mean vector.
    void similarity(const S* xs, const S* means, S* t) const {
        for (int64_t i = 0; i < p; ++i) t[i] = means[0] * xs[i];
        for (int64_t c = 1; c < channels; ++c)
            for (int64_t i = 0; i < p; ++i) t[i] += means[c] * xs[c * pitch + i];
    }
};

template <class T, class Work> inline void for_each_group(const Call& call, int64_t groups, const Work& work) {
    const int64_t channels = call.c / groups;
    parallel_for(call, call.n * groups, [&](int64_t index) {
        work(index, index % groups, Group<T>{call, index / groups, index % groups * channels, channels});
    });
}

// Tensors: x, weight, bias (G), w, b (K, G), y, means (N, C), centres, stds (N, G). Numbers: G, order, eps.
template <class T> void group_gate(const Call& call) {
    using S = typename Sum<T>::type;
    const int64_t p = call.p(), groups = int64_t(call.numbers[0]), order = int64_t(call.numbers[1]);
    const S *weight = call.in<S>(1), *bias = call.in<S>(2), *w = call.in<S>(3), *b = call.in<S>(4);
    for_each_group<T>(call, groups, [&](int64_t index, int64_t group, const Group<T>& part) {
        static thread_local Scratch<S> in, out, map;
        const S* xs = part.read(call.in<T>(0), in);
        S* ys = part.draft(call.out<T>(5), out);
        S *mean = call.out<S>(6) + part.n * call.c + part.first, *t = map.get(p);
        for (int64_t c = 0; c < part.channels; ++c) mean[c] = mean_of(xs + c * part.pitch, p);
        part.similarity(xs, mean, t);
        const S centre = mean_of(t, p);
        const S std = p > 1 ? std::sqrt(squared_deviations(t, centre, p) / S(p - 1)) : S(0);
        call.out<S>(7)[index] = centre;
        call.out<S>(8)[index] = std;
        const Gate<false, S> gate{w + group, b + group, order, groups};
        const S a = weight[group] / (std + S(call.numbers[2])), d = bias[group];
        S u[CHUNK], f[CHUNK];
        for (int64_t start = 0; start < p; start += CHUNK) {
            const int64_t length = std::min(CHUNK, p - start);
            for (int64_t i = 0; i < length; ++i) u[i] = a * (t[start + i] - centre) + d;
            gate.values(u, f, length);
            for (int64_t c = 0; c < part.channels; ++c)
                for (int64_t i = 0, k = c * part.pitch + start; i < length; ++i) ys[k + i] = xs[k + i] * f[i];
        }
        part.write(ys, call.out<T>(5));
    });
}

// Tensors: g, x, means, centres, stds, weight, bias, w, b, dx, dweight, dbias (N, G), dw, db (N, K, G). Numbers: as above.
template <class T> void group_gate_backward(const Call& call) {
    using S = typename Sum<T>::type;
    const int64_t p = call.p(), groups = int64_t(call.numbers[0]), order = int64_t(call.numbers[1]);
    const S *weight = call.in<S>(5), *bias = call.in<S>(6), *w = call.in<S>(7), *b = call.in<S>(8);
    for_each_group<T>(call, groups, [&](int64_t index, int64_t group, const Group<T>& part) {
        static thread_local Scratch<S> in, grad, out, maps;
        const S *xs = part.read(call.in<T>(1), in), *gs = part.read(call.in<T>(0), grad);
        S* ds = part.draft(call.out<T>(9), out);
        const S *mean = call.in<S>(2) + part.n * call.c + part.first;
        const S centre = call.in<S>(3)[index], std = call.in<S>(4)[index];
        S *t = maps.get(3 * p + 2 * (order + 1) * CHUNK), *f = t + p, *d = f + p, *u = d + p;
        const S inverse = S(1) / (std + S(call.numbers[2]));
        const Gate<false, S> gate{w + group, b + group, order, groups};
        S *dw = call.out<S>(12) + part.n * order * groups + group, *db = call.out<S>(13) + part.n * order * groups + group;
        for (int64_t k = 0; k < order; ++k) dw[k * groups] = db[k * groups] = 0;
        part.similarity(xs, mean, t);
        for (int64_t i = 0; i < p; ++i) t[i] = (t[i] - centre) * inverse;
        for (int64_t i = 0; i < p; ++i) d[i] = gs[i] * xs[i];
        for (int64_t c = 1; c < part.channels; ++c)
            for (int64_t i = 0; i < p; ++i) d[i] += gs[c * part.pitch + i] * xs[c * part.pitch + i];
        for (int64_t start = 0; start < p; start += CHUNK) {
            const int64_t length = std::min(CHUNK, p - start);
            for (int64_t i = 0; i < length; ++i) u[i] = weight[group] * t[start + i] + bias[group];
            gate.slopes(u, f + start, d + start, dw, db, length);
        }
        S sum = 0, dot = 0;
        add<false>(&sum, p, [&](int64_t i) { return d[i]; });
        add<false>(&dot, p, [&](int64_t i) { return d[i] * t[i]; });
        call.out<S>(10)[index] = dot;
        call.out<S>(11)[index] = sum;
        // The gradient of t = (s - mean(s)) / (std(s) + eps), where std has P - 1 in the denominator.
        const S factor = weight[group] * inverse;
        const S std_slope = p > 1 && std > S(0) ? weight[group] * dot / (std * S(p - 1)) : S(0);
        for (int64_t i = 0; i < p; ++i) d[i] = factor * (d[i] - sum / S(p)) - std_slope * t[i];
        for (int64_t c = 0; c < part.channels; ++c) {
            const S *xp = xs + c * part.pitch, *gp = gs + c * part.pitch;
            const S m = mean[c], offset = sum_of<S>(p, [&](int64_t i) { return d[i] * xp[i]; }) / S(p);
            S* dst = ds + c * part.pitch;
            for (int64_t i = 0; i < p; ++i) dst[i] = gp[i] * f[i] + d[i] * m + offset;
        }
        part.write(ds, call.out<T>(9));
    });
}

}  // namespace
