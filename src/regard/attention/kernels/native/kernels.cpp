// The operations of regard.attention.kernels on a CPU; each is defined by its formula in functional.py.
//
// Features have element type T: float, double or bfloat16. All other tensors (statistics, factors, parameters) and all
// sums have type S: double for double, else float. Kernels process features row by row in memory order: a row is the
// pixels of a channel or, channels last, the channels of a pixel. Repeated reads come from the cache.

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
