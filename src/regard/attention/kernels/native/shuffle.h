// The gate of shuffle attention: logits a * x + d, with one a and one d per image and channel.

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

    // The index of channel c after the channel shuffle, which interleaves two halves.
    int64_t shuffled(int64_t c) const { return shuffle ? c % (call.c / 2) * 2 + c / (call.c / 2) : c; }

    void logits(int64_t n, int64_t c, S& a, S& d) const {
        const int64_t index = n * call.c + c;
        a = local[c] ? scale[c] * rstds[index] : S(0);
        d = shift[c] + (local[c] ? -a : scale[c]) * means[index];
    }

    // Computes y = x * factors for a chunk.
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

    // Computes for a chunk dx, the gradient of x with the statistics held constant, and du, the gradient of the logits.
    // Adds to dw and db, unless they are null; u is scratch memory.
    template <bool V, class G>
    void backward(const Gate<V, S>& gate, const S* a, const S* d, const T* x, const G* g, S* u, S* dx, S* du, S* dw, S* db,
                  int64_t count) const {
        const auto as = row<V>(a), ds = row<V>(d);
        if (order == 0) {
#pragma omp simd
            for (int64_t i = 0; i < count; ++i) {
                const S v = widen(x[i]), grad = widen(g[i]), f = sigmoid(as[i] * v + ds[i]);
                du[i] = grad * v * f * (S(1) - f);
                dx[i] = grad * f + as[i] * du[i];
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
    const Shuffle<T> op{call, call.in<S>(1), call.in<S>(2), call.in<S>(4), call.in<S>(5), call.in<uint8_t>(3),
                        call.out<S>(7), call.out<S>(8), int64_t(call.numbers[0]), call.p(), call.numbers[2] != 0};
    const T* x = call.in<T>(0);
    T* y = call.out<T>(6);
    const int64_t p = op.p, c = call.c;
    const auto rstd_of = [&](S squares) { return S(1) / std::sqrt(squares / S(p) + S(call.numbers[1])); };
    if (!call.last) {
        parallel_for(call, call.n * c, [&](int64_t index) {
            const int64_t n = index / c, channel = index % c;
            const T* xs = x + index * p;
            T* ys = y + (n * c + op.shuffled(channel)) * p;
            const S mean = mean_of(xs, p);
            op.means[index] = mean;
            op.rstds[index] = op.local[channel] ? rstd_of(squared_deviations(xs, mean, p)) : S(0);
            S a, d, f;
            op.logits(n, channel, a, d);
            const Gate<false, S> gate{op.w + channel, op.b + channel, op.order, c};
            if (!op.local[channel]) {
                gate.values(&d, &f, 1);
                for (int64_t i = 0; i < p; ++i) ys[i] = narrow<T>(widen(xs[i]) * f);
                return;
            }
            chunks<T>(p, [&](int64_t start, int64_t size) { op.forward(gate, &a, &d, xs + start, ys + start, size); });
        });
        return;
    }
    reduce_outer<T, S>(call, p, c, x, nullptr, op.means, op.rstds, nullptr, nullptr);  // rstds: the variances for now
    std::vector<S> a(call.n * c), d(call.n * c);
    for (int64_t index = 0; index < call.n * c; ++index) {
        op.rstds[index] = op.local[index % c] ? rstd_of(op.rstds[index] * S(std::max<int64_t>(p - 1, 1))) : S(0);
        op.logits(index / c, index % c, a[index], d[index]);
    }
    parallel_for(call, call.n * p, [&](int64_t pixel) {
        static thread_local Scratch<S> scratch;
        S* out = scratch.get(c);
        const T* xs = x + pixel * c;
        T* ys = y + pixel * c;
        const int64_t index = pixel / p * c;
        chunks<T>(c, [&](int64_t start, int64_t count) {
            const Gate<true, S> gate{op.w + start, op.b + start, op.order, c};
            op.forward(gate, a.data() + index + start, d.data() + index + start, xs + start, out + start, count);
        });
        if (op.shuffle)
            for (int64_t k = 0; k < c / 2; ++k) ys[2 * k] = narrow<T>(out[k]), ys[2 * k + 1] = narrow<T>(out[c / 2 + k]);
        else
            for (int64_t k = 0; k < c; ++k) ys[k] = narrow<T>(out[k]);
    });
}

// Tensors: g, x, means, rstds, scale, shift, local, w, b, dx, dscale, dshift (N, C), dw, db (N, K, C). Numbers: order,
// whether to shuffle.
template <class T> void shuffle_gate_backward(const Call& call) {
    using S = typename Sum<T>::type;
    const Shuffle<T> op{call, call.in<S>(4), call.in<S>(5), call.in<S>(7), call.in<S>(8), call.in<uint8_t>(6),
                        call.out<S>(2), call.out<S>(3), int64_t(call.numbers[0]), call.p(), call.numbers[1] != 0};
    const T *g = call.in<T>(0), *x = call.in<T>(1);
    T* dx = call.out<T>(9);
    S *dscale = call.out<S>(10), *dshift = call.out<S>(11), *dw = call.out<S>(12), *db = call.out<S>(13);
    const int64_t p = op.p, c = call.c, order = op.order;
    // The gradient of x through the statistics, slope * x + offset, from sums over pixels of du and of du * normalised x.
    const auto statistics_gradient = [&](int64_t index, S sum, S dot, S& slope, S& offset) {
        const int64_t channel = index % c;
        const S a = op.scale[channel] * op.rstds[index];
        dshift[index] = sum;
        dscale[index] = op.local[channel] ? dot : sum * op.means[index];
        slope = -a * dot / S(p) * op.rstds[index];
        offset = op.local[channel] ? -a * sum / S(p) - slope * op.means[index] : sum * op.scale[channel] / S(p);
    };
    if (!call.last) {
        parallel_for(call, call.n * c, [&](int64_t index) {
            static thread_local Scratch<S> scratch;
            const int64_t n = index / c, channel = index % c;
            const T *xs = x + index * p, *gs = g + (n * c + op.shuffled(channel)) * p;
            T* dst = dx + index * p;
            S *draft = scratch.get(p + 2 * (order + 1) * CHUNK), *u = draft + p;
            if constexpr (std::is_same_v<T, S>) draft = dst;
            const Gate<false, S> gate{op.w + channel, op.b + channel, order, c};
            S *dws = dw + n * order * c + channel, *dbs = db + n * order * c + channel;
            for (int64_t k = 0; k < order; ++k) dws[k * c] = dbs[k * c] = 0;
            S a, d, slope, offset;
            op.logits(n, channel, a, d);
            if (!op.local[channel]) {
                S f, du = sum_of<S>(p, [&](int64_t i) { return widen(gs[i]) * widen(xs[i]); });
                u[0] = d;
                gate.slopes(u, &f, &du, dws, dbs, 1);
                statistics_gradient(index, du, S(0), slope, offset);
                for (int64_t i = 0; i < p; ++i) dst[i] = narrow<T>(widen(gs[i]) * f + offset);
                return;
            }
            const S mean = op.means[index], rstd = op.rstds[index];
            S sum = 0, dot = 0, du[CHUNK];
            chunks<T>(p, [&](int64_t start, int64_t count) {
                op.backward(gate, &a, &d, xs + start, gs + start, u, draft + start, du, dws, dbs, count);
                add<false>(&sum, count, [&](int64_t i) { return du[i]; });
                add<false>(&dot, count, [&](int64_t i) { return du[i] * (widen(xs[start + i]) - mean) * rstd; });
            });
            statistics_gradient(index, sum, dot, slope, offset);
            for (int64_t i = 0; i < p; ++i) dst[i] = narrow<T>(draft[i] + slope * widen(xs[i]) + offset);
        });
        return;
    }
    std::vector<S> a(call.n * c), d(call.n * c), slopes(call.n * c), offsets(call.n * c);
    for (int64_t index = 0; index < call.n * c; ++index) op.logits(index / c, index % c, a[index], d[index]);
    // Passes dx, with the statistics held constant, and du of a pixel to `use`; adds to the sums of dw and db.
    const auto pixel = [&](int64_t n, int64_t i, S* sums, const auto& use) {
        static thread_local Scratch<S> scratch;
        S *gs = scratch.get(3 * c + 2 * (order + 1) * CHUNK), *out = gs + c, *du = out + c, *u = du + c;
        const T *xs = x + (n * p + i) * c, *src = g + (n * p + i) * c;
        if (op.shuffle)
            for (int64_t k = 0; k < c / 2; ++k) gs[k] = widen(src[2 * k]), gs[c / 2 + k] = widen(src[2 * k + 1]);
        else
            for (int64_t k = 0; k < c; ++k) gs[k] = widen(src[k]);
        chunks<T>(c, [&](int64_t start, int64_t count) {
            const Gate<true, S> gate{op.w + start, op.b + start, order, c};
            op.backward(gate, a.data() + n * c + start, d.data() + n * c + start, xs + start, gs + start, u, out + start,
                        du + start, sums ? sums + 2 * c + start : nullptr, sums ? sums + (2 + order) * c + start : nullptr,
                        count);
        });
        use(xs, out, du);
    };
    const int64_t width = (2 + 2 * order) * c;
    std::vector<S> sums(call.n * width);
    reduce_rows(call, p, width, sums.data(), [&](int64_t n, int64_t i, S* dst) {
        pixel(n, i, dst, [&](const T* xs, const S*, const S* du) {
            const S *mean = op.means + n * c, *rstd = op.rstds + n * c;
            for (int64_t k = 0; k < c; ++k) {
                dst[k] += du[k];
                dst[c + k] += du[k] * (widen(xs[k]) - mean[k]) * rstd[k];
            }
        });
    });
    for (int64_t n = 0; n < call.n; ++n) {
        const S* src = sums.data() + n * width;
        std::copy(src + 2 * c, src + (2 + order) * c, dw + n * order * c);
        std::copy(src + (2 + order) * c, src + width, db + n * order * c);
        for (int64_t k = 0; k < c; ++k)
            statistics_gradient(n * c + k, src[k], src[c + k], slopes[n * c + k], offsets[n * c + k]);
    }
    parallel_for(call, call.n * p, [&](int64_t index) {
        const int64_t n = index / p, first = n * c;
        pixel(n, index % p, nullptr, [&](const T* xs, const S* out, const S*) {
            T* dst = dx + index * c;
            for (int64_t k = 0; k < c; ++k)
                dst[k] = narrow<T>(out[k] + slopes[first + k] * widen(xs[k]) + offsets[first + k]);
        });
    });
}

}  // namespace
