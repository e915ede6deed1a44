// Element types, and the functions of a gate on them.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

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

// Always inlined, because compilers do not vectorise loops with calls.
// exp(v) = 2^n * exp(r) with |r| <= ln 2 / 2, in a form that compilers vectorise; NaN remains NaN. The limit depends on v:
// for a constant limit, GCC computes the result of the whole loop at the limit too, a subnormal number, which is slow.
__attribute__((always_inline)) inline float exponential(float v) {
    v = std::fabs(v) > 87.0f ? std::copysign(87.0f, v) : v;
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

inline double exponential(double v) { return std::exp(v); }

template <class S> __attribute__((always_inline)) inline S sigmoid(S u) { return S(1) / (S(1) + exponential(-u)); }

}  // namespace
