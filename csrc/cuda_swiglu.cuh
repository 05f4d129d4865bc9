// SwiGLU with the weight of each row, forward and backward.
#pragma once

#include <cub/block/block_reduce.cuh>

#include "cuda_vectors.cuh"
#include "elementwise.h"

namespace ecm {
namespace {

__device__ __forceinline__ float sigmoid_fast(float x) { return 1.0f / (1.0f + exp2_fast(-x * kLog2E)); }

struct AddFloats {
    __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};

// One thread: kSize columns of one row.
template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads) swiglu_kernel(Swiglu job, void* out) {
    using Piece = Pack<T, kSize>;
    const int64_t pieces = job.columns / kSize;
    const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (item >= job.rows * pieces) return;
    const int64_t row = item / pieces;
    const Piece* gates = static_cast<const Piece*>(job.gate_up) + item + row * pieces;
    const Piece gate = gates[0], up = gates[pieces];
    const float weight = job.weights == nullptr ? 1.0f : job.weights[row];
    Piece result;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
        const float g = load(gate.values[i]);
        store(result.values[i], g * sigmoid_fast(g) * load(up.values[i]) * weight);
    }
    static_cast<Piece*>(out)[item] = result;
}

// One block: one row.
template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads) swiglu_backward_kernel(Swiglu job, const void* grad, void* grad_gate_up, float* grad_weights) {
    using Piece = Pack<T, kSize>;
    using Reduce = cub::BlockReduce<float, kThreads>;
    __shared__ typename Reduce::TempStorage storage;
    const int64_t pieces = job.columns / kSize, row = blockIdx.x;
    const Piece* gates = static_cast<const Piece*>(job.gate_up) + 2 * row * pieces;
    const Piece* grads = static_cast<const Piece*>(grad) + row * pieces;
    Piece* out = static_cast<Piece*>(grad_gate_up) + 2 * row * pieces;
    const float weight = job.weights == nullptr ? 1.0f : job.weights[row];
    float total = 0.0f;
    for (int64_t at = threadIdx.x; at < pieces; at += kThreads) {
        Piece gate = gates[at], up = gates[pieces + at];
        const Piece upstream = grads[at];
#pragma unroll
        for (int i = 0; i < kSize; ++i) {
            const float g = load(gate.values[i]), u = load(up.values[i]), d = load(upstream.values[i]);
            const float s = sigmoid_fast(g);
            total += d * (g * s) * u;
            store(gate.values[i], d * weight * u * (s * (1.0f + g * (1.0f - s))));
            store(up.values[i], d * weight * (g * s));
        }
        out[at] = gate;
        out[pieces + at] = up;
    }
    if (grad_weights == nullptr) return;
    total = Reduce(storage).Reduce(total, AddFloats{});
    if (threadIdx.x == 0) grad_weights[row] = total;
}

}  // namespace
}  // namespace ecm
