// The operations of regard.attention.ops on a processor. Each is defined by its formula in torch, beside it in Python.
//
// Features x are (N, C, P) with P = H * W, of element type T: float, double or bfloat16; or, channels last, (N, P, C).
// Everything small (statistics, factors, parameters) and every sum is of type S: double for double, else float.
// A kernel works on one plane (n, c) after another, which fits a core's own cache, so that however often it goes over a
// plane, memory sees one read and one write. Channels-last features go row by row, the channels of a place at a time, or a
// few channels at a time where that does not do.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct bfloat16 {
    uint16_t bits;
};

template <class T> struct Sum { using type = T; };
template <> struct Sum<bfloat16> { using type = float; };

inline float widen(float v) { return v; }
inline double widen(double v) { return v; }
inline float widen(bfloat16 v) {
    const uint32_t bits = uint32_t(v.bits) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

template <class T> inline T narrow(typename Sum<T>::type v) { return v; }
template <> inline bfloat16 narrow<bfloat16>(float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
    return bfloat16{uint16_t(v != v ? 0x7fc0u : rounded)};
}

// exp by 2^n * exp(r) with |r| <= ln 2 / 2, in a form that compilers vectorise; NaN stays NaN.
inline float exponential(float v) {
    v = v < -87.0f ? -87.0f : v;
    v = v > 88.0f ? 88.0f : v;
    const float shifted = v * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: the integer is in the low bits
    const float n = shifted - 12582912.0f;
    const float r = (v - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;
    float p = 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t bits;
    std::memcpy(&bits, &shifted, 4);
    bits = (bits << 23) + 0x3f800000u;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

inline double exponential(double v) {
    v = v < -708.0 ? -708.0 : v;
    v = v > 709.0 ? 709.0 : v;
    const double shifted = v * 1.4426950408889634074 + 6755399441055744.0;  // 1.5 * 2^52
    const double n = shifted - 6755399441055744.0;
    const double r = (v - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    uint64_t bits;
    std::memcpy(&bits, &shifted, 8);
    bits = (bits << 52) + 0x3ff0000000000000ull;
    double power;
    std::memcpy(&power, &bits, 8);
    return p * power;
}

template <class S> inline S sigmoid(S u) { return S(1) / (S(1) + exponential(-u)); }

// ---------------------------------------------------------------------------------------------------------- planes

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

// Calls work(n, first, count) for every run of at most `size` channels, none across a multiple of `within`.
template <class Work>
inline void each_block(const Shape& s, int64_t size, int64_t within, const Work& work) {
    const int64_t parts = s.c / within, blocks = (within + size - 1) / size, tasks = s.n * parts * blocks;
    const int64_t threads = s.n * s.c * s.p() < 32768 ? 1 : s.threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t n = task / (parts * blocks), part = task / blocks % parts, start = task % blocks * size;
        work(n, part * within + start, std::min(size, within - start));
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

// Channels last: calls work(n, i) for every place i of every image n.
template <class Work> inline void each_row(const Shape& s, const Work& work) {
    const int64_t p = s.p(), threads = s.n * s.c * p < 32768 ? 1 : s.threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t at = 0; at < s.n * p; ++at) work(at / p, at % p);
}

// A sum of terms in several running sums, which do not wait for one another.
template <class S, class Term> inline S summed(int64_t p, const Term& term) {
    constexpr int64_t lanes = 256 / sizeof(S);
    S sums[lanes] = {};
    int64_t i = 0;
    for (; i + lanes <= p; i += lanes)
        for (int64_t k = 0; k < lanes; ++k) sums[k] += term(i + k);
    for (int64_t k = 0; i < p; ++i, ++k) sums[k] += term(i);
    for (int64_t half = lanes / 2; half; half /= 2)
        for (int64_t k = 0; k < half; ++k) sums[k] += sums[k + half];
    return sums[0];
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

// ------------------------------------------------------------------------------------------------------------ gate

// sigmoid(u[0]) * … * sigmoid(u[K]) with u[k + 1] = w[k] * u[k] + b[k]; w and b step by `stride`.
template <class S> struct Gate {
    const S* w;
    const S* b;
    int64_t order, stride;

    S value(S u) const {
        S f = sigmoid(u);
        for (int64_t k = 0; k < order; ++k) {
            u = w[k * stride] * u + b[k * stride];
            f *= sigmoid(u);
        }
        return f;
    }

    // Factors of a chunk; u is destroyed.
    void values(S* u, S* f, int64_t count) const {
        for (int64_t i = 0; i < count; ++i) f[i] = sigmoid(u[i]);
        for (int64_t k = 0; k < order; ++k) {
            const S wk = w[k * stride], bk = b[k * stride];
            for (int64_t i = 0; i < count; ++i) {
                u[i] = wk * u[i] + bk;
                f[i] *= sigmoid(u[i]);
            }
        }
    }

    // From logits u (at u, with room for order more chunks behind) and d = dL/df of a chunk: the factors, and in place
    // of d what reaches the logits, dL/du. Adds to dw and db, which step by `stride` too.
    void slopes(S* u, S* f, S* d, S* dw, S* db, int64_t count) const {
        S* last = u + order * CHUNK;
        for (int64_t i = 0; i < count; ++i) f[i] = sigmoid(u[i]);
        if (order == 0) {
            for (int64_t i = 0; i < count; ++i) d[i] *= f[i] * (S(1) - f[i]);
            return;
        }
        for (int64_t k = 0; k < order; ++k) {
            const S wk = w[k * stride], bk = b[k * stride];
            const S* from = u + k * CHUNK;
            S* to = u + (k + 1) * CHUNK;
            for (int64_t i = 0; i < count; ++i) {
                to[i] = wk * from[i] + bk;
                f[i] *= sigmoid(to[i]);
            }
        }
        // Behind `last`: what reaches u[k] from above, all over d * f.
        S* t = last + CHUNK;
        for (int64_t i = 0; i < count; ++i) {
            d[i] *= f[i];
            t[i] = S(1) - sigmoid(last[i]);
        }
        for (int64_t k = order - 1; k >= 0; --k) {
            const S wk = w[k * stride];
            const S* at = u + k * CHUNK;
            S sw = 0, sb = 0;
#pragma omp simd reduction(+ : sw, sb)
            for (int64_t i = 0; i < count; ++i) {
                const S above = d[i] * t[i];
                sw += above * at[i];
                sb += above;
                t[i] = wk * t[i] + S(1) - sigmoid(at[i]);
            }
            dw[k * stride] += sw;
            db[k * stride] += sb;
        }
        for (int64_t i = 0; i < count; ++i) d[i] *= t[i];
    }
};

// ------------------------------------------------------------------------------------------ plane gate (shuffle attention)

// Where the channel shuffle takes channel c: in two halves, half by half -> pair by pair.
inline int64_t shuffled(const Shape& s, int64_t c) { return c % (s.c / 2) * 2 + c / (s.c / 2); }

// Channels last, the same row by row: what it takes of a place's channels.
template <class S> struct RowGate {
    const S *a, *d;  // logits of the image: a * x + d
    const S *w, *b;  // (K, C)
    int64_t order, channels;

    // Factors of a row x.
    void values(const S* x, S* u, S* f) const {
        for (int64_t c = 0; c < channels; ++c) {
            u[c] = a[c] * x[c] + d[c];
            f[c] = sigmoid(u[c]);
        }
        for (int64_t k = 0; k < order; ++k)
            for (int64_t c = 0; c < channels; ++c) {
                u[c] = w[k * channels + c] * u[c] + b[k * channels + c];
                f[c] *= sigmoid(u[c]);
            }
    }

    // Factors of a row x, and what reaches the logits, dL/du, for g = dL/dy. u has room for order + 2 rows. Adds to
    // sums[2 + k] and sums[2 + order + k], the rows of dw and db, unless sums is null.
    void slopes(const S* x, const S* g, S* u, S* f, S* du, S* sums) const {
        const int64_t n = channels;
        S* t = u + (order + 1) * n;
        for (int64_t c = 0; c < n; ++c) {
            u[c] = a[c] * x[c] + d[c];
            f[c] = sigmoid(u[c]);
        }
        for (int64_t k = 0; k < order; ++k)
            for (int64_t c = 0; c < n; ++c) {
                u[(k + 1) * n + c] = w[k * n + c] * u[k * n + c] + b[k * n + c];
                f[c] *= sigmoid(u[(k + 1) * n + c]);
            }
        for (int64_t c = 0; c < n; ++c) {
            du[c] = g[c] * x[c] * f[c];
            t[c] = S(1) - sigmoid(u[order * n + c]);
        }
        for (int64_t k = order - 1; k >= 0; --k) {
            if (sums)
                for (int64_t c = 0; c < n; ++c) {
                    sums[(2 + k) * n + c] += du[c] * t[c] * u[k * n + c];
                    sums[(2 + order + k) * n + c] += du[c] * t[c];
                }
            for (int64_t c = 0; c < n; ++c) t[c] = w[k * n + c] * t[c] + S(1) - sigmoid(u[k * n + c]);
        }
        for (int64_t c = 0; c < n; ++c) du[c] *= t[c];
    }
};

// The logits' a and d of every plane.
template <class S>
inline std::vector<S> row_logits(const Shape& s, const S* scale, const S* shift, const uint8_t* local, const S* means,
                                 const S* rstds) {
    std::vector<S> found(2 * s.n * s.c);
    for (int64_t at = 0; at < s.n * s.c; ++at) {
        const int64_t c = at % s.c;
        const S a = local[c] ? scale[c] * rstds[at] : S(0);
        found[at] = a;
        found[s.n * s.c + at] = shift[c] + (local[c] ? -a : scale[c]) * means[at];
    }
    return found;
}

// A row of channels in S, out of the order of the shuffle, or into it.
template <class T, class S> inline void take_row(const T* from, S* to, int64_t channels, bool shuffled) {
    const int64_t half = channels / 2;
    if (!shuffled) {
        for (int64_t c = 0; c < channels; ++c) to[c] = widen(from[c]);
    } else {
        for (int64_t i = 0; i < half; ++i) to[i] = widen(from[2 * i]), to[half + i] = widen(from[2 * i + 1]);
    }
}

template <class T, class S> inline void put_row(const S* from, T* to, int64_t channels, bool shuffled) {
    const int64_t half = channels / 2;
    if (!shuffled) {
        for (int64_t c = 0; c < channels; ++c) to[c] = narrow<T>(from[c]);
    } else {
        for (int64_t i = 0; i < half; ++i) to[2 * i] = narrow<T>(from[i]), to[2 * i + 1] = narrow<T>(from[half + i]);
    }
}

template <class T, class S>
void row_gate_forward(const Shape& s, const T* x, T* y, const S* scale, const S* shift, const uint8_t* local, const S* w,
                      const S* b, int64_t order, double eps, bool shuffle, S* means, S* rstds) {
    const int64_t p = s.p(), planes = s.n * s.c;
    over_rows(s, means, [&](int64_t n, int64_t i, S* sums) {
        const T* row = x + (n * p + i) * s.c;
        for (int64_t c = 0; c < s.c; ++c) sums[c] += widen(row[c]);
    });
    for (int64_t at = 0; at < planes; ++at) means[at] /= S(p);
    over_rows(s, rstds, [&](int64_t n, int64_t i, S* sums) {
        const T* row = x + (n * p + i) * s.c;
        const S* mean = means + n * s.c;
        for (int64_t c = 0; c < s.c; ++c) sums[c] += (widen(row[c]) - mean[c]) * (widen(row[c]) - mean[c]);
    });
    for (int64_t at = 0; at < planes; ++at)
        rstds[at] = local[at % s.c] ? S(1) / std::sqrt(rstds[at] / S(p) + S(eps)) : S(0);
    const std::vector<S> logits = row_logits(s, scale, shift, local, means, rstds);
    each_row(s, [&](int64_t n, int64_t i) {
        static thread_local Scratch<S> room;
        S *xs = room.of(3 * s.c), *u = xs + s.c, *f = u + s.c;
        const RowGate<S> gate{logits.data() + n * s.c, logits.data() + planes + n * s.c, w, b, order, s.c};
        take_row(x + (n * p + i) * s.c, xs, s.c, false);
        gate.values(xs, u, f);
        for (int64_t c = 0; c < s.c; ++c) f[c] *= xs[c];
        put_row(f, y + (n * p + i) * s.c, s.c, shuffle);
    });
}

template <class T, class S>
void row_gate_backward(const Shape& s, const T* g, const T* x, const S* means, const S* rstds, const S* scale,
                       const S* shift, const uint8_t* local, const S* w, const S* b, int64_t order, bool shuffle, T* dx,
                       S* dscale, S* dshift, S* dw, S* db) {
    const int64_t p = s.p(), planes = s.n * s.c, each = 2 + 2 * order;
    const std::vector<S> logits = row_logits(s, scale, shift, local, means, rstds);
    // Of a place: x, g, the factors and what reaches the logits.
    const auto row = [&](int64_t n, int64_t i, S* sums, const auto& use) {
        static thread_local Scratch<S> room;
        S *xs = room.of((order + 6) * s.c), *gs = xs + s.c, *f = gs + s.c, *du = f + s.c, *u = du + s.c;
        const RowGate<S> gate{logits.data() + n * s.c, logits.data() + planes + n * s.c, w, b, order, s.c};
        take_row(x + (n * p + i) * s.c, xs, s.c, false);
        take_row(g + (n * p + i) * s.c, gs, s.c, shuffle);
        gate.slopes(xs, gs, u, f, du, sums);
        use(xs, gs, f, du);
    };
    std::vector<S> sums(each * planes);
    over_rows(
        s, sums.data(),
        [&](int64_t n, int64_t i, S* to) {
            row(n, i, to, [&](const S* xs, const S*, const S*, const S* du) {
                const S *mean = means + n * s.c, *rstd = rstds + n * s.c;
                for (int64_t c = 0; c < s.c; ++c) {
                    to[c] += du[c];
                    to[s.c + c] += du[c] * (xs[c] - mean[c]) * rstd[c];
                }
            });
        },
        each);
    std::vector<S> slopes(planes), rests(planes);
    for (int64_t n = 0; n < s.n; ++n) {
        const S* of = sums.data() + n * each * s.c;
        std::copy(of + 2 * s.c, of + (2 + order) * s.c, dw + n * order * s.c);
        std::copy(of + (2 + order) * s.c, of + each * s.c, db + n * order * s.c);
        for (int64_t c = 0; c < s.c; ++c) {
            const int64_t at = n * s.c + c;
            const S a = logits[at], sum = of[c], along = of[s.c + c];
            dshift[at] = sum;
            dscale[at] = local[c] ? along : sum * means[at];
            slopes[at] = -a * along / S(p) * rstds[at];
            rests[at] = local[c] ? -a * sum / S(p) - slopes[at] * means[at] : sum * scale[c] / S(p);
        }
    }
    each_row(s, [&](int64_t n, int64_t i) {
        row(n, i, nullptr, [&](const S* xs, const S* gs, S* f, const S* du) {
            const int64_t at = n * s.c;
            for (int64_t c = 0; c < s.c; ++c)
                f[c] = gs[c] * f[c] + logits[at + c] * du[c] + slopes[at + c] * xs[c] + rests[at + c];
            put_row(f, dx + (n * p + i) * s.c, s.c, false);
        });
    });
}

template <class T>
void plane_gate_forward(const Shape& s, const T* x, T* y, const typename Sum<T>::type* scale,
                        const typename Sum<T>::type* shift, const uint8_t* local, const typename Sum<T>::type* w,
                        const typename Sum<T>::type* b, int64_t order, double eps, int64_t shuffle,
                        typename Sum<T>::type* means, typename Sum<T>::type* rstds) {
    using S = typename Sum<T>::type;
    if (s.last) return row_gate_forward(s, x, y, scale, shift, local, w, b, order, eps, shuffle != 0, means, rstds);
    const int64_t p = s.p(), apart = pitch(s);
    each_block(s, 1, s.c, [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> in, out;
        const int64_t to = shuffle ? shuffled(s, first) : first;
        const S* xs = planes(x, s, n, first, count, in);
        S* ys = draft(y, s, n, to, count, out);
        for (int64_t j = 0; j < count; ++j, xs += apart, ys += apart) {
            const int64_t c = first + j;
            const Gate<S> gate{w + c, b + c, order, s.c};
            const S mean = total(xs, p) / S(p);
            means[n * s.c + c] = mean;
            rstds[n * s.c + c] = 0;
            if (!local[c]) {
                const S f = gate.value(scale[c] * mean + shift[c]);
                for (int64_t i = 0; i < p; ++i) ys[i] = xs[i] * f;
                continue;
            }
            const S rstd = S(1) / std::sqrt(squares(xs, mean, p) / S(p) + S(eps));
            rstds[n * s.c + c] = rstd;
            const S a = scale[c] * rstd, d = shift[c] - a * mean;
            if (order == 0) {
                for (int64_t i = 0; i < p; ++i) ys[i] = xs[i] * sigmoid(a * xs[i] + d);
                continue;
            }
            S u[CHUNK], f[CHUNK];
            for (int64_t start = 0; start < p; start += CHUNK) {
                const int64_t some = std::min(CHUNK, p - start);
                for (int64_t i = 0; i < some; ++i) u[i] = a * xs[start + i] + d;
                gate.values(u, f, some);
                for (int64_t i = 0; i < some; ++i) ys[start + i] = xs[start + i] * f[i];
            }
        }
        put(ys - count * apart, y, s, n, to, count);
    });
}

template <class T>
void plane_gate_backward(const Shape& s, const T* g, const T* x, const typename Sum<T>::type* means,
                         const typename Sum<T>::type* rstds, const typename Sum<T>::type* scale,
                         const typename Sum<T>::type* shift, const uint8_t* local, const typename Sum<T>::type* w,
                         const typename Sum<T>::type* b, int64_t order, int64_t shuffle, T* dx,
                         typename Sum<T>::type* dscale, typename Sum<T>::type* dshift, typename Sum<T>::type* dw,
                         typename Sum<T>::type* db) {
    using S = typename Sum<T>::type;
    if (s.last) {
        return row_gate_backward(s, g, x, means, rstds, scale, shift, local, w, b, order, shuffle != 0, dx, dscale,
                                 dshift, dw, db);
    }
    const int64_t p = s.p(), apart = pitch(s);
    each_block(s, 1, s.c, [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> in, up, out, chunks;
        const int64_t from = shuffle ? shuffled(s, first) : first;
        const S* xs = planes(x, s, n, first, count, in);
        const S* gs = planes(g, s, n, from, count, up);
        S* ds = draft(dx, s, n, first, count, out);
        S* u = chunks.of((order + 2) * CHUNK);
        for (int64_t j = 0; j < count; ++j, xs += apart, gs += apart, ds += apart) {
            const int64_t c = first + j, at = n * s.c + c;
            const Gate<S> gate{w + c, b + c, order, s.c};
            S* dws = dw + n * order * s.c + c;  // (N, K, C)
            S* dbs = db + n * order * s.c + c;
            for (int64_t k = 0; k < order; ++k) dws[k * s.c] = dbs[k * s.c] = 0;
            const S mean = means[at], rstd = rstds[at];
            if (!local[c]) {
                S f, d = product(gs, xs, p);
                u[0] = scale[c] * mean + shift[c];
                gate.slopes(u, &f, &d, dws, dbs, 1);
                dscale[at] = d * mean;
                dshift[at] = d;
                const S rest = d * scale[c] / S(p);
                for (int64_t i = 0; i < p; ++i) ds[i] = gs[i] * f + rest;
                continue;
            }
            const S a = scale[c] * rstd, e = shift[c] - a * mean;
            S sum = 0, along = 0;  // of dL/du, and of dL/du * normalised x
            if (order == 0) {
#pragma omp simd reduction(+ : sum, along)
                for (int64_t i = 0; i < p; ++i) {
                    const S f = sigmoid(a * xs[i] + e);
                    const S d = gs[i] * xs[i] * f * (S(1) - f);
                    sum += d;
                    along += d * (xs[i] - mean) * rstd;
                    ds[i] = gs[i] * f + a * d;
                }
            } else {
                S f[CHUNK], d[CHUNK];
                for (int64_t start = 0; start < p; start += CHUNK) {
                    const int64_t some = std::min(CHUNK, p - start);
                    const S *xc = xs + start, *gc = gs + start;
                    for (int64_t i = 0; i < some; ++i) {
                        u[i] = a * xc[i] + e;
                        d[i] = gc[i] * xc[i];
                    }
                    gate.slopes(u, f, d, dws, dbs, some);
#pragma omp simd reduction(+ : sum, along)
                    for (int64_t i = 0; i < some; ++i) {
                        sum += d[i];
                        along += d[i] * (xc[i] - mean) * rstd;
                        ds[start + i] = gc[i] * f[i] + a * d[i];
                    }
                }
            }
            dscale[at] = along;
            dshift[at] = sum;
            const S slope = -a * along / S(p) * rstd, rest = -a * sum / S(p) - slope * mean;
            for (int64_t i = 0; i < p; ++i) ds[i] += slope * xs[i] + rest;
        }
        put(ds - count * apart, dx, s, n, first, count);
    });
}

// ---------------------------------------------------------------------------------------- channel gates: one factor a plane

template <class T>
void plane_statistics(const Shape& s, const T* x, typename Sum<T>::type* means, typename Sum<T>::type* variances,
                      typename Sum<T>::type* tops, int64_t* where) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p(), apart = pitch(s);
    if (s.last && !tops) {
        over_rows(s, means, [&](int64_t n, int64_t i, S* sums) {
            const T* row = x + (n * p + i) * s.c;
            for (int64_t c = 0; c < s.c; ++c) sums[c] += widen(row[c]);
        });
        for (int64_t at = 0; at < s.n * s.c; ++at) means[at] /= S(p);
        if (!variances) return;
        over_rows(s, variances, [&](int64_t n, int64_t i, S* sums) {
            const T* row = x + (n * p + i) * s.c;
            const S* mean = means + n * s.c;
            for (int64_t c = 0; c < s.c; ++c) sums[c] += (widen(row[c]) - mean[c]) * (widen(row[c]) - mean[c]);
        });
        for (int64_t at = 0; at < s.n * s.c; ++at) variances[at] /= S(p > 1 ? p - 1 : 1);
        return;
    }
    each_block(s, block<T>(s), s.c, [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> in;
        const S* xs = planes(x, s, n, first, count, in);
        for (int64_t j = 0; j < count; ++j, xs += apart) {
            const int64_t at = n * s.c + first + j;
            const S mean = total(xs, p) / S(p);
            means[at] = mean;
            if (variances) variances[at] = p > 1 ? squares(xs, mean, p) / S(p - 1) : S(0);
            if (tops) tops[at] = largest(xs, p, where + at);
        }
    });
}

template <class T> void plane_scale(const Shape& s, const T* x, const typename Sum<T>::type* f, T* y) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p();
    if (s.last) {
        each_row(s, [&](int64_t n, int64_t i) {
            const T* from = x + (n * p + i) * s.c;
            T* to = y + (n * p + i) * s.c;
            const S* fs = f + n * s.c;
            for (int64_t c = 0; c < s.c; ++c) to[c] = narrow<T>(widen(from[c]) * fs[c]);
        });
        return;
    }
    each_block(s, 1, s.c, [&](int64_t n, int64_t c, int64_t) {
        const int64_t at = n * s.c + c;
        const S factor = f[at];
        const T* from = x + at * p;
        T* to = y + at * p;
        for (int64_t i = 0; i < p; ++i) to[i] = narrow<T>(widen(from[i]) * factor);
    });
}

template <class T>
void plane_dot(const Shape& s, const T* g, const T* x, typename Sum<T>::type* dots) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p(), apart = pitch(s);
    if (s.last) {
        over_rows(s, dots, [&](int64_t n, int64_t i, S* sums) {
            const T *gr = g + (n * p + i) * s.c, *xr = x + (n * p + i) * s.c;
            for (int64_t c = 0; c < s.c; ++c) sums[c] += widen(gr[c]) * widen(xr[c]);
        });
        return;
    }
    each_block(s, block<T>(s), s.c, [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> in, up;
        const S* xs = planes(x, s, n, first, count, in);
        const S* gs = planes(g, s, n, first, count, up);
        for (int64_t j = 0; j < count; ++j) dots[n * s.c + first + j] = product(gs + j * apart, xs + j * apart, p);
    });
}

// dx = g * f + rest + slope * x, and `peak` more where the plane has its largest value. slope and peak may be absent.
template <class T>
void plane_combine(const Shape& s, const T* g, const typename Sum<T>::type* f, const typename Sum<T>::type* rest,
                   const T* x, const typename Sum<T>::type* slope, const typename Sum<T>::type* peak,
                   const int64_t* where, T* dx) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p(), apart = pitch(s);
    if (s.last && !peak) {
        each_row(s, [&](int64_t n, int64_t i) {
            const int64_t row = (n * p + i) * s.c, at = n * s.c;
            if (slope) {
                for (int64_t c = 0; c < s.c; ++c)
                    dx[row + c] = narrow<T>(widen(g[row + c]) * f[at + c] + rest[at + c] + slope[at + c] * widen(x[row + c]));
            } else {
                for (int64_t c = 0; c < s.c; ++c) dx[row + c] = narrow<T>(widen(g[row + c]) * f[at + c] + rest[at + c]);
            }
        });
        return;
    }
    each_block(s, block<T>(s), s.c, [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> in, up, out;
        const S* xs = slope ? planes(x, s, n, first, count, in) : nullptr;
        const S* gs = planes(g, s, n, first, count, up);
        S* ds = draft(dx, s, n, first, count, out);
        for (int64_t j = 0; j < count; ++j) {
            const int64_t at = n * s.c + first + j;
            const S factor = f[at], more = rest[at];
            const S* gp = gs + j * apart;
            S* dp = ds + j * apart;
            if (slope) {
                const S steep = slope[at];
                const S* xp = xs + j * apart;
                for (int64_t i = 0; i < p; ++i) dp[i] = gp[i] * factor + more + steep * xp[i];
            } else {
                for (int64_t i = 0; i < p; ++i) dp[i] = gp[i] * factor + more;
            }
            if (peak) dp[where[at]] += peak[at];
        }
        put(ds, dx, s, n, first, count);
    });
}

// --------------------------------------------------------------------------------- cross gates (coordinate attention)

template <class T>
void cross_statistics(const Shape& s, const T* x, typename Sum<T>::type* rows, typename Sum<T>::type* columns) {
    using S = typename Sum<T>::type;
    const int64_t apart = pitch(s);
    each_block(s, block<T>(s), s.c, [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> in;
        const S* xs = planes(x, s, n, first, count, in);
        for (int64_t j = 0; j < count; ++j, xs += apart) {
            const int64_t at = n * s.c + first + j;
            S* row = rows + at * s.h;
            S* column = columns + at * s.w;
            for (int64_t k = 0; k < s.w; ++k) column[k] = 0;
            for (int64_t i = 0; i < s.h; ++i) {
                const S* line = xs + i * s.w;
                row[i] = total(line, s.w) / S(s.w);
                for (int64_t k = 0; k < s.w; ++k) column[k] += line[k];
            }
            for (int64_t k = 0; k < s.w; ++k) column[k] /= S(s.h);
        }
    });
}

template <class T>
void cross_scale(const Shape& s, const T* x, const typename Sum<T>::type* rows, const typename Sum<T>::type* columns,
                 T* y) {
    using S = typename Sum<T>::type;
    const int64_t apart = pitch(s);
    each_block(s, block<T>(s), s.c, [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> in, out;
        const S* xs = planes(x, s, n, first, count, in);
        S* ys = draft(y, s, n, first, count, out);
        for (int64_t j = 0; j < count; ++j) {
            const int64_t at = n * s.c + first + j;
            const S *row = rows + at * s.h, *column = columns + at * s.w;
            for (int64_t i = 0; i < s.h; ++i) {
                const S* line = xs + j * apart + i * s.w;
                S* to = ys + j * apart + i * s.w;
                for (int64_t k = 0; k < s.w; ++k) to[k] = line[k] * row[i] * column[k];
            }
        }
        put(ys, y, s, n, first, count);
    });
}

template <class T>
void cross_dot(const Shape& s, const T* g, const T* x, const typename Sum<T>::type* rows,
               const typename Sum<T>::type* columns, typename Sum<T>::type* drows, typename Sum<T>::type* dcolumns) {
    using S = typename Sum<T>::type;
    const int64_t apart = pitch(s);
    each_block(s, block<T>(s), s.c, [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> in, up;
        const S* xs = planes(x, s, n, first, count, in);
        const S* gs = planes(g, s, n, first, count, up);
        for (int64_t j = 0; j < count; ++j) {
            const int64_t at = n * s.c + first + j;
            const S *row = rows + at * s.h, *column = columns + at * s.w;
            S* dcolumn = dcolumns + at * s.w;
            for (int64_t k = 0; k < s.w; ++k) dcolumn[k] = 0;
            for (int64_t i = 0; i < s.h; ++i) {
                const S *line = xs + j * apart + i * s.w, *over = gs + j * apart + i * s.w;
                const S r = row[i];
                S sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int64_t k = 0; k < s.w; ++k) {
                    const S d = line[k] * over[k];
                    sum += d * column[k];
                    dcolumn[k] += d * r;
                }
                drows[at * s.h + i] = sum;
            }
        }
    });
}

