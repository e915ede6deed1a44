// How kernels come to features: planes or rows of channels, where they lie or copied, and the sums over them.

#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "numbers.h"

namespace {

struct Shape {
    int64_t n, c, h, w;  // h * w = p
    int64_t last;        // channels last
    int64_t threads;
    int64_t p() const { return h * w; }
};

constexpr int64_t CHUNK = 512;  // elements that a loop of several steps keeps in the first cache

// How many channels are taken at a time: one plane, or two cache lines of channels.
template <class T> inline int64_t block(const Shape& s) { return s.last ? int64_t(128 / sizeof(T)) : 1; }

// How far apart planes lie where a kernel sees them: a copy keeps them off one another's places in the cache.
inline int64_t pitch(const Shape& s) { return s.last ? (s.p() + 31) / 16 * 16 : s.p(); }

constexpr int64_t TILE = 16;  // places that are turned at a time

template <class S> struct Scratch {
    std::vector<S> room;
    S* of(int64_t size) {
        if (int64_t(room.size()) < size) room.resize(size);
        return room.data();
    }
};

// Planes first, first + 1, … (count of them) of image n, a pitch apart, in S. Contiguous planes of S are not copied.
template <class T, class S>
inline const S* planes(const T* x, const Shape& s, int64_t n, int64_t first, int64_t count, Scratch<S>& room) {
    const int64_t p = s.p(), apart = pitch(s);
    if (!s.last) {
        const T* from = x + (n * s.c + first) * p;
        if constexpr (std::is_same_v<T, S>) return from;
        S* to = room.of(count * p);
        for (int64_t i = 0; i < count * p; ++i) to[i] = widen(from[i]);
        return to;
    }
    S* to = room.of(count * apart);
    const T* from = x + n * p * s.c + first;
    for (int64_t start = 0; start < p; start += TILE, from += TILE * s.c) {
        const int64_t some = std::min(TILE, p - start);
        if (some == TILE) {
            for (int64_t j = 0; j < count; ++j)
                for (int64_t i = 0; i < TILE; ++i) to[j * apart + start + i] = widen(from[i * s.c + j]);
        } else {
            for (int64_t j = 0; j < count; ++j)
                for (int64_t i = 0; i < some; ++i) to[j * apart + start + i] = widen(from[i * s.c + j]);
        }
    }
    return to;
}

// Where to write such planes; `put` brings them to their place.
template <class T, class S>
inline S* draft(T* y, const Shape& s, int64_t n, int64_t first, int64_t count, Scratch<S>& room) {
    if constexpr (std::is_same_v<T, S>)
        if (!s.last) return y + (n * s.c + first) * s.p();
    return room.of(count * pitch(s));
}

template <class T, class S>
inline void put(const S* from, T* y, const Shape& s, int64_t n, int64_t first, int64_t count) {
    const int64_t p = s.p(), apart = pitch(s);
    if (!s.last) {
        if constexpr (!std::is_same_v<T, S>) {
            T* to = y + (n * s.c + first) * p;
            for (int64_t i = 0; i < count * p; ++i) to[i] = narrow<T>(from[i]);
        }
        return;
    }
    T* to = y + n * p * s.c + first;
    for (int64_t start = 0; start < p; start += TILE, to += TILE * s.c) {
        const int64_t some = std::min(TILE, p - start);
        for (int64_t i = 0; i < some; ++i)
            for (int64_t j = 0; j < count; ++j) to[i * s.c + j] = narrow<T>(from[j * apart + start + i]);
    }
}

// Calls work(n, first, count) for every run of at most `size` channels.
template <class Work> inline void each_block(const Shape& s, int64_t size, const Work& work) {
    const int64_t blocks = (s.c + size - 1) / size, tasks = s.n * blocks;
    const int64_t threads = s.n * s.c * s.p() < 32768 ? 1 : s.threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t n = task / blocks, first = task % blocks * size;
        work(n, first, std::min(size, s.c - first));
    }
}

