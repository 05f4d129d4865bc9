// The gradient by the logits: one read and one write of each, in place or not.
#pragma once

#include "cuda_vectors.cuh"
#include "log_probs.h"

namespace ecm {
namespace {

constexpr int64_t kGradientColumns = 16384;  // columns of one block

// One block: some columns of one row of the gradient. `grad` may be the logits.
template <typename T>
__global__ void __launch_bounds__(kThreads) backward_kernel(Logits logits, RowGradient rows, void* grad,
                                                            int64_t grad_row_stride, int64_t chunks) {
    constexpr int kSize = Vector<T>::kSize;
    const int64_t row = blockIdx.x / chunks;
    const int64_t begin = blockIdx.x % chunks * kGradientColumns;
    const int64_t end = begin + kGradientColumns < logits.cols ? begin + kGradientColumns : logits.cols;
    const T* from = static_cast<const T*>(logits.data) + row * logits.row_stride;
    T* to = static_cast<T*>(grad) + row * grad_row_stride;
    const float scale = rows.row_grad[row];
    const float max = rows.lse[2 * row];
    const float log_sum = rows.lse[2 * row + 1];
    const auto gradient = [&](float z) { return -scale * exp2_fast(((z - max) - log_sum) * kLog2E); };

    int64_t valid = end < logits.valid_cols ? end : logits.valid_cols;
    if (scale == 0.0f || valid < begin) valid = begin;
    const Span<T> span(from, begin, valid);
    const bool aligned_alike = (reinterpret_cast<uintptr_t>(from) - reinterpret_cast<uintptr_t>(to)) % 16 == 0;
    const int64_t singles_end = aligned_alike ? span.vectors_begin : valid;
    for (int64_t col = begin + threadIdx.x; col < singles_end; col += kThreads) store(to[col], gradient(load(from[col])));
    if (aligned_alike) {
        const Vector<T>* vectors = reinterpret_cast<const Vector<T>*>(from + span.vectors_begin);
        Vector<T>* out = reinterpret_cast<Vector<T>*>(to + span.vectors_begin);
        for (int64_t at = threadIdx.x; at < span.vectors; at += kUnroll * kThreads) {
            Vector<T> loaded[kUnroll];
#pragma unroll
            for (int k = 0; k < kUnroll; ++k)
                if (at + k * kThreads < span.vectors) loaded[k] = vectors[at + k * kThreads];
#pragma unroll
            for (int k = 0; k < kUnroll; ++k) {
                if (at + k * kThreads >= span.vectors) continue;
#pragma unroll
                for (int i = 0; i < kSize; ++i) store(loaded[k].values[i], gradient(load(loaded[k].values[i])));
                out[at + k * kThreads] = loaded[k];
            }
        }
        if (span.tail_begin + threadIdx.x < valid) {
            const int64_t col = span.tail_begin + threadIdx.x;
            store(to[col], gradient(load(from[col])));
        }
    }
    // Padding, and everything in a row without gradient.
    const Span<T> zeros(to, valid, end);
    for (int64_t col = valid + threadIdx.x; col < zeros.vectors_begin; col += kThreads) store(to[col], 0.0f);
    Vector<T> nothing;
#pragma unroll
    for (int i = 0; i < kSize; ++i) store(nothing.values[i], 0.0f);
    Vector<T>* zero_vectors = reinterpret_cast<Vector<T>*>(to + zeros.vectors_begin);
    for (int64_t at = threadIdx.x; at < zeros.vectors; at += kThreads) zero_vectors[at] = nothing;
    for (int64_t col = zeros.tail_begin + threadIdx.x; col < end; col += kThreads) store(to[col], 0.0f);

    const int64_t target = rows.targets[row] - logits.vocab_offset;
    if (target < begin || target >= valid) return;
    __syncthreads();  // the target's column has been written by now, and is written again
    if (threadIdx.x == 0) store(to[target], -scale * expm1f(rows.log_probs[row]));
}

}  // namespace
}  // namespace ecm