template <class T>
void cross_combine(const Shape& s, const T* g, const typename Sum<T>::type* rows, const typename Sum<T>::type* columns,
                   const typename Sum<T>::type* row_rest, const typename Sum<T>::type* column_rest, T* dx) {
    using S = typename Sum<T>::type;
    const int64_t apart = pitch(s);
    each_block(s, block<T>(s), s.c, [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> up, out;
        const S* gs = planes(g, s, n, first, count, up);
        S* ds = draft(dx, s, n, first, count, out);
        for (int64_t j = 0; j < count; ++j) {
            const int64_t at = n * s.c + first + j;
            const S *column = columns + at * s.w, *more = column_rest + at * s.w;
            for (int64_t i = 0; i < s.h; ++i) {
                const S* over = gs + j * apart + i * s.w;
                S* to = ds + j * apart + i * s.w;
                const S r = rows[at * s.h + i], rest = row_rest[at * s.h + i];
                for (int64_t k = 0; k < s.w; ++k) to[k] = over[k] * r * column[k] + rest + more[k];
            }
        }
        put(ds, dx, s, n, first, count);
    });
}

// ------------------------------------------------------------------------- group gates (spatial group-wise enhance)

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
    each_block(s, channels, channels, [&](int64_t n, int64_t first, int64_t count) {
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
    each_block(s, channels, channels, [&](int64_t n, int64_t first, int64_t count) {
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

// ------------------------------------------------------------- place gates: one factor a place, on features x * f (CBAM)

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

template <class T>
void place_statistics(const Shape& s, const T* x, const typename Sum<T>::type* f, typename Sum<T>::type* means,
                      typename Sum<T>::type* tops, int64_t* where) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p();
    each_run(s, CHUNK, [&](int64_t n, int64_t start, int64_t some) {
        S *mean = means + n * p + start, *top = tops + n * p + start;
        int64_t* at = where + n * p + start;
        const S* fs = f + n * s.c;
        if (s.last) {
            static thread_local Scratch<S> room;
            S* row = room.of(s.c);
            for (int64_t i = 0; i < some; ++i) {
                const T* line = x + (n * p + start + i) * s.c;
                for (int64_t c = 0; c < s.c; ++c) row[c] = widen(line[c]) * fs[c];
                mean[i] = total(row, s.c) / S(s.c);
                top[i] = largest(row, s.c, at + i);
            }
            return;
        }
        for (int64_t c = 0; c < s.c; ++c) {
            const T* line = x + (n * s.c + c) * p + start;
            const S factor = fs[c];
            if (c == 0) {
                for (int64_t i = 0; i < some; ++i) mean[i] = top[i] = widen(line[i]) * factor, at[i] = 0;
                continue;
            }
            for (int64_t i = 0; i < some; ++i) {
                const S v = widen(line[i]) * factor;
                mean[i] += v;
                const bool more = (v > top[i]) | ((v != v) & (top[i] == top[i]));
                top[i] = more ? v : top[i];
                at[i] = more ? c : at[i];
            }
        }
        for (int64_t i = 0; i < some; ++i) mean[i] /= S(s.c);
    });
}

// y = x * f * m with f a factor a plane and m one a place.
template <class T>
void place_scale(const Shape& s, const T* x, const typename Sum<T>::type* f, const typename Sum<T>::type* m, T* y) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p();
    if (s.last) {
        each_run(s, CHUNK, [&](int64_t n, int64_t start, int64_t some) {
            for (int64_t i = start; i < start + some; ++i)
                for (int64_t c = 0, at = (n * p + i) * s.c; c < s.c; ++c)
                    y[at + c] = narrow<T>(widen(x[at + c]) * f[n * s.c + c] * m[n * p + i]);
        });
        return;
    }
    each_block(s, 1, s.c, [&](int64_t n, int64_t c, int64_t) {
        const int64_t at = n * s.c + c;
        const S factor = f[at];
        const S* ms = m + n * p;
        for (int64_t i = 0; i < p; ++i) y[at * p + i] = narrow<T>(widen(x[at * p + i]) * factor * ms[i]);
    });
}

// sum over c of g * x * f
template <class T>
void place_dot(const Shape& s, const T* g, const T* x, const typename Sum<T>::type* f, typename Sum<T>::type* dots) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p();
    each_run(s, CHUNK, [&](int64_t n, int64_t start, int64_t some) {
        S* dot = dots + n * p + start;
        for (int64_t i = 0; i < some; ++i) dot[i] = 0;
        if (s.last) {
            for (int64_t i = 0; i < some; ++i) {
                const int64_t at = (n * p + start + i) * s.c;
                S sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int64_t c = 0; c < s.c; ++c) sum += widen(g[at + c]) * widen(x[at + c]) * f[n * s.c + c];
                dot[i] = sum;
            }
            return;
        }
        for (int64_t c = 0; c < s.c; ++c) {
            const int64_t at = (n * s.c + c) * p + start;
            const S factor = f[n * s.c + c];
            for (int64_t i = 0; i < some; ++i) dot[i] += widen(g[at + i]) * widen(x[at + i]) * factor;
        }
    });
}

