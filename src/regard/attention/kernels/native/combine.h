// Features times factors, plus terms; and the sums over features that are the gradients of factors.

#pragma once

#include "loops.h"

namespace {

// Features as rows of k elements, (N, I, J, K) in the order of memory, and small tensors that have all of some of these
// axes, and one element along others. J and K are taken as one axis where every small tensor has both or neither.
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

struct Steps {
    int64_t size, i, j;
    Steps(const Rows& r, const Axes& axes) {
        const int64_t k = axes.k ? r.k : 1;
        j = axes.j && r.j > 1 ? k : 0;
        i = axes.i ? (j ? r.j * j : k) : 0;
        size = (axes.i ? r.i : 1) * (j ? r.j : 1) * k;
    }
};

template <class Work> inline void of_kind(bool vector, const Work& work) {
    vector ? work(std::true_type()) : work(std::false_type());
}

// A product of two rows of factors, either of which may be absent, as one value times one row (of ones if V is false).
template <bool V, class S> struct Product {
    S value;
    const S* values;
    S operator[](int64_t k) const { return V ? value * values[k] : value; }
};
template <bool V, class S>
inline Product<V, S> product(const S* a, bool va, const S* b, bool vb, S otherwise, int64_t count, S* room) {
    S value = a || b ? S(1) : otherwise;
    if (a && !va) value *= *a;
    if (b && !vb) value *= *b;
    if (va && vb)
        for (int64_t k = 0; k < count; ++k) room[k] = a[k] * b[k];
    return {value, va && vb ? room : va ? a : b};
}

// y = x * a * b + c * d + g, without what is absent. Tensors: x, a, b, c, d, g, y. Numbers: the axes of a, b, c and d.
template <class T> void combine(const Call& call) {
    using S = typename Sum<T>::type;
    const Axes axes[] = {Axes(call.numbers[0]), Axes(call.numbers[1]), Axes(call.numbers[2]), Axes(call.numbers[3])};
    const Rows r = rows_of(call, {axes[0], axes[1], axes[2], axes[3]});
    const Steps steps[] = {Steps(r, axes[0]), Steps(r, axes[1]), Steps(r, axes[2]), Steps(r, axes[3])};
    const T* x = call.in<T>(0);
    const T* g = call.in<T>(5);
    T* y = call.at<T>(6);
    of_kind(axes[0].k || axes[1].k, [&](auto vf) {
        of_kind(axes[2].k || axes[3].k, [&](auto vt) {
            each(call, r.n * r.i, [&](int64_t task) {
                static thread_local Scratch<S> scratch;
                S* room = scratch.of(2 * r.k);
                const auto at = [&](int64_t which, int64_t j) {
                    const S* small = call.in<S>(1 + which);
                    const Steps& step = steps[which];
                    return small ? small + task / r.i * step.size + task % r.i * step.i + j * step.j : nullptr;
                };
                for (int64_t j = 0; j < r.j; ++j) {
                    const auto f = product<vf.value>(at(0, j), axes[0].k, at(1, j), axes[1].k, S(x ? 1 : 0), r.k, room);
                    const auto t = product<vt.value>(at(2, j), axes[2].k, at(3, j), axes[3].k, S(0), r.k, room + r.k);
                    const int64_t start = (task * r.j + j) * r.k;
                    T* to = y + start;
                    of_kind(x, [=](auto with_x) {
                        of_kind(g, [=](auto with_g) {
#pragma omp simd
                            for (int64_t k = 0; k < r.k; ++k)
                                to[k] = narrow<T>((with_x.value ? widen(x[start + k]) * f[k] : f[k]) + t[k] +
                                                  (with_g.value ? widen(g[start + k]) : S(0)));
                        });
                    });
                }
            });
        });
    });
}

// The gradient of a factor: a sum (N, parts, I, J, K) without the axes that it lacks. Images are cut into parts, each
// with a sum of its own, where a factor lacks the axis along which they are cut.
template <class S> struct Sums {
    Steps steps;
    int64_t parts;
    bool within;  // one image row adds to one element: its sum is taken first, and then added
    std::vector<S> values;
    Sums(const Rows& r, const Axes& axes, int64_t parts)
        : steps(r, axes), parts(parts), within(r.j > 1 && !steps.j), values(r.n * parts * steps.size, S(0)) {}
    S* at(int64_t n, int64_t part, int64_t i) { return values.data() + (n * parts + part) * steps.size + i * steps.i; }
    void put(int64_t images, S* to, S divisor) const {
        for (int64_t n = 0; n < images; ++n)
            for (int64_t at = 0; at < steps.size; ++at) {
                S sum = 0;
                for (int64_t part = 0; part < parts; ++part) sum += values[(n * parts + part) * steps.size + at];
                to[n * steps.size + at] = sum / divisor;
            }
    }
};

// With G: dx = g * a * b, da = sum(g * x * b), db = sum(g * x * a). Without: da = sum(x * b), db = sum(x * a).
template <class T, bool G, bool VA, bool VB> void sums(const Call& call, const Axes& of_a, const Axes& of_b) {
    using S = typename Sum<T>::type;
    static const S one = 1;
    const Rows r = rows_of(call, {of_a, of_b});
    const T *g = call.in<T>(0), *x = call.in<T>(1);
    const S *a = call.in<S>(2), *b = call.in<S>(3);
    T* dx = call.at<T>(4);
    S *da = call.at<S>(5), *db = call.at<S>(6);
    const int64_t parts = std::min(r.i, (call.workers() + r.n - 1) / r.n);
    Sums<S> sums_a(r, of_a, parts), sums_b(r, of_b, parts);
    const Steps &sa = sums_a.steps, &sb = sums_b.steps;
    const auto loop = [&](auto has_a, auto has_b, auto with_b) {  // which factors have values, and whether db is asked for
        each(call, r.n * parts, [&](int64_t task) {
            static thread_local Scratch<S> room;
            const int64_t n = task / parts, part = task % parts;
            S *row_a = room.of(2 * r.k), *row_b = row_a + r.k;
            for (int64_t i = r.i * part / parts; i < r.i * (part + 1) / parts; ++i) {
                S *to_a = sums_a.at(n, part, i), *to_b = sums_b.at(n, part, i);
                if (sums_a.within) std::fill(row_a, row_a + (VA ? r.k : 1), S(0));
                if (sums_b.within) std::fill(row_b, row_b + (VB ? r.k : 1), S(0));
                for (int64_t j = 0; j < r.j; ++j) {
                    const int64_t at = ((n * r.i + i) * r.j + j) * r.k;
                    const T *xs = x + at, *gs = g + at;
                    T* to = dx + at;
                    const auto ar = row<has_a.value && VA>(has_a.value ? a + n * sa.size + i * sa.i + j * sa.j : &one);
                    const auto br = row<has_b.value && VB>(has_b.value ? b + n * sb.size + i * sb.i + j * sb.j : &one);
                    S* add_a = sums_a.within ? row_a : to_a + j * sa.j;
                    S* add_b = sums_b.within ? row_b : to_b + j * sb.j;
                    S sum_a = 0, sum_b = 0;
#pragma omp simd reduction(+ : sum_a, sum_b)
                    for (int64_t k = 0; k < r.k; ++k) {
                        S value = widen(xs[k]);
                        if constexpr (G) {
                            const S up = widen(gs[k]);
                            value *= up;
                            to[k] = narrow<T>(up * ar[k] * br[k]);
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
                if (sums_a.within) add<true>(to_a, VA ? r.k : 1, [&](int64_t k) { return row_a[k]; });
                if (sums_b.within) add<true>(to_b, VB ? r.k : 1, [&](int64_t k) { return row_b[k]; });
            }
        });
    };
    of_kind(b != nullptr, [&](auto has_b) {
        if constexpr (G)
            loop(std::true_type(), has_b, has_b);
        else
            loop(std::false_type(), has_b, std::integral_constant<bool, !has_b.value>());
    });
    const S elements = S(r.i * r.j * r.k);
    sums_a.put(r.n, da, G || b ? S(1) : elements / S(sa.size));
    if (db) sums_b.put(r.n, db, G ? S(1) : elements / S(sb.size));
}

template <class T, bool G> void sums_of_kind(const Call& call) {
    const Axes a(call.numbers[0]), b(call.numbers[1]);
    of_kind(a.k, [&](auto va) {
        of_kind(b.k, [&](auto vb) { sums<T, G, decltype(va)::value, decltype(vb)::value>(call, a, b); });
    });
}

// Tensors: g, x, a, b, dx, da, db. Numbers: the axes of a and b.
template <class T> void combine_backward(const Call& call) { sums_of_kind<T, true>(call); }

// The means of rows and columns, or the sum of x * b. Tensors: -, x, -, b or none, -, rows or sum, columns or none.
template <class T> void reduce(const Call& call) { sums_of_kind<T, false>(call); }

}  // namespace
