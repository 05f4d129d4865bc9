// The inner loops over one row's columns. The build compiles this file once per instruction set, with ECM_ISA naming it;
// log_probs_cpu.cpp chooses among them at run time. OpenMP's `simd` lets the compiler reorder the sums, nothing else.
#include "log_probs_rows.h"

#ifndef ECM_ISA
#error "ECM_ISA names the instruction set this file is compiled for"
#endif

namespace ecm {
namespace {

constexpr int64_t kBlock = 512;  // columns that stay in the first-level cache between the two looks at them

template <typename T>
ECM_INLINE Partial block_partial(const T* z, int64_t count, bool details) {
    float max = -INFINITY;
#pragma omp simd reduction(max : max)
    for (int64_t i = 0; i < count; ++i) {
        const float value = load(z[i]);
        max = value > max ? value : max;
    }
    float rest = 0.0f;
    if (max == -INFINITY) {  // all are -inf, or some are NaN, which the comparison above lets pass
#pragma omp simd reduction(+ : rest)
        for (int64_t i = 0; i < count; ++i) {
            const float value = load(z[i]);
            rest += value == value ? 0.0f : value;
        }
        return Partial{max, static_cast<double>(rest) - 1.0, rest, max, 0};
    }
    int equal = 0;  // how many are the maximum itself
    if (!details) {
#pragma omp simd reduction(+ : rest, equal)
        for (int64_t i = 0; i < count; ++i) {
            const float x = load(z[i]) - max;
            const float e = exp_nonpositive(x);
            rest += x == 0.0f ? 0.0f : e;
            equal += x == 0.0f ? 1 : 0;
        }
        return Partial{max, (equal - 1) + static_cast<double>(rest), 0.0, 0.0, 0};
    }
    float weighted = 0.0f, sum = 0.0f;
#pragma omp simd reduction(+ : rest, equal, weighted, sum)
    for (int64_t i = 0; i < count; ++i) {
        const float value = load(z[i]);
        const float x = value - max;
        const float e = exp_nonpositive(x);
        rest += x == 0.0f ? 0.0f : e;
        equal += x == 0.0f ? 1 : 0;
        weighted += e == 0.0f ? 0.0f : e * x;
        sum += value;
    }
    return Partial{max, (equal - 1) + static_cast<double>(rest), weighted, sum, 0};
}

template <typename T>
int64_t first_with(const T* z, int64_t count, float value) {
    for (int64_t i = 0; i < count; ++i)
        if (load(z[i]) == value) return i;
    return 0;
}

template <typename T>
Partial partial_of(const void* row, int64_t begin, int64_t end, bool details) {
    const T* z = static_cast<const T*>(row);
    Partial total = empty_partial();
    total.argmax = begin;
    for (int64_t at = begin; at < end; at += kBlock) {
        const int64_t count = end - at < kBlock ? end - at : kBlock;
        Partial next = block_partial(z + at, count, details);
        if (details && next.max > total.max) next.argmax = at + first_with(z + at, count, next.max);
        total = merge(total, next);
    }
    return total;
}

template <typename T>
void gradient_of(const void* from, void* to, int64_t begin, int64_t end, float max, float log_sum, float scale) {
    const T* z = static_cast<const T*>(from);
    T* grad = static_cast<T*>(to);
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
        const float x = (load(z[i]) - max) - log_sum;
        // x may pass 0 by a rounding of log_sum; past that nothing is positive, and NaN stays NaN.
        store(grad[i], -scale * exp_nonpositive(x > 0.0f ? 0.0f : x));
    }
}

}  // namespace

#define ECM_JOIN_(a, b) a##b
#define ECM_JOIN(a, b) ECM_JOIN_(a, b)

const RowKernels ECM_JOIN(row_kernels_, ECM_ISA) = {
    {partial_of<float>, partial_of<BFloat16>, partial_of<Float16>},
    {gradient_of<float>, gradient_of<BFloat16>, gradient_of<Float16>},
};

}  // namespace ecm
