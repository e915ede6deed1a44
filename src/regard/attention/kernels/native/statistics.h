// Means, variances and maxima over channels or pixels. Features are (N, I, K) in the order of memory.

#pragma once

#include "loops.h"

namespace {

// The largest of x, and where it comes first.
template <class S> inline S largest(const S* x, int64_t p, int64_t* where) {
    S top = x[0];
    int odd = 0;
#pragma omp simd reduction(max : top) reduction(| : odd)
    for (int64_t i = 0; i < p; ++i) {
        top = x[i] > top ? x[i] : top;
        odd |= x[i] != x[i];
    }
    int64_t i = 0;
    while (odd ? x[i] == x[i] : x[i] != top) ++i;
    *where = i;
    return x[i];
}

// A row times a factor, which may be absent: where it lies, or a copy.
template <class T, class S> const S* scaled(const T* x, const S* factor, int64_t count, Scratch<S>& room) {
    if constexpr (std::is_same_v<T, S>)
        if (!factor) return x;
    S* to = room.of(count);
    for (int64_t k = 0; k < count; ++k) to[k] = widen(x[k]);
    if (factor)
        for (int64_t k = 0; k < count; ++k) to[k] *= factor[k];
    return to;
}

// Over the inner axis, (N, I) results; factor (N, K) or null.
template <class T, class S>
void over_inner(const Call& call, int64_t rows, int64_t count, const T* x, const S* factor, S* means, S* variances,
                S* tops, int64_t* where) {
    each(call, call.n * rows, [&](int64_t at) {
        static thread_local Scratch<S> room;
        const S* values = scaled(x + at * count, factor ? factor + at / rows * count : nullptr, count, room);
        means[at] = mean_of(values, count);
        if (variances) variances[at] = count > 1 ? squares_of(values, means[at], count) / S(count - 1) : S(0);
        if (tops) tops[at] = largest(values, count, where + at);
    });
}

// Over the outer axis, (N, K) results; factor (N, I) or null.
template <class T, class S>
void over_outer(const Call& call, int64_t rows, int64_t count, const T* x, const S* factor, S* means, S* variances,
                S* tops, int64_t* where) {
    const int64_t chunks = (count + CHUNK - 1) / CHUNK;
    if (tops)
        each(call, call.n * chunks, [&](int64_t task) {
            const int64_t n = task / chunks, start = task % chunks * CHUNK, some = std::min(CHUNK, count - start);
            S *top = tops + n * count + start, *mean = means + n * count + start, sums[CHUNK] = {};
            int64_t* at = where + n * count + start;
            std::fill(mean, mean + some, S(0));
            for (int64_t i = 0; i < rows; ++i) {
                const T* from = x + (n * rows + i) * count + start;
                const S f = factor ? factor[n * rows + i] : S(1);
#pragma omp simd
                for (int64_t k = 0; k < some; ++k) {
                    const S v = widen(from[k]) * f;
                    const bool more = (i == 0) | (v > top[k]) | ((v != v) & (top[k] == top[k]));  // NaN is largest
                    sums[k] += v;
                    top[k] = more ? v : top[k];
                    at[k] = more ? i : at[k];
                }
                if (i % RUN < RUN - 1 && i < rows - 1) continue;
                for (int64_t k = 0; k < some; ++k) mean[k] += sums[k], sums[k] = 0;
            }
        });
    else
        over_rows(call, rows, count, means, [&](int64_t n, int64_t i, S* sums) {
            for (int64_t k = 0; k < count; ++k) sums[k] += widen(x[(n * rows + i) * count + k]);
        });
    for (int64_t at = 0; at < call.n * count; ++at) means[at] /= S(rows);
    if (!variances) return;
    over_rows(call, rows, count, variances, [&](int64_t n, int64_t i, S* sums) {
        const T* from = x + (n * rows + i) * count;
        const S* mean = means + n * count;
        for (int64_t k = 0; k < count; ++k) sums[k] += (widen(from[k]) - mean[k]) * (widen(from[k]) - mean[k]);
    });
    for (int64_t at = 0; at < call.n * count; ++at) variances[at] /= S(rows > 1 ? rows - 1 : 1);
}

// Over pixels. Tensors: x, mean, variance, maximum, position; all but the first two may be absent.
template <class T> void channel_statistics(const Call& call) {
    using S = typename Sum<T>::type;
    const auto work = [&](auto over, int64_t rows, int64_t count) {
        over(call, rows, count, call.in<T>(0), (const S*)nullptr, call.at<S>(1), call.at<S>(2), call.at<S>(3),
             call.at<int64_t>(4));
    };
    call.last ? work(over_outer<T, S>, call.p(), call.c) : work(over_inner<T, S>, call.c, call.p());
}

// Over channels, of x * f. Tensors: x, f, mean, maximum, position.
template <class T> void pixel_statistics(const Call& call) {
    using S = typename Sum<T>::type;
    const auto work = [&](auto over, int64_t rows, int64_t count) {
        over(call, rows, count, call.in<T>(0), call.in<S>(1), call.at<S>(2), (S*)nullptr, call.at<S>(3),
             call.at<int64_t>(4));
    };
    call.last ? work(over_inner<T, S>, call.p(), call.c) : work(over_outer<T, S>, call.c, call.p());
}

}  // namespace
