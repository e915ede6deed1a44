// The arguments of kernels, and loops over features.

#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "numbers.h"

namespace {

// Features are (N, C, H, W) and contiguous, or (N, H, W, C) in memory if `last`. Absent tensors are null.
struct Call {
    int64_t n, c, h, w, last, threads;
    void* tensors[16];
    double numbers[4];
    int64_t p() const { return h * w; }
    int64_t workers() const { return n * c * p() < 32768 ? 1 : threads; }
    template <class T> T* out(int tensor) const { return static_cast<T*>(tensors[tensor]); }
    template <class T> const T* in(int tensor) const { return static_cast<const T*>(tensors[tensor]); }
};

constexpr int64_t CHUNK = 512;  // elements that stay in the L1 cache during loops of several steps
constexpr int64_t RUN = 256;    // rows that are summed by one task; the sums of the runs are added at the end

// Calls work(task) for each task in 0 … tasks - 1.
template <class Work> inline void parallel_for(const Call& call, int64_t tasks, const Work& work) {
#pragma omp parallel for num_threads(call.workers()) schedule(static)
    for (int64_t task = 0; task < tasks; ++task) work(task);
}

// One value for a whole row, or one value per element.
template <class S> struct Scalar {
    S value;
    S operator[](int64_t) const { return value; }
};
template <class S> struct Vector {
    const S* values;
    S operator[](int64_t k) const { return values[k]; }
};
template <bool V, class S> inline auto row(const S* values) {
    if constexpr (V)
        return Vector<S>{values};
    else
        return Scalar<S>{*values};
}

// Adds term(0), term(1), … to one sum, or (V) each term to its own sum.
template <bool V, class S, class Term> inline void add(S* sums, int64_t count, const Term& term) {
    if constexpr (V) {
        for (int64_t k = 0; k < count; ++k) sums[k] += term(k);
    } else {
        S sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < count; ++k) sum += term(k);
        *sums += sum;
    }
}

// The sum of terms, in independent partial sums.
template <int64_t lanes, class S, class Term> inline S sum_in_lanes(int64_t p, const Term& term) {
    S sums[lanes] = {};
    int64_t i = 0;
    for (; i + lanes <= p; i += lanes)
        for (int64_t k = 0; k < lanes; ++k) sums[k] += term(i + k);
    for (int64_t k = 0; i < p; ++i, ++k) sums[k] += term(i);
    for (int64_t half = lanes / 2; half; half /= 2)
        for (int64_t k = 0; k < half; ++k) sums[k] += sums[k + half];
    return sums[0];
}

template <class S, class Term> inline S sum_of(int64_t p, const Term& term) {
    return p < 1024 ? sum_in_lanes<64 / sizeof(S), S>(p, term) : sum_in_lanes<256 / sizeof(S), S>(p, term);
}

template <class T> inline auto mean_of(const T* x, int64_t p) {
    using S = typename Sum<T>::type;
    return sum_of<S>(p, [&](int64_t i) { return widen(x[i]); }) / S(p);
}

template <class T> inline auto squared_deviations(const T* x, typename Sum<T>::type mean, int64_t p) {
    return sum_of<decltype(mean)>(p, [&](int64_t i) { return (widen(x[i]) - mean) * (widen(x[i]) - mean); });
}

// Sums (N, width) over the rows of every image; work(n, row, sums) adds the values of a row to sums (width).
template <class S, class Work>
inline void reduce_rows(const Call& call, int64_t rows, int64_t width, S* sums, const Work& work) {
    const int64_t runs = (rows + RUN - 1) / RUN;
    std::vector<S> parts(call.n * runs * width, S(0));
    parallel_for(call, call.n * runs, [&](int64_t task) {
        const int64_t n = task / runs, start = task % runs * RUN;
        for (int64_t i = start; i < std::min(start + RUN, rows); ++i) work(n, i, parts.data() + task * width);
    });
    std::fill(sums, sums + call.n * width, S(0));
    for (int64_t task = 0; task < call.n * runs; ++task)
        for (int64_t k = 0; k < width; ++k) sums[task / runs * width + k] += parts[task * width + k];
}

template <class S> struct Scratch {
    std::vector<S> buffer;
    S* get(int64_t size) {
        if (int64_t(buffer.size()) < size) buffer.resize(size);
        return buffer.data();
    }
};

}  // namespace
