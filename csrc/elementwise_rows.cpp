// Elementwise loops over one row. The build compiles this file once per instruction set, with ECM_ISA naming it;
// elementwise_cpu.cpp chooses among them at run time. OpenMP's `simd` lets the compiler reorder the sums, nothing else.
#include "elementwise_rows.h"

#ifndef ECM_ISA
#error "ECM_ISA names the instruction set this file is compiled for"
#endif

namespace ecm {
namespace {

struct Sigmoid {
    float value, rest;  // s and 1 - s, each with all its digits
};

ECM_INLINE Sigmoid sigmoid(float x) {
    const float e = exp_nonpositive(x < 0.0f ? x : -x);
    const float high = 1.0f / (1.0f + e), low = e * high;
    return x < 0.0f ? Sigmoid{low, high} : Sigmoid{high, low};
}

template <typename T>
void swiglu(const void* gate_up, float weight, void* out, int64_t columns) {
    const T* gate = static_cast<const T*>(gate_up);
    const T* up = gate + columns;
    T* to = static_cast<T*>(out);
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) {
        const float g = load(gate[i]);
        store(to[i], g * sigmoid(g).value * load(up[i]) * weight);
    }
}

template <typename T>
float swiglu_gradient(const void* gate_up, float weight, const void* grad, void* grad_gate_up, int64_t columns) {
    const T* gate = static_cast<const T*>(gate_up);
    const T* up = gate + columns;
    const T* upstream = static_cast<const T*>(grad);
    T* by_gate = static_cast<T*>(grad_gate_up);
    T* by_up = by_gate + columns;
    float by_weight = 0.0f;
#pragma omp simd reduction(+ : by_weight)
    for (int64_t i = 0; i < columns; ++i) {
        const float g = load(gate[i]), u = load(up[i]), d = load(upstream[i]);
        const Sigmoid s = sigmoid(g);
        const float silu = g * s.value;
        by_weight += d * silu * u;
        store(by_gate[i], d * weight * u * (s.value * (1.0f + g * s.rest)));
        store(by_up[i], d * weight * silu);
    }
    return by_weight;
}

template <typename T>
void rotate(const void* from, void* to, const float* cos, const float* sin, float sign, int64_t pairs) {
    const T* first = static_cast<const T*>(from);
    const T* second = first + pairs;
    T* out_first = static_cast<T*>(to);
    T* out_second = out_first + pairs;
#pragma omp simd
    for (int64_t i = 0; i < pairs; ++i) {
        const float a = load(first[i]), b = load(second[i]), s = sign * sin[i];
        store(out_first[i], a * cos[i] - b * s);
        store(out_second[i], b * cos[i] + a * s);
    }
}

template <typename T>
float rms_norm(const void* from, const void* weight, void* out, float epsilon, int64_t columns) {
    const T* x = static_cast<const T*>(from);
    const T* factor = static_cast<const T*>(weight);
    T* to = static_cast<T*>(out);
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < columns; ++i) squares += load(x[i]) * load(x[i]);
    const float inverse_rms = 1.0f / sqrtf(squares / columns + epsilon);
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) {
        T normal;
        store(normal, load(x[i]) * inverse_rms);  // rounded before the weight, as transformers does
        store(to[i], load(normal) * load(factor[i]));
    }
    return inverse_rms;
}

template <typename T>
void rms_norm_gradient(const void* from, const void* weight, float inverse_rms, const void* grad, void* grad_from,
                       float* grad_weight, int64_t columns) {
    const T* x = static_cast<const T*>(from);
    const T* factor = static_cast<const T*>(weight);
    const T* upstream = static_cast<const T*>(grad);
    T* to = static_cast<T*>(grad_from);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < columns; ++i) {
        const float normal = load(x[i]) * inverse_rms, d = load(upstream[i]);
        sum += d * load(factor[i]) * normal;
        grad_weight[i] += d * normal;
    }
    const float mean = sum / columns;
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) {
        const float normal = load(x[i]) * inverse_rms;
        store(to[i], (load(upstream[i]) * load(factor[i]) - normal * mean) * inverse_rms);
    }
}

}  // namespace

#define ECM_JOIN_(a, b) a##b
#define ECM_JOIN(a, b) ECM_JOIN_(a, b)
#define ECM_EACH(kernel) {kernel<float>, kernel<BFloat16>, kernel<Float16>}

const ElementwiseRows ECM_JOIN(elementwise_rows_, ECM_ISA) = {
    ECM_EACH(swiglu), ECM_EACH(swiglu_gradient), ECM_EACH(rotate), ECM_EACH(rms_norm), ECM_EACH(rms_norm_gradient),
};

}  // namespace ecm