// Channels last: sums (N, each * C) over the places, of what add(n, i, sums of each * C) adds for place i of image n.
// Rows of channels are added up run by run, and the runs at the end.
template <class S, class Add> inline void over_rows(const Shape& s, S* sums, const Add& add, int64_t each = 1) {
    constexpr int64_t run = 256;
    const int64_t p = s.p(), runs = (p + run - 1) / run, wide = each * s.c;
    const int64_t threads = s.n * s.c * p < 32768 ? 1 : s.threads;
    std::vector<S> parts(s.n * runs * wide, S(0));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < s.n * runs; ++task) {
        const int64_t n = task / runs, start = task % runs * run, end = std::min(start + run, p);
        for (int64_t i = start; i < end; ++i) add(n, i, parts.data() + task * wide);
    }
    for (int64_t n = 0; n < s.n; ++n) {
        S* to = sums + n * wide;
        std::fill(to, to + wide, S(0));
        for (int64_t r = 0; r < runs; ++r)
            for (int64_t k = 0; k < wide; ++k) to[k] += parts[(n * runs + r) * wide + k];
    }
}

// Channels last: the means of the planes, and their sums of squared deviations from these.
template <class T, class S> inline void row_means(const Shape& s, const T* x, S* means) {
    over_rows(s, means, [&](int64_t n, int64_t i, S* sums) {
        const T* row = x + (n * s.p() + i) * s.c;
        for (int64_t c = 0; c < s.c; ++c) sums[c] += widen(row[c]);
    });
    for (int64_t at = 0; at < s.n * s.c; ++at) means[at] /= S(s.p());
}

template <class T, class S> inline void row_squares(const Shape& s, const T* x, const S* means, S* squares) {
    over_rows(s, squares, [&](int64_t n, int64_t i, S* sums) {
        const T* row = x + (n * s.p() + i) * s.c;
        const S* mean = means + n * s.c;
        for (int64_t c = 0; c < s.c; ++c) sums[c] += (widen(row[c]) - mean[c]) * (widen(row[c]) - mean[c]);
    });
}

// Channels last: calls work(n, i) for every place i of every image n.
template <class Work> inline void each_row(const Shape& s, const Work& work) {
    const int64_t p = s.p(), threads = s.n * s.c * p < 32768 ? 1 : s.threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t at = 0; at < s.n * p; ++at) work(at / p, at % p);
}

// A sum of terms in `lanes` running sums, which do not wait for one another.
template <int64_t lanes, class S, class Term> inline S summed_in(int64_t p, const Term& term) {
    S sums[lanes] = {};
    int64_t i = 0;
    for (; i + lanes <= p; i += lanes)
        for (int64_t k = 0; k < lanes; ++k) sums[k] += term(i + k);
    for (int64_t k = 0; i < p; ++i, ++k) sums[k] += term(i);
    for (int64_t half = lanes / 2; half; half /= 2)
        for (int64_t k = 0; k < half; ++k) sums[k] += sums[k + half];
    return sums[0];
}

template <class S, class Term> inline S summed(int64_t p, const Term& term) {
    return p < 1024 ? summed_in<64 / sizeof(S), S>(p, term) : summed_in<256 / sizeof(S), S>(p, term);
}

template <class S> inline S total(const S* x, int64_t p) {
    return summed<S>(p, [&](int64_t i) { return x[i]; });
}

template <class S> inline S squares(const S* x, S mean, int64_t p) {
    return summed<S>(p, [&](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
}

template <class S> inline S product(const S* a, const S* b, int64_t p) {
    return summed<S>(p, [&](int64_t i) { return a[i] * b[i]; });
}

// The largest value (NaN if there is one) and where it comes first.
template <class S> inline S largest(const S* x, int64_t p, int64_t* where) {
    S top = x[0];
    int odd = 0;
#pragma omp simd reduction(max : top) reduction(| : odd)
    for (int64_t i = 0; i < p; ++i) {
        top = x[i] > top ? x[i] : top;
        odd |= x[i] != x[i];
    }
    int64_t i = 0;
    if (odd) {
        while (x[i] == x[i]) ++i;
    } else {
        while (x[i] != top) ++i;
    }
    *where = i;
    return x[i];
}

// Calls work(n, start, some) for runs of places of every image, for sums over channels.
template <class Work> inline void each_run(const Shape& s, int64_t size, const Work& work) {
    const int64_t p = s.p(), runs = (p + size - 1) / size;
    const int64_t threads = s.n * s.c * p < 32768 ? 1 : s.threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < s.n * runs; ++task) {
        const int64_t n = task / runs, start = task % runs * size;
        work(n, start, std::min(size, p - start));
    }
}

}  // namespace
