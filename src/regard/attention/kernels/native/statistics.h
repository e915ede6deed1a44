// Means, variances and maxima over channels or pixels. Features are (N, I, K) in the order of memory.

#pragma once

#include "loops.h"

namespace {

// The maximum of x and its first position; NaN is larger than all other values.
template <class S> inline S largest(const S* x, int64_t p, int64_t* where) {
    S top = x[0];
    int has_nan = 0;
#pragma omp simd reduction(max : top) reduction(| : has_nan)
    for (int64_t i = 0; i < p; ++i) {
        top = x[i] > top ? x[i] : top;
        has_nan |= x[i] != x[i];
    }
    int64_t i = 0;
    while (has_nan ? x[i] == x[i] : x[i] != top) ++i;
    *where = i;
    return x[i];
}

// A row times a factor, which may be absent: the row itself, or a copy.
template <class T, class S> const S* scaled(const T* x, const S* factor, int64_t count, Scratch<S>& scratch) {
    if constexpr (std::is_same_v<T, S>)
        if (!factor) return x;
    S* dst = scratch.get(count);
    for (int64_t k = 0; k < count; ++k) dst[k] = widen(x[k]);
    if (factor)
        for (int64_t k = 0; k < count; ++k) dst[k] *= factor[k];
    return dst;
}

// Statistics over the inner axis: results (N, I); factor (N, K) or null.
template <class T, class S>
void reduce_inner(const Call& call, int64_t rows, int64_t count, const T* x, const S* factor, S* means, S* variances,
                S* tops, int64_t* where) {
    parallel_for(call, call.n * rows, [&](int64_t index) {
        static thread_local Scratch<S> scratch;
        const S* values = scaled(x + index * count, factor ? factor + index / rows * count : nullptr, count, scratch);
        means[index] = mean_of(values, count);
        if (variances) variances[index] = count > 1 ? squared_deviations(values, means[index], count) / S(count - 1) : S(0);
        if (tops) tops[index] = largest(values, count, where + index);
    });
}

// Statistics over the outer axis: results (N, K); factor (N, I) or null.
template <class T, class S>
void reduce_outer(const Call& call, int64_t rows, int64_t count, const T* x, const S* factor, S* means, S* variances,
                S* tops, int64_t* where) {
    const int64_t chunks = (count + CHUNK - 1) / CHUNK;
    if (tops)
        parallel_for(call, call.n * chunks, [&](int64_t task) {
            const int64_t n = task / chunks, start = task % chunks * CHUNK, length = std::min(CHUNK, count - start);
            S *top = tops + n * count + start, *mean = means + n * count + start, sums[CHUNK] = {};
            int64_t* position = where + n * count + start;
            std::fill(mean, mean + length, S(0));
            for (int64_t i = 0; i < rows; ++i) {
                const T* src = x + (n * rows + i) * count + start;
                const S f = factor ? factor[n * rows + i] : S(1);
#pragma omp simd
                for (int64_t k = 0; k < length; ++k) {
                    const S v = widen(src[k]) * f;
                    const bool larger = (i == 0) | (v > top[k]) | ((v != v) & (top[k] == top[k]));  // NaN is largest
                    sums[k] += v;
                    top[k] = larger ? v : top[k];
                    position[k] = larger ? i : position[k];
                }
                if (i % RUN < RUN - 1 && i < rows - 1) continue;
                for (int64_t k = 0; k < length; ++k) mean[k] += sums[k], sums[k] = 0;
            }
        });
    else
        reduce_rows(call, rows, count, means, [&](int64_t n, int64_t i, S* sums) {
            for (int64_t k = 0; k < count; ++k) sums[k] += widen(x[(n * rows + i) * count + k]);
        });
    for (int64_t index = 0; index < call.n * count; ++index) means[index] /= S(rows);
    if (!variances) return;
    reduce_rows(call, rows, count, variances, [&](int64_t n, int64_t i, S* sums) {
        const T* src = x + (n * rows + i) * count;
        const S* mean = means + n * count;
        for (int64_t k = 0; k < count; ++k) sums[k] += (widen(src[k]) - mean[k]) * (widen(src[k]) - mean[k]);
    });
    for (int64_t index = 0; index < call.n * count; ++index) variances[index] /= S(rows > 1 ? rows - 1 : 1);
}

// Statistics over pixels. Tensors: x, mean, variance, maximum, position; the last three may be absent.
template <class T> void channel_statistics(const Call& call) {
    using S = typename Sum<T>::type;
    const auto work = [&](auto statistics, int64_t rows, int64_t count) {
        statistics(call, rows, count, call.in<T>(0), (const S*)nullptr, call.out<S>(1), call.out<S>(2), call.out<S>(3),
                   call.out<int64_t>(4));
    };
    call.last ? work(reduce_outer<T, S>, call.p(), call.c) : work(reduce_inner<T, S>, call.c, call.p());
}

// Statistics of x * f over channels. Tensors: x, f, mean, maximum, position.
template <class T> void pixel_statistics(const Call& call) {
    using S = typename Sum<T>::type;
    const auto work = [&](auto statistics, int64_t rows, int64_t count) {
        statistics(call, rows, count, call.in<T>(0), call.in<S>(1), call.out<S>(2), (S*)nullptr, call.out<S>(3),
                   call.out<int64_t>(4));
    };
    call.last ? work(reduce_inner<T, S>, call.p(), call.c) : work(reduce_outer<T, S>, call.c, call.p());
}

}  // namespace
