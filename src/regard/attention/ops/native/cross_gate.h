// Cross gates: one factor a row and one a column (coordinate attention).

#pragma once

#include "planes.h"

namespace {

template <class T>
void cross_statistics(const Shape& s, const T* x, typename Sum<T>::type* rows, typename Sum<T>::type* columns) {
    using S = typename Sum<T>::type;
    const int64_t apart = pitch(s);
    each_block(s, block<T>(s), [&](int64_t n, int64_t first, int64_t count) {
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
    each_block(s, block<T>(s), [&](int64_t n, int64_t first, int64_t count) {
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
    each_block(s, block<T>(s), [&](int64_t n, int64_t first, int64_t count) {
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
    each_block(s, block<T>(s), [&](int64_t n, int64_t first, int64_t count) {
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

}  // namespace
