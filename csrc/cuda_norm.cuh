// RMSNorm: a row belongs to kLanes threads, a warp where rows are short (one head), a block where they are long. Its
// second read comes from the first-level cache.
#pragma once

#include "cuda_vectors.cuh"
#include "elementwise.h"

namespace ecm {
namespace {

constexpr int kWarp = 32;

// The sum over the kLanes threads of a row, for each of them. Every thread of the block calls it.
template <int kLanes>
__device__ __forceinline__ float sum_over_lanes(float value) {
#pragma unroll
    for (int apart = kWarp / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(0xffffffffu, value, apart);
    if (kLanes == kWarp) return value;
    __shared__ float of_warps[kThreads / kWarp];
    __syncthreads();  // the last call's sums have been read by now
    if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = value;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kThreads / kWarp; ++warp) total += of_warps[warp];
    return total;
}

template <typename T, int kSize, int kLanes>
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(RmsNorm job, float epsilon, void* out, float* inverse_rms) {
    using Piece = Pack<T, kSize>;
    constexpr int kRows = kThreads / kLanes;
    const int lane = threadIdx.x % kLanes;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / kLanes;
    const int64_t pieces = row < job.rows ? job.columns / kSize : 0;  // threads beyond the last row come along
    const Piece* from = reinterpret_cast<const Piece*>(static_cast<const T*>(job.from) + row * job.row_stride);
    const Piece* weights = static_cast<const Piece*>(job.weight);
    float squares = 0.0f;
    for (int64_t at = lane; at < pieces; at += kLanes) {
        const Piece x = from[at];
#pragma unroll
        for (int i = 0; i < kSize; ++i) squares += load(x.values[i]) * load(x.values[i]);
    }
    const float scale = 1.0f / sqrtf(sum_over_lanes<kLanes>(squares) / static_cast<float>(job.columns) + epsilon);
    Piece* to = static_cast<Piece*>(out) + row * pieces;
    for (int64_t at = lane; at < pieces; at += kLanes) {
        Piece x = from[at];
        const Piece weight = weights[at];
#pragma unroll
        for (int i = 0; i < kSize; ++i) {
            store(x.values[i], load(x.values[i]) * scale);  // rounded before the weight, as in transformers
            store(x.values[i], load(x.values[i]) * load(weight.values[i]));
        }
        to[at] = x;
    }
    if (lane == 0 && row < job.rows) inverse_rms[row] = scale;
}

// dx = r (g w - x r mean(g w x r)), dw = sum over rows of g x r, with r the row's inverse rms. A block takes every
// `parts`-th group of rows and writes the sum over them, in the order of rows.
template <typename T, int kSize, int kLanes>
__global__ void __launch_bounds__(kThreads) rms_norm_backward_kernel(RmsNorm job, const float* inverse_rms, const void* grad,
                                                                     void* grad_from, float* grad_weight, int64_t parts) {
    using Piece = Pack<T, kSize>;
    constexpr int kRows = kThreads / kLanes;
    constexpr int kShare = kMostNormColumns / kRows;  // columns of each row that is at work
    __shared__ float sums[kMostNormColumns];
    const int lane = threadIdx.x % kLanes;
    float* own = sums + threadIdx.x / kLanes * kShare;
    // Column (p kLanes + lane) kSize + i of a row lies at (p kSize + i) kLanes + lane: neighbors in different banks.
    const int64_t pieces = job.columns / kSize;
    for (int64_t at = lane; at < pieces; at += kLanes)
#pragma unroll
        for (int i = 0; i < kSize; ++i) own[(at / kLanes * kSize + i) * kLanes + lane] = 0.0f;
    const Piece* weights = static_cast<const Piece*>(job.weight);
    for (int64_t first = static_cast<int64_t>(blockIdx.x) * kRows; first < job.rows; first += parts * kRows) {
        const int64_t row = first + threadIdx.x / kLanes;
        const int64_t count = row < job.rows ? pieces : 0;
        const Piece* from = reinterpret_cast<const Piece*>(static_cast<const T*>(job.from) + row * job.row_stride);
        const Piece* grads = static_cast<const Piece*>(grad) + row * pieces;
        const float scale = row < job.rows ? inverse_rms[row] : 0.0f;
        float products = 0.0f;
        for (int64_t at = lane; at < count; at += kLanes) {
            const Piece x = from[at], g = grads[at], weight = weights[at];
#pragma unroll
            for (int i = 0; i < kSize; ++i) {
                const float product = load(g.values[i]) * (load(x.values[i]) * scale);
                own[(at / kLanes * kSize + i) * kLanes + lane] += product;
                products += product * load(weight.values[i]);
            }
        }
        const float mean = sum_over_lanes<kLanes>(products) / static_cast<float>(job.columns);
        Piece* to = static_cast<Piece*>(grad_from) + row * pieces;
        for (int64_t at = lane; at < count; at += kLanes) {
            const Piece x = from[at], weight = weights[at];
            Piece g = grads[at];
#pragma unroll
            for (int i = 0; i < kSize; ++i) {
                const float normal = load(x.values[i]) * scale;
                store(g.values[i], scale * (load(g.values[i]) * load(weight.values[i]) - normal * mean));
            }
            to[at] = g;
        }
    }
    __syncthreads();
    for (int64_t column = threadIdx.x; column < job.columns; column += kThreads) {
        const int64_t piece = column / kSize;
        const int64_t place = (piece / kLanes * kSize + column % kSize) * kLanes + piece % kLanes;
        float total = 0.0f;
        for (int row = 0; row < kRows; ++row) total += sums[row * kShare + place];
        grad_weight[blockIdx.x * job.columns + column] = total;
    }
}

}  // namespace
}  // namespace ecm
