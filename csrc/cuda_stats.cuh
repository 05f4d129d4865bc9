// Softmax statistics of a part of a row in one read: an online maximum and sums, by threads and then by the block.
#pragma once

#include <cub/block/block_reduce.cuh>

#include "cuda_vectors.cuh"
#include "log_probs.h"

namespace ecm {
namespace {

// One thread's running softmax sums. The sum of exponentials is kept as a count of the terms equal to the maximum and the
// sum of all others, for the reason given at Partial.
template <bool kDetails>
struct Running {
    float max = -INFINITY;
    float base = 0.0f;  // what is subtracted: the maximum, or 0 as long as that is -inf
    float others = 0.0f;
    int equal = 0;
    float weighted = 0.0f, sum = 0.0f;
    int64_t argmax = INT64_MAX;

    template <int kCount, typename ColumnOf>
    __device__ __forceinline__ void add(const float (&z)[kCount], ColumnOf column) {
        float top = z[0];
#pragma unroll
        for (int i = 1; i < kCount; ++i) top = fmaxf(top, z[i]);  // fmaxf passes over NaN
        if (top > max) {
            const float scale = exp2_fast((max - top) * kLog2E);  // 0 at first
            if (kDetails) {
                const float total = others + static_cast<float>(equal);
                weighted = total > 0.0f ? scale * (weighted + (max - top) * total) : 0.0f;
                argmax = INT64_MAX;
            }
            others = (others + static_cast<float>(equal)) * scale;
            equal = 0;
            max = base = top;
        }
        float batch = 0.0f, batch_weighted = 0.0f, batch_sum = 0.0f;  // short sums first: they round less
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const float x = z[i] - base;
            const float e = exp2_fast(x * kLog2E);
            if (x == 0.0f) {
                equal += 1;
                if (kDetails && column(i) < argmax) argmax = column(i);
            } else {
                batch += e;
            }
            if (kDetails) {
                batch_weighted += e == 0.0f ? 0.0f : e * x;
                batch_sum += z[i];
            }
        }
        others += batch;
        if (kDetails) {
            weighted += batch_weighted;
            sum += batch_sum;
        }
    }
};

template <bool kDetails>
struct Sums {
    float others;
    int equal;
};
template <>
struct Sums<true> {
    float others;
    int equal;
    float weighted, sum;
    int64_t argmax;
};

struct Add {
    __device__ __forceinline__ Sums<false> operator()(const Sums<false>& a, const Sums<false>& b) const {
        return {a.others + b.others, a.equal + b.equal};
    }
    __device__ __forceinline__ Sums<true> operator()(const Sums<true>& a, const Sums<true>& b) const {
        return {a.others + b.others, a.equal + b.equal, a.weighted + b.weighted, a.sum + b.sum,
                a.argmax < b.argmax ? a.argmax : b.argmax};
    }
};

struct Maximum {
    __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// A thread's sums, brought from its own maximum to the block's.
__device__ __forceinline__ Sums<false> rescaled(const Running<false>& from, float top) {
    if (from.max == top) return {from.others, from.equal};
    return {(from.others + static_cast<float>(from.equal)) * exp2_fast((from.max - top) * kLog2E), 0};
}

__device__ __forceinline__ Sums<true> rescaled(const Running<true>& from, float top) {
    if (from.max == top) return {from.others, from.equal, from.weighted, from.sum, from.argmax};
    const float scale = exp2_fast((from.max - top) * kLog2E);
    const float total = from.others + static_cast<float>(from.equal);
    const float weighted = total > 0.0f ? scale * (from.weighted + (from.max - top) * total) : 0.0f;
    return {total * scale, 0, weighted, from.sum, INT64_MAX};
}

// One block: one part of one row -> its record in stats [parts, rows, width].
template <typename T, bool kDetails>
__global__ void __launch_bounds__(kThreads) stats_kernel(Logits logits, const int64_t* targets, float* stats,
                                                         int64_t parts, int64_t part_columns) {
    using MaxReduce = cub::BlockReduce<float, kThreads>;
    using SumReduce = cub::BlockReduce<Sums<kDetails>, kThreads>;
    __shared__ typename MaxReduce::TempStorage max_storage;
    __shared__ typename SumReduce::TempStorage sum_storage;
    __shared__ float block_max;
    constexpr int kSize = Vector<T>::kSize;

    const int64_t row = blockIdx.x / parts;
    const int64_t part = blockIdx.x % parts;
    const int64_t begin = part * part_columns < logits.valid_cols ? part * part_columns : logits.valid_cols;
    const int64_t end = begin + part_columns < logits.valid_cols ? begin + part_columns : logits.valid_cols;
    const T* z = static_cast<const T*>(logits.data) + row * logits.row_stride;
    const Span<T> span(z, begin, end);

    Running<kDetails> running;
    const auto add_one = [&](int64_t col) {
        const float value[1] = {load(z[col])};
        running.add(value, [&](int) { return col; });
    };
    if (begin + threadIdx.x < span.vectors_begin) add_one(begin + threadIdx.x);
    const Vector<T>* vectors = reinterpret_cast<const Vector<T>*>(z + span.vectors_begin);
    int64_t at = threadIdx.x;
    for (; at + (kUnroll - 1) * kThreads < span.vectors; at += kUnroll * kThreads) {
        Vector<T> loaded[kUnroll];
#pragma unroll
        for (int k = 0; k < kUnroll; ++k) loaded[k] = vectors[at + k * kThreads];
        float values[kUnroll * kSize];
#pragma unroll
        for (int i = 0; i < kUnroll * kSize; ++i) values[i] = load(loaded[i / kSize].values[i % kSize]);
        running.add(values, [&](int i) {
            return span.vectors_begin + (at + i / kSize * kThreads) * kSize + i % kSize;
        });
    }
    for (; at < span.vectors; at += kThreads) {
        const Vector<T> loaded = vectors[at];
        float values[kSize];
#pragma unroll
        for (int i = 0; i < kSize; ++i) values[i] = load(loaded.values[i]);
        running.add(values, [&](int i) { return span.vectors_begin + at * kSize + i; });
    }
    if (span.tail_begin + threadIdx.x < end) add_one(span.tail_begin + threadIdx.x);

    const float top_of_first = MaxReduce(max_storage).Reduce(running.max, Maximum{});
    if (threadIdx.x == 0) block_max = top_of_first;
    __syncthreads();
    const float top = block_max;
    const Sums<kDetails> total = SumReduce(sum_storage).Reduce(rescaled(running, top), Add{});
    if (threadIdx.x != 0) return;
    float* record = stats + (part * logits.rows + row) * (kDetails ? kDetailsWidth : kStatsWidth);
    const int64_t target = targets[row] - logits.vocab_offset;
    record[0] = top;
    record[1] = static_cast<float>(static_cast<double>(total.others) + (total.equal - 1));
    record[2] = target >= begin && target < end ? load(z[target]) : -INFINITY;
    if constexpr (kDetails) {
        record[3] = total.weighted;
        record[4] = total.sum;
        // Where all is -inf no column equals the (absent) maximum.
        record[5] = static_cast<float>(logits.vocab_offset + (total.argmax == INT64_MAX ? begin : total.argmax));
    } else {
        record[3] = 0.0f;
    }
}

}  // namespace
}  // namespace ecm
