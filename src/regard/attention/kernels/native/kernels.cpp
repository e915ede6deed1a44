// The operations of regard.attention.kernels on a processor; each is defined by its formula in functional.py.
//
// Features are of element type T: float, double or bfloat16. Everything small (statistics, factors, parameters) and every
// sum is of type S: double for double, else float. A kernel goes over features row by row as they lie in memory: a row is
// a channel's pixels or, channels last, a pixel's channels. What is read several times is read while it is in the cache.

#include "combine.h"
#include "group.h"
#include "shuffle.h"
#include "statistics.h"

#define ENTRY(kernel)                                                                  \
    extern "C" void kernel##_float32(const Call* call) { kernel<float>(*call); }        \
    extern "C" void kernel##_float64(const Call* call) { kernel<double>(*call); }       \
    extern "C" void kernel##_bfloat16(const Call* call) { kernel<bfloat16>(*call); }

ENTRY(combine)
ENTRY(combine_backward)
ENTRY(reduce)
ENTRY(channel_statistics)
ENTRY(pixel_statistics)
ENTRY(shuffle_gate)
ENTRY(shuffle_gate_backward)
ENTRY(group_gate)
ENTRY(group_gate_backward)
