// The gate of shuffle attention: logits a * x + d, with a and d a number for each image and channel.

#pragma once

#include "gate.h"
#include "statistics.h"

namespace {

template <class T> struct Shuffle {
    using S = typename Sum<T>::type;
    const Call& call;
    // Parameters (C), (C), (K, C), (K, C); statistics (N, C).
    const S *scale, *shift, *w, *b;
    const uint8_t* local;
    S *means, *rstds;
    int64_t order, p = call.p();
    bool shuffle;

    // Where the channel shuffle takes channel c: in two halves, half by half -> pair by pair.
    int64_t shuffled(int64_t c) const { return shuffle ? c % (call.c / 2) * 2 + c / (call.c / 2) : c; }

    void logits(int64_t n, int64_t c, S& a, S& d) const {
        const int64_t at = n * call.c + c;
        a = local[c] ? scale[c] * rstds[at] : S(0);
        d = shift[c] + (local[c] ? -a : scale[c]) * means[at];
    }

    // y = x * factors, of a chunk.
    template <bool V, class Y>
    void forward(const Gate<V, S>& gate, const S* a, const S* d, const T* x, Y* y, int64_t count) const {
        const auto as = row<V>(a), ds = row<V>(d);
        S u[CHUNK], f[CHUNK];
        if (order == 0) {
            for (int64_t i = 0; i < count; ++i) y[i] = narrow<Y>(widen(x[i]) * sigmoid(as[i] * widen(x[i]) + ds[i]));
            return;
        }
        for (int64_t i = 0; i < count; ++i) u[i] = as[i] * widen(x[i]) + ds[i];
        gate.values(u, f, count);
        for (int64_t i = 0; i < count; ++i) y[i] = narrow<Y>(widen(x[i]) * f[i]);
    }

    // Of a chunk: what reaches x by way of itself, dx, and by way of the logits, du. u is scratch.
    template <bool V, class G>
    void backward(const Gate<V, S>& gate, const S* a, const S* d, const T* x, const G* g, S* u, S* dx, S* du, S* dw, S* db,
                  int64_t count) const {
        const auto as = row<V>(a), ds = row<V>(d);
        if (order == 0) {
#pragma omp simd
            for (int64_t i = 0; i < count; ++i) {
                const S v = widen(x[i]), up = widen(g[i]), f = sigmoid(as[i] * v + ds[i]);
                du[i] = up * v * f * (S(1) - f);
                dx[i] = up * f + as[i] * du[i];
            }
            return;
        }
        for (int64_t i = 0; i < count; ++i) {
            u[i] = as[i] * widen(x[i]) + ds[i];
            du[i] = widen(g[i]) * widen(x[i]);
        }
        gate.slopes(u, dx, du, dw, db, count);
        for (int64_t i = 0; i < count; ++i) dx[i] = widen(g[i]) * dx[i] + as[i] * du[i];
    }
};

template <class T, class Work> inline void chunks(int64_t size, const Work& work) {
    for (int64_t start = 0; start < size; start += CHUNK) work(start, std::min(CHUNK, size - start));
}

// Tensors: x, scale, shift, local, w, b, y, means, rstds. Numbers: order, eps, whether to shuffle.
template <class T> void shuffle_gate(const Call& call) {
    using S = typename Sum<T>::type;
    const Shuffle<T> of{call, call.in<S>(1), call.in<S>(2), call.in<S>(4), call.in<S>(5), call.in<uint8_t>(3),
                        call.at<S>(7), call.at<S>(8), int64_t(call.numbers[0]), call.p(), call.numbers[2] != 0};
    const T* x = call.in<T>(0);
    T* y = call.at<T>(6);
    const int64_t p = of.p, c = call.c;
    const auto rstd_of = [&](S squares) { return S(1) / std::sqrt(squares / S(p) + S(call.numbers[1])); };
    if (!call.last) {
        each(call, call.n * c, [&](int64_t at) {
            const int64_t n = at / c, channel = at % c;
            const T* xs = x + at * p;
            T* ys = y + (n * c + of.shuffled(channel)) * p;
            const S mean = mean_of(xs, p);
            of.means[at] = mean;
            of.rstds[at] = of.local[channel] ? rstd_of(squares_of(xs, mean, p)) : S(0);
            S a, d, f;
            of.logits(n, channel, a, d);
            const Gate<false, S> gate{of.w + channel, of.b + channel, of.order, c};
            if (!of.local[channel]) {
                gate.values(&d, &f, 1);
                for (int64_t i = 0; i < p; ++i) ys[i] = narrow<T>(widen(xs[i]) * f);
                return;
            }
            chunks<T>(p, [&](int64_t start, int64_t count) { of.forward(gate, &a, &d, xs + start, ys + start, count); });
        });
        return;
    }
    over_outer<T, S>(call, p, c, x, nullptr, of.means, of.rstds, nullptr, nullptr);  // of variances, for now
    std::vector<S> a(call.n * c), d(call.n * c);
    for (int64_t at = 0; at < call.n * c; ++at) {
        of.rstds[at] = of.local[at % c] ? rstd_of(of.rstds[at] * S(std::max<int64_t>(p - 1, 1))) : S(0);
        of.logits(at / c, at % c, a[at], d[at]);
    }
    each(call, call.n * p, [&](int64_t pixel) {
        static thread_local Scratch<S> room;
        S* out = room.of(c);
        const T* xs = x + pixel * c;
        T* ys = y + pixel * c;
        const int64_t at = pixel / p * c;
        chunks<T>(c, [&](int64_t start, int64_t count) {
            const Gate<true, S> gate{of.w + start, of.b + start, of.order, c};
            of.forward(gate, a.data() + at + start, d.data() + at + start, xs + start, out + start, count);
        });
        if (of.shuffle)
            for (int64_t k = 0; k < c / 2; ++k) ys[2 * k] = narrow<T>(out[k]), ys[2 * k + 1] = narrow<T>(out[c / 2 + k]);
        else
            for (int64_t k = 0; k < c; ++k) ys[k] = narrow<T>(out[k]);
    });
}

// Tensors: g, x, means, rstds, scale, shift, local, w, b, dx, dscale, dshift (N, C), dw, db (N, K, C). Numbers: order,
// whether to shuffle.
template <class T> void shuffle_gate_backward(const Call& call) {
    using S = typename Sum<T>::type;
    const Shuffle<T> of{call, call.in<S>(4), call.in<S>(5), call.in<S>(7), call.in<S>(8), call.in<uint8_t>(6),
                        call.at<S>(2), call.at<S>(3), int64_t(call.numbers[0]), call.p(), call.numbers[1] != 0};
    const T *g = call.in<T>(0), *x = call.in<T>(1);
    T* dx = call.at<T>(9);
    S *dscale = call.at<S>(10), *dshift = call.at<S>(11), *dw = call.at<S>(12), *db = call.at<S>(13);
    const int64_t p = of.p, c = call.c, order = of.order;
    // What the statistics add to dx: slope * x + rest, of what reached the logits, summed and along the normalised x.
    const auto by_statistics = [&](int64_t at, S sum, S along, S& slope, S& rest) {
        const int64_t channel = at % c;
        const S a = of.scale[channel] * of.rstds[at];
        dshift[at] = sum;
        dscale[at] = of.local[channel] ? along : sum * of.means[at];
        slope = -a * along / S(p) * of.rstds[at];
        rest = of.local[channel] ? -a * sum / S(p) - slope * of.means[at] : sum * of.scale[channel] / S(p);
    };
    if (!call.last) {
        each(call, call.n * c, [&](int64_t at) {
            static thread_local Scratch<S> room;
            const int64_t n = at / c, channel = at % c;
            const T *xs = x + at * p, *gs = g + (n * c + of.shuffled(channel)) * p;
            T* to = dx + at * p;
            S *draft = room.of(p + (order + 2) * CHUNK), *u = draft + p;
            if constexpr (std::is_same_v<T, S>) draft = to;
            const Gate<false, S> gate{of.w + channel, of.b + channel, order, c};
            S *dws = dw + n * order * c + channel, *dbs = db + n * order * c + channel;
            for (int64_t k = 0; k < order; ++k) dws[k * c] = dbs[k * c] = 0;
            S a, d, slope, rest;
            of.logits(n, channel, a, d);
            if (!of.local[channel]) {
                S f, du = summed<S>(p, [&](int64_t i) { return widen(gs[i]) * widen(xs[i]); });
                u[0] = d;
                gate.slopes(u, &f, &du, dws, dbs, 1);
                by_statistics(at, du, S(0), slope, rest);
                for (int64_t i = 0; i < p; ++i) to[i] = narrow<T>(widen(gs[i]) * f + rest);
                return;
            }
            const S mean = of.means[at], rstd = of.rstds[at];
            S sum = 0, along = 0, du[CHUNK];
            chunks<T>(p, [&](int64_t start, int64_t count) {
                of.backward(gate, &a, &d, xs + start, gs + start, u, draft + start, du, dws, dbs, count);
                add<false>(&sum, count, [&](int64_t i) { return du[i]; });
                add<false>(&along, count, [&](int64_t i) { return du[i] * (widen(xs[start + i]) - mean) * rstd; });
            });
            by_statistics(at, sum, along, slope, rest);
            for (int64_t i = 0; i < p; ++i) to[i] = narrow<T>(draft[i] + slope * widen(xs[i]) + rest);
        });
        return;
    }
    std::vector<S> a(call.n * c), d(call.n * c), slopes(call.n * c), rests(call.n * c);
    for (int64_t at = 0; at < call.n * c; ++at) of.logits(at / c, at % c, a[at], d[at]);
    // Of a pixel: dx without what the statistics add, and what reaches the logits; adds to sums of dw and db.
    const auto pixel = [&](int64_t n, int64_t i, S* sums, const auto& use) {
        static thread_local Scratch<S> room;
        S *gs = room.of(3 * c + (order + 2) * CHUNK), *out = gs + c, *du = out + c, *u = du + c;
        const T *xs = x + (n * p + i) * c, *from = g + (n * p + i) * c;
        if (of.shuffle)
            for (int64_t k = 0; k < c / 2; ++k) gs[k] = widen(from[2 * k]), gs[c / 2 + k] = widen(from[2 * k + 1]);
        else
            for (int64_t k = 0; k < c; ++k) gs[k] = widen(from[k]);
        chunks<T>(c, [&](int64_t start, int64_t count) {
            const Gate<true, S> gate{of.w + start, of.b + start, order, c};
            of.backward(gate, a.data() + n * c + start, d.data() + n * c + start, xs + start, gs + start, u, out + start,
                        du + start, sums ? sums + 2 * c + start : nullptr, sums ? sums + (2 + order) * c + start : nullptr,
                        count);
        });
        use(xs, out, du);
    };
    const int64_t width = (2 + 2 * order) * c;
    std::vector<S> sums(call.n * width);
    over_rows(call, p, width, sums.data(), [&](int64_t n, int64_t i, S* to) {
        pixel(n, i, to, [&](const T* xs, const S*, const S* du) {
            const S *mean = of.means + n * c, *rstd = of.rstds + n * c;
            for (int64_t k = 0; k < c; ++k) {
                to[k] += du[k];
                to[c + k] += du[k] * (widen(xs[k]) - mean[k]) * rstd[k];
            }
        });
    });
    for (int64_t n = 0; n < call.n; ++n) {
        const S* from = sums.data() + n * width;
        std::copy(from + 2 * c, from + (2 + order) * c, dw + n * order * c);
        std::copy(from + (2 + order) * c, from + width, db + n * order * c);
        for (int64_t k = 0; k < c; ++k) by_statistics(n * c + k, from[k], from[c + k], slopes[n * c + k], rests[n * c + k]);
    }
    each(call, call.n * p, [&](int64_t at) {
        const int64_t n = at / p, of_image = n * c;
        pixel(n, at % p, nullptr, [&](const T* xs, const S* out, const S*) {
            T* to = dx + at * c;
            for (int64_t k = 0; k < c; ++k)
                to[k] = narrow<T>(out[k] + slopes[of_image + k] * widen(xs[k]) + rests[of_image + k]);
        });
    });
}

}  // namespace
