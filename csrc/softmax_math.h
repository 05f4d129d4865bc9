// Maths shared by every variant of the log-prob kernels: number formats, exp, and the online softmax.
//
// Everything here is a scalar function with internal linkage, free of the C++ library's templates: the same text is
// compiled once per instruction set (the linker must never merge an AVX-512 body into the baseline) and by nvcc.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define ECM_INLINE static __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define ECM_INLINE static inline __attribute__((always_inline, unused))
#else
#define ECM_INLINE static inline
#endif

namespace ecm {

// The codes that bindings.cpp publishes to Python.
enum DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

ECM_INLINE float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

ECM_INLINE uint32_t bits_from_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

ECM_INLINE float load(const float& value) { return value; }

ECM_INLINE float load(const BFloat16& value) { return float_from_bits(static_cast<uint32_t>(value.bits) << 16); }

// Exponent and mantissa move into place and the bias is mended by one exact product, which also covers subnormals.
ECM_INLINE float load(const Float16& value) {
#ifdef __CUDA_ARCH__
    float converted;
    asm("cvt.f32.f16 %0, %1;" : "=f"(converted) : "h"(value.bits));
    return converted;
#else
    const uint32_t half = value.bits;
    const uint32_t magnitude = (half & 0x7fffu) << 13;
    const uint32_t finite = bits_from_float(float_from_bits(magnitude) * 0x1p112f);
    const uint32_t bits = (half & 0x7c00u) == 0x7c00u ? (magnitude | 0x7f800000u) : finite;
    return float_from_bits(bits | ((half & 0x8000u) << 16));
#endif
}

ECM_INLINE void store(float& to, float value) { to = value; }

// Round to nearest, ties to even; a NaN stays a NaN.
ECM_INLINE void store(BFloat16& to, float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(value));
#else
    const uint32_t bits = bits_from_float(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t nan = (bits >> 16) | 0x0040u;
    to.bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
#endif
}

// Round to nearest, ties to even, with subnormals; 65520 and above become infinity, a NaN stays a NaN.
ECM_INLINE void store(Float16& to, float value) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(value));
#else
    const uint32_t all = bits_from_float(value);
    const uint32_t sign = (all >> 16) & 0x8000u;
    const uint32_t bits = all & 0x7fffffffu;
    // Below 2^-14 adding 0.5 leaves the subnormal's ten bits, rounded, at the bottom of the mantissa.
    const uint32_t subnormal = bits_from_float(float_from_bits(bits) + 0.5f) - 0x3f000000u;
    const uint32_t normal = (bits - 0x38000000u + 0x0fffu + ((bits >> 13) & 1u)) >> 13;
    const uint32_t finite = bits < 0x38800000u ? subnormal : normal;
    const uint32_t special = bits > 0x7f800000u ? 0x7e00u : 0x7c00u;
    to.bits = static_cast<uint16_t>(sign | (bits >= 0x477ff000u ? special : finite));
#endif
}

// exp(x) for x <= 0, within 1.5 ulp of fp32. Below the smallest normal number (-87.33) it is 0, as at -inf; NaN stays NaN.
//
// x = n ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts, Cody and Waite), exp(r) by a minimax polynomial of degree 6
// (the coefficients are Cephes' expf), and 2^n goes straight into the exponent bits. No branch: it vectorises.
ECM_INLINE float exp_nonpositive(float x) {
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer and leaves it in the low bits
    const float clamped = x < -87.33654f ? -87.33654f : x;
    const float shifted = clamped * 1.44269504f + shift;
    const float n = shifted - shift;
    const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r) * r + (r + 1.0f);
    const uint32_t scale = (bits_from_float(shifted) - bits_from_float(shift) + 127u) << 23;
    const float result = p * float_from_bits(scale);
    return x < -87.33654f ? 0.0f : result;
}

// The softmax's running sums over some of a row's columns.
//
// The sum goes without the maximum's own term, which is 1. Near certainty the rest is 1 - p, as small as it likes, and
// adding it to 1 in fp32 would lose it: a confident token's log-prob and gradient would keep no digit.
struct Partial {
    float max;        // the largest logit; -inf when there is none
    double rest;      // sum of exp(z - max), less 1; so -1 when there is nothing
    double weighted;  // sum of (z - max) exp(z - max): the entropy is log(1 + rest) - weighted / (1 + rest)
    double sum;       // sum of z
    int64_t argmax;   // the first column with the largest logit
};

ECM_INLINE Partial empty_partial() { return Partial{-INFINITY, -1.0, 0.0, 0.0, 0}; }

// Two partials of one row become one, `a` holding the lower columns. The order of calls decides the last bits, so
// callers keep it fixed.
ECM_INLINE Partial merge(const Partial& a, const Partial& b) {
    const bool a_high = a.max >= b.max;
    const float max = a_high ? a.max : b.max, low_max = a_high ? b.max : a.max;
    const double rest = a_high ? a.rest : b.rest, low_rest = a_high ? b.rest : a.rest;
    const double weighted = a_high ? a.weighted : b.weighted, low_weighted = a_high ? b.weighted : a.weighted;
    const int64_t argmax = a_high ? a.argmax : b.argmax;
    const double sum = a.sum + b.sum;
    // Nothing in the lower one; -inf - -inf would be NaN.
    if (low_max == -INFINITY && low_rest == -1.0) return Partial{max, rest, weighted, sum, argmax};
    const double gap = static_cast<double>(low_max) - static_cast<double>(max);
    const double scale = gap == 0.0 ? 1.0 : exp(gap);
    const double added = scale > 0.0 ? scale * (low_weighted + gap * (1.0 + low_rest)) : 0.0;
    return Partial{max, rest + scale * (1.0 + low_rest), weighted + added, sum, argmax};
}

// A row's statistics as every variant stores them: fp32, one record per part of the row (a split or a shard).
constexpr int kStatsWidth = 4;    // max, rest, the target's logit (-inf where another part holds it), 0 (16 bytes in all)
constexpr int kDetailsWidth = 6;  // max, rest, the target's logit, weighted, sum, argmax (a vocabulary id)

}  // namespace ecm
