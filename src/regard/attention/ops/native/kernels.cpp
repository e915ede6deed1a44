// The operations of regard.attention.ops on a processor. Each is defined by its formula in torch, beside it in Python.
//
// Features x are (N, C, P) with P = H * W, of element type T: float, double or bfloat16; or, channels last, (N, P, C).
// Everything small (statistics, factors, parameters) and every sum is of type S: double for double, else float.
// A kernel works on one plane (n, c) after another, which fits a core's own cache, so that however often it goes over a
// plane, memory sees one read and one write. Channels-last features go row by row, the channels of a place at a time, or a
// few channels at a time where that does not do.

#include "channel_gate.h"
#include "context_gate.h"
#include "cross_gate.h"
#include "group_gate.h"
#include "place_gate.h"
#include "plane_gate.h"

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
