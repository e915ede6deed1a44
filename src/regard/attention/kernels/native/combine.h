// Features times factors, plus terms; and sums over features, such as the gradients of factors.

#pragma once

#include "loops.h"

namespace {

// Features as rows of k elements: (N, I, J, K) in memory order. Small tensors have all elements or one element along each
// of these axes. J and K are merged into one axis if every small tensor has both or neither.
struct Rows {
    int64_t n, i, j, k;
};

struct Axes {
    bool i, j, k;
    explicit Axes(double mask) : i(int(mask) & 4), j(int(mask) & 2), k(int(mask) & 1) {}
};

inline Rows rows_of(const Call& call, std::initializer_list<Axes> all) {
    Rows r = call.last ? Rows{call.n, call.h, call.w, call.c} : Rows{call.n, call.c, call.h, call.w};
    for (const Axes& axes : all)
        if (axes.j != axes.k) return r;
    r.k *= r.j;
    r.j = 1;
    return r;
}

struct Strides {
    int64_t size, i, j;
    Strides(const Rows& r, const Axes& axes) {
        const int64_t k = axes.k ? r.k : 1;
        j = axes.j && r.j > 1 ? k : 0;
        i = axes.i ? (j ? r.j * j : k) : 0;
        size = (axes.i ? r.i : 1) * (j ? r.j : 1) * k;
    }
};

template <class Work> inline void dispatch(bool flag, const Work& work) {
    flag ? work(std::true_type()) : work(std::false_type());
}

// A product of two rows of factors, either of which may be absent, as one value times one row (of ones if V is false).
template <bool V, class S> struct Product {
    S value;
    const S* values;
    S operator[](int64_t k) const { return V ? value * values[k] : value; }
};
template <bool V, class S>
inline Product<V, S> product(const S* a, bool va, const S* b, bool vb, S absent, int64_t count, S* buffer) {
    S value = a || b ? S(1) : absent;
    if (a && !va) value *= *a;
    if (b && !vb) value *= *b;
    if (va && vb)
        for (int64_t k = 0; k < count; ++k) buffer[k] = a[k] * b[k];
    return {value, va && vb ? buffer : va ? a : b};
}

// y = x * a * b + c * d + g; any of these may be absent. Tensors: x, a, b, c, d, g, y. Numbers: axes of a, b, c and d.
template <class T> void combine(const Call& call) {
    using S = typename Sum<T>::type;
    const Axes axes[] = {Axes(call.numbers[0]), Axes(call.numbers[1]), Axes(call.numbers[2]), Axes(call.numbers[3])};
    const Rows r = rows_of(call, {axes[0], axes[1], axes[2], axes[3]});
    const Strides strides[] = {Strides(r, axes[0]), Strides(r, axes[1]), Strides(r, axes[2]), Strides(r, axes[3])};
    const T* x = call.in<T>(0);
    const T* g = call.in<T>(5);
    T* y = call.out<T>(6);
    dispatch(axes[0].k || axes[1].k, [&](auto vf) {
        dispatch(axes[2].k || axes[3].k, [&](auto vt) {
            parallel_for(call, r.n * r.i, [&](int64_t task) {
                static thread_local Scratch<S> scratch;
                S* buffer = scratch.get(2 * r.k);
                const auto row_at = [&](int64_t tensor, int64_t j) {
                    const S* small = call.in<S>(1 + tensor);
                    const Strides& stride = strides[tensor];
                    return small ? small + task / r.i * stride.size + task % r.i * stride.i + j * stride.j : nullptr;
                };
                for (int64_t j = 0; j < r.j; ++j) {
                    const auto f = product<vf.value>(row_at(0, j), axes[0].k, row_at(1, j), axes[1].k, S(x ? 1 : 0), r.k,
                                                     buffer);
                    const auto t = product<vt.value>(row_at(2, j), axes[2].k, row_at(3, j), axes[3].k, S(0), r.k,
                                                     buffer + r.k);
                    const int64_t start = (task * r.j + j) * r.k;
                    T* dst = y + start;
                    dispatch(x, [=](auto with_x) {
                        dispatch(g, [=](auto with_g) {
#pragma omp simd
                            for (int64_t k = 0; k < r.k; ++k) {
                                const S v = (with_x.value ? widen(x[start + k]) * f[k] : f[k]) + t[k];
                                dst[k] = narrow<T>(with_g.value ? v + widen(g[start + k]) : v);
                            }
                        });
                    });
                }
            });
        });
    });
}

// The gradient of a factor: sums (N, parts, I, J, K) over the axes along which the factor has one element. Tasks process
// parts of images, along I; each part has its own sums.
template <class S> struct Sums {
    Strides strides;
    int64_t parts;
    bool by_row;  // several rows add to the same elements: they are summed first, and then added
    std::vector<S> values;
    Sums(const Rows& r, const Axes& axes, int64_t parts)
        : strides(r, axes), parts(parts), by_row(r.j > 1 && !strides.j), values(r.n * parts * strides.size, S(0)) {}
    S* at(int64_t n, int64_t p, int64_t i) { return values.data() + (n * parts + p) * strides.size + i * strides.i; }
    void put(int64_t images, S* dst, S divisor) const {
        for (int64_t n = 0; n < images; ++n)
            for (int64_t index = 0; index < strides.size; ++index) {
                S sum = 0;
                for (int64_t part = 0; part < parts; ++part) sum += values[(n * parts + part) * strides.size + index];
                dst[n * strides.size + index] = sum / divisor;
            }
    }
};

// With G: dx = g * a * b, da = sum(g * x * b), db = sum(g * x * a). Without: da = sum(x * b), db = sum(x * a).
template <class T, bool G, bool VA, bool VB> void sums(const Call& call, const Axes& axes_a, const Axes& axes_b) {
    using S = typename Sum<T>::type;
    static const S one = 1;
    const Rows r = rows_of(call, {axes_a, axes_b});
    const T *g = call.in<T>(0), *x = call.in<T>(1);
    const S *a = call.in<S>(2), *b = call.in<S>(3);
    T* dx = call.out<T>(4);
    S *da = call.out<S>(5), *db = call.out<S>(6);
    const int64_t parts = std::min(r.i, (call.workers() + r.n - 1) / r.n);
    Sums<S> sums_a(r, axes_a, parts), sums_b(r, axes_b, parts);
    const Strides &sa = sums_a.strides, &sb = sums_b.strides;
    const auto loop = [&](auto has_a, auto has_b, auto with_b) {  // a, b: given factors; with_b: whether to compute db
        parallel_for(call, r.n * parts, [&](int64_t task) {
            static thread_local Scratch<S> scratch;
            const int64_t n = task / parts, part = task % parts;
            S *row_a = scratch.get(2 * r.k), *row_b = row_a + r.k;
            for (int64_t i = r.i * part / parts; i < r.i * (part + 1) / parts; ++i) {
                S *dst_a = sums_a.at(n, part, i), *dst_b = sums_b.at(n, part, i);
                if (sums_a.by_row) std::fill(row_a, row_a + (VA ? r.k : 1), S(0));
                if (sums_b.by_row) std::fill(row_b, row_b + (VB ? r.k : 1), S(0));
                for (int64_t j = 0; j < r.j; ++j) {
                    const int64_t index = ((n * r.i + i) * r.j + j) * r.k;
                    const T *xs = x + index, *gs = g + index;
                    T* dst = dx + index;
                    const auto ar = row<has_a.value && VA>(has_a.value ? a + n * sa.size + i * sa.i + j * sa.j : &one);
                    const auto br = row<has_b.value && VB>(has_b.value ? b + n * sb.size + i * sb.i + j * sb.j : &one);
                    S* add_a = sums_a.by_row ? row_a : dst_a + j * sa.j;
                    S* add_b = sums_b.by_row ? row_b : dst_b + j * sb.j;
                    S sum_a = 0, sum_b = 0;
#pragma omp simd reduction(+ : sum_a, sum_b)
                    for (int64_t k = 0; k < r.k; ++k) {
                        S value = widen(xs[k]);
                        if constexpr (G) {
                            const S grad = widen(gs[k]);
                            value *= grad;
                            dst[k] = narrow<T>(grad * ar[k] * br[k]);
                        }
                        if constexpr (VA)
                            add_a[k] += value * br[k];
                        else
                            sum_a += value * br[k];
                        if constexpr (with_b.value && VB)
                            add_b[k] += value * ar[k];
                        else if constexpr (with_b.value)
                            sum_b += value * ar[k];
                    }
                    if (!VA) *add_a += sum_a;
                    if (with_b.value && !VB) *add_b += sum_b;
                }
                if (sums_a.by_row) add<true>(dst_a, VA ? r.k : 1, [&](int64_t k) { return row_a[k]; });
                if (sums_b.by_row) add<true>(dst_b, VB ? r.k : 1, [&](int64_t k) { return row_b[k]; });
            }
        });
    };
    dispatch(b != nullptr, [&](auto has_b) {
        if constexpr (G)
            loop(std::true_type(), has_b, has_b);
        else
            loop(std::false_type(), has_b, std::integral_constant<bool, !has_b.value>());
    });
    const S elements = S(r.i * r.j * r.k);
    sums_a.put(r.n, da, G || b ? S(1) : elements / S(sa.size));
    if (db) sums_b.put(r.n, db, G ? S(1) : elements / S(sb.size));
}

template <class T, bool G> void dispatch_sums(const Call& call) {
    const Axes a(call.numbers[0]), b(call.numbers[1]);
    dispatch(a.k, [&](auto va) {
        dispatch(b.k, [&](auto vb) { sums<T, G, decltype(va)::value, decltype(vb)::value>(call, a, b); });
    });
}

// Tensors: g, x, a, b, dx, da, db. Numbers: the axes of a and b.
template <class T> void combine_backward(const Call& call) { dispatch_sums<T, true>(call); }

// The means of rows and columns, or the sum of x * b. Tensors: -, x, -, b or null, -, rows or sum, columns or null.
template <class T> void reduce(const Call& call) { dispatch_sums<T, false>(call); }

}  // namespace
