// The gate of spatial group-wise enhance: one map of logits for each group of channels.

#pragma once

#include "gate.h"

namespace {

// The channels of one group and image, a pitch apart: where they lie, or a copy.
template <class T> struct Group {
    using S = typename Sum<T>::type;
    const Call& call;
    int64_t n, first, channels, p = call.p(), pitch = call.last ? (p + 31) / 16 * 16 : p;
    int64_t step_c = call.last ? 1 : p, step_p = call.last ? call.c : 1;

    int64_t at(int64_t c, int64_t i) const { return n * p * call.c + (first + c) * step_c + i * step_p; }
    const S* read(const T* x, Scratch<S>& room) const {
        if constexpr (std::is_same_v<T, S>)
            if (!call.last) return x + at(0, 0);
        S* to = room.of(channels * pitch);
        tiles([&](int64_t start, auto pixels) {
            const T* from = x + at(0, start);
            for (int64_t c = 0; c < channels; ++c)
                for (int64_t i = 0; i < pixels; ++i) to[c * pitch + start + i] = widen(from[c * step_c + i * step_p]);
        });
        return to;
    }
    S* draft(T* y, Scratch<S>& room) const {
        if constexpr (std::is_same_v<T, S>)
            if (!call.last) return y + at(0, 0);
        return room.of(channels * pitch);
    }
    void write(const S* from, T* y) const {
        if constexpr (std::is_same_v<T, S>)
            if (!call.last) return;
        tiles([&](int64_t start, auto pixels) {
            T* to = y + at(0, start);
            for (int64_t i = 0; i < pixels; ++i)
                for (int64_t c = 0; c < channels; ++c) to[c * step_c + i * step_p] = narrow<T>(from[c * pitch + start + i]);
        });
    }
    // Of a size that the compiler knows, so that they are turned in registers.
    template <class Work> void tiles(const Work& work) const {
        int64_t start = 0;
        for (; start + 16 <= p; start += 16) work(start, std::integral_constant<int64_t, 16>());
        if (start < p) work(start, p - start);
    }
    // Every pixel's product with the group's mean vector.
    void similarity(const S* xs, const S* means, S* t) const {
        for (int64_t i = 0; i < p; ++i) t[i] = means[0] * xs[i];
        for (int64_t c = 1; c < channels; ++c)
            for (int64_t i = 0; i < p; ++i) t[i] += means[c] * xs[c * pitch + i];
    }
};

template <class T, class Work> inline void each_group(const Call& call, int64_t groups, const Work& work) {
    const int64_t channels = call.c / groups;
    each(call, call.n * groups, [&](int64_t at) {
        work(at, at % groups, Group<T>{call, at / groups, at % groups * channels, channels});
    });
}

// Tensors: x, weight, bias (G), w, b (K, G), y, means (N, C), centres, stds (N, G). Numbers: G, order, eps.
template <class T> void group_gate(const Call& call) {
    using S = typename Sum<T>::type;
    const int64_t p = call.p(), groups = int64_t(call.numbers[0]), order = int64_t(call.numbers[1]);
    const S *weight = call.in<S>(1), *bias = call.in<S>(2), *w = call.in<S>(3), *b = call.in<S>(4);
    each_group<T>(call, groups, [&](int64_t at, int64_t group, const Group<T>& of) {
        static thread_local Scratch<S> in, out, map;
        const S* xs = of.read(call.in<T>(0), in);
        S* ys = of.draft(call.at<T>(5), out);
        S *mean = call.at<S>(6) + of.n * call.c + of.first, *t = map.of(p);
        for (int64_t c = 0; c < of.channels; ++c) mean[c] = mean_of(xs + c * of.pitch, p);
        of.similarity(xs, mean, t);
        const S centre = mean_of(t, p);
        const S std = p > 1 ? std::sqrt(squares_of(t, centre, p) / S(p - 1)) : S(0);
        call.at<S>(7)[at] = centre;
        call.at<S>(8)[at] = std;
        const Gate<false, S> gate{w + group, b + group, order, groups};
        const S a = weight[group] / (std + S(call.numbers[2])), d = bias[group];
        S u[CHUNK], f[CHUNK];
        for (int64_t start = 0; start < p; start += CHUNK) {
            const int64_t some = std::min(CHUNK, p - start);
            for (int64_t i = 0; i < some; ++i) u[i] = a * (t[start + i] - centre) + d;
            gate.values(u, f, some);
            for (int64_t c = 0; c < of.channels; ++c)
                for (int64_t i = 0, from = c * of.pitch + start; i < some; ++i) ys[from + i] = xs[from + i] * f[i];
        }
        of.write(ys, call.at<T>(5));
    });
}

// Tensors: g, x, means, centres, stds, weight, bias, w, b, dx, dweight, dbias (N, G), dw, db (N, K, G). Numbers as above.
template <class T> void group_gate_backward(const Call& call) {
    using S = typename Sum<T>::type;
    const int64_t p = call.p(), groups = int64_t(call.numbers[0]), order = int64_t(call.numbers[1]);
    const S *weight = call.in<S>(5), *bias = call.in<S>(6), *w = call.in<S>(7), *b = call.in<S>(8);
    each_group<T>(call, groups, [&](int64_t at, int64_t group, const Group<T>& of) {
        static thread_local Scratch<S> in, up, out, maps;
        const S *xs = of.read(call.in<T>(1), in), *gs = of.read(call.in<T>(0), up);
        S* ds = of.draft(call.at<T>(9), out);
        const S *mean = call.in<S>(2) + of.n * call.c + of.first, centre = call.in<S>(3)[at], std = call.in<S>(4)[at];
        S *t = maps.of(3 * p + (order + 2) * CHUNK), *f = t + p, *d = f + p, *u = d + p;
        const S inverse = S(1) / (std + S(call.numbers[2]));
        const Gate<false, S> gate{w + group, b + group, order, groups};
        S *dw = call.at<S>(12) + of.n * order * groups + group, *db = call.at<S>(13) + of.n * order * groups + group;
        for (int64_t k = 0; k < order; ++k) dw[k * groups] = db[k * groups] = 0;
        of.similarity(xs, mean, t);
        for (int64_t i = 0; i < p; ++i) t[i] = (t[i] - centre) * inverse;
        for (int64_t i = 0; i < p; ++i) d[i] = gs[i] * xs[i];
        for (int64_t c = 1; c < of.channels; ++c)
            for (int64_t i = 0; i < p; ++i) d[i] += gs[c * of.pitch + i] * xs[c * of.pitch + i];
        for (int64_t start = 0; start < p; start += CHUNK) {
            const int64_t some = std::min(CHUNK, p - start);
            for (int64_t i = 0; i < some; ++i) u[i] = weight[group] * t[start + i] + bias[group];
            gate.slopes(u, f + start, d + start, dw, db, some);
        }
        S sum = 0, along = 0;
        add<false>(&sum, p, [&](int64_t i) { return d[i]; });
        add<false>(&along, p, [&](int64_t i) { return d[i] * t[i]; });
        call.at<S>(10)[at] = along;
        call.at<S>(11)[at] = sum;
        // Through t = (s - mean(s)) / (std(s) + eps), std with P - 1 in the denominator.
        const S lead = weight[group] * inverse;
        const S bend = p > 1 && std > S(0) ? weight[group] * along / (std * S(p - 1)) : S(0);
        for (int64_t i = 0; i < p; ++i) d[i] = lead * (d[i] - sum / S(p)) - bend * t[i];
        for (int64_t c = 0; c < of.channels; ++c) {
            const S *xp = xs + c * of.pitch, *gp = gs + c * of.pitch;
            const S m = mean[c], rest = summed<S>(p, [&](int64_t i) { return d[i] * xp[i]; }) / S(p);
            S* to = ds + c * of.pitch;
            for (int64_t i = 0; i < p; ++i) to[i] = gp[i] * f[i] + d[i] * m + rest;
        }
        of.write(ds, call.at<T>(9));
    });
}

}  // namespace