// What reaches x * f: g * m + mean_rest at every channel, and `peak` more at the channel that was largest there.
template <class S>
inline void reach(const S* gp, const S* m, const S* rest, const S* peak, const int64_t* where, int64_t c, int64_t p,
                  S* out) {
    for (int64_t i = 0; i < p; ++i) out[i] = gp[i] * m[i] + rest[i] + (where[i] == c ? peak[i] : S(0));
}

// df: the sum over the plane of x times what reaches x * f.
template <class T>
void place_plane_dot(const Shape& s, const T* g, const T* x, const typename Sum<T>::type* m,
                     const typename Sum<T>::type* rest, const typename Sum<T>::type* peak, const int64_t* where,
                     typename Sum<T>::type* dots) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p(), apart = pitch(s);
    each_block(s, block<T>(s), s.c, [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> in, up, room;
        const S* xs = planes(x, s, n, first, count, in);
        const S* gs = planes(g, s, n, first, count, up);
        S* d = room.of(p);
        for (int64_t j = 0; j < count; ++j) {
            reach(gs + j * apart, m + n * p, rest + n * p, peak + n * p, where + n * p, first + j, p, d);
            dots[n * s.c + first + j] = product(d, xs + j * apart, p);
        }
    });
}

// dx = f * (what reaches x * f) + plane_rest, and plane_peak more where the plane is largest.
template <class T>
void place_combine(const Shape& s, const T* g, const typename Sum<T>::type* f, const typename Sum<T>::type* m,
                   const typename Sum<T>::type* rest, const typename Sum<T>::type* peak, const int64_t* where,
                   const typename Sum<T>::type* plane_rest, const typename Sum<T>::type* plane_peak,
                   const int64_t* plane_where, T* dx) {
    using S = typename Sum<T>::type;
    const int64_t p = s.p(), apart = pitch(s);
    each_block(s, block<T>(s), s.c, [&](int64_t n, int64_t first, int64_t count) {
        static thread_local Scratch<S> up, out;
        const S* gs = planes(g, s, n, first, count, up);
        S* ds = draft(dx, s, n, first, count, out);
        for (int64_t j = 0; j < count; ++j) {
            const int64_t at = n * s.c + first + j;
            const S factor = f[at], more = plane_rest[at];
            S* dp = ds + j * apart;
            reach(gs + j * apart, m + n * p, rest + n * p, peak + n * p, where + n * p, first + j, p, dp);
            for (int64_t i = 0; i < p; ++i) dp[i] = dp[i] * factor + more;
            dp[plane_where[at]] += plane_peak[at];
        }
        put(ds, dx, s, n, first, count);
    });
}

// ---------------------------------------------------------------------------------------- context gates (global context)

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
    each_block(s, block<T>(s), s.c, [&](int64_t n, int64_t first, int64_t count) {
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
    each_block(s, block<T>(s), s.c, [&](int64_t n, int64_t first, int64_t count) {
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

// One entry a kernel and element type. Absent tensors are null pointers.
#define ENTRIES(T, S, suffix)                                                                                          \
    extern "C" void plane_gate_forward_##suffix(const Shape* s, const T* x, T* y, const S* scale, const S* shift,       \
                                                const uint8_t* local, const S* w, const S* b, int64_t order, double e,  \
                                                int64_t shuffle, S* means, S* rstds) {                                  \
        plane_gate_forward<T>(*s, x, y, scale, shift, local, w, b, order, e, shuffle, means, rstds);                    \
    }                                                                                                                  \
    extern "C" void plane_gate_backward_##suffix(const Shape* s, const T* g, const T* x, const S* means,                \
                                                 const S* rstds, const S* scale, const S* shift, const uint8_t* local,  \
                                                 const S* w, const S* b, int64_t order, int64_t shuffle, T* dx,         \
                                                 S* dscale, S* dshift, S* dw, S* db) {                                  \
        plane_gate_backward<T>(*s, g, x, means, rstds, scale, shift, local, w, b, order, shuffle, dx, dscale, dshift,   \
                               dw, db);                                                                                \
    }                                                                                                                  \
    extern "C" void plane_statistics_##suffix(const Shape* s, const T* x, S* mean, S* var, S* top, int64_t* where) {    \
        plane_statistics<T>(*s, x, mean, var, top, where);                                                             \
    }                                                                                                                  \
    extern "C" void plane_scale_##suffix(const Shape* s, const T* x, const S* f, T* y) { plane_scale<T>(*s, x, f, y); } \
    extern "C" void plane_dot_##suffix(const Shape* s, const T* g, const T* x, S* d) { plane_dot<T>(*s, g, x, d); }     \
    extern "C" void plane_combine_##suffix(const Shape* s, const T* g, const S* f, const S* rest, const T* x,           \
                                           const S* slope, const S* peak, const int64_t* where, T* dx) {                \
        plane_combine<T>(*s, g, f, rest, x, slope, peak, where, dx);                                                   \
    }                                                                                                                  \
    extern "C" void cross_statistics_##suffix(const Shape* s, const T* x, S* r, S* c) { cross_statistics<T>(*s, x, r, c); } \
    extern "C" void cross_scale_##suffix(const Shape* s, const T* x, const S* r, const S* c, T* y) {                    \
        cross_scale<T>(*s, x, r, c, y);                                                                                \
    }                                                                                                                  \
    extern "C" void cross_dot_##suffix(const Shape* s, const T* g, const T* x, const S* r, const S* c, S* dr, S* dc) {  \
        cross_dot<T>(*s, g, x, r, c, dr, dc);                                                                          \
    }                                                                                                                  \
    extern "C" void cross_combine_##suffix(const Shape* s, const T* g, const S* r, const S* c, const S* qr,             \
                                           const S* qc, T* dx) {                                                       \
        cross_combine<T>(*s, g, r, c, qr, qc, dx);                                                                     \
    }                                                                                                                  \
    extern "C" void group_gate_forward_##suffix(const Shape* s, const T* x, T* y, int64_t groups, const S* weight,      \
                                                const S* bias, const S* w, const S* b, int64_t order, double e,         \
                                                S* means, S* centres, S* spreads) {                                    \
        group_gate_forward<T>(*s, x, y, groups, weight, bias, w, b, order, e, means, centres, spreads);                \
    }                                                                                                                  \
    extern "C" void group_gate_backward_##suffix(const Shape* s, const T* g, const T* x, int64_t groups,                \
                                                 const S* weight, const S* bias, const S* w, const S* b, int64_t order, \
                                                 double e, const S* means, const S* centres, const S* spreads, T* dx,   \
                                                 S* dweight, S* dbias, S* dw, S* db) {                                  \
        group_gate_backward<T>(*s, g, x, groups, weight, bias, w, b, order, e, means, centres, spreads, dx, dweight,    \
                               dbias, dw, db);                                                                         \
    }                                                                                                                  \
    extern "C" void place_statistics_##suffix(const Shape* s, const T* x, const S* f, S* mean, S* top, int64_t* where) { \
        place_statistics<T>(*s, x, f, mean, top, where);                                                               \
    }                                                                                                                  \
    extern "C" void place_scale_##suffix(const Shape* s, const T* x, const S* f, const S* m, T* y) {                    \
        place_scale<T>(*s, x, f, m, y);                                                                                \
    }                                                                                                                  \
    extern "C" void place_dot_##suffix(const Shape* s, const T* g, const T* x, const S* f, S* d) {                      \
        place_dot<T>(*s, g, x, f, d);                                                                                  \
    }                                                                                                                  \
    extern "C" void place_plane_dot_##suffix(const Shape* s, const T* g, const T* x, const S* m, const S* rest,         \
                                             const S* peak, const int64_t* where, S* d) {                              \
        place_plane_dot<T>(*s, g, x, m, rest, peak, where, d);                                                         \
    }                                                                                                                  \
    extern "C" void place_combine_##suffix(const Shape* s, const T* g, const S* f, const S* m, const S* rest,           \
                                           const S* peak, const int64_t* where, const S* q, const S* top,               \
                                           const int64_t* at, T* dx) {                                                 \
        place_combine<T>(*s, g, f, m, rest, peak, where, q, top, at, dx);                                              \
    }                                                                                                                  \
    extern "C" void over_channels_##suffix(const Shape* s, const T* x, const S* k, S* d) { over_channels<T>(*s, x, k, d); } \
    extern "C" void over_places_##suffix(const Shape* s, const T* x, const S* a, S* d) { over_places<T>(*s, x, a, d); } \
    extern "C" void context_combine_##suffix(const Shape* s, const T* g, const S* f, const S* u, const S* a,            \
                                             const S* k, const S* v, T* dx) {                                          \
        context_combine<T>(*s, g, f, u, a, k, v, dx);                                                                  \
    }

ENTRIES(float, float, float32)
ENTRIES(double, double, float64)
ENTRIES(bfloat16, float, bfloat16)
