// Launches of the kernels in cuda_swiglu.cuh, cuda_rotate.cuh and cuda_norm.cuh: whole vectors where sizes and addresses
// allow it, single elements elsewhere.
#include <cub/block/block_reduce.cuh>
#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>

#include "cuda_norm.cuh"
#include "cuda_rotate.cuh"
#include "cuda_swiglu.cuh"
#include "launch.cuh"

namespace ecm {
namespace {

constexpr int64_t kNormBlocks = 528;          // four on each of 132 multiprocessors
constexpr int64_t kWarpColumns = kMostNormColumns / (kThreads / kWarp);  // rows up to this length are a warp's

// function(T{}) with the type that a DType stands for.
template <typename Function>
void with_type(int dtype, Function function) {
    if (dtype == kFloat32) function(float{});
    else if (dtype == kBFloat16) function(BFloat16{});
    else function(Float16{});
}

template <typename T>
constexpr int kWhole = Vector<T>::kSize;

template <typename T, typename... Pointers>
bool all_aligned(Pointers... pointers) {
    return (is_aligned<T, kWhole<T>>(pointers) && ...);
}

}  // namespace

void swiglu_cuda(const Swiglu& job, void* out, const Queue& queue) {
    if (job.rows * job.columns == 0) return;
    with_type(job.dtype, [&](auto type) {
        using T = decltype(type);
        const bool whole = job.columns % kWhole<T> == 0 && all_aligned<T>(job.gate_up, out);
        const int64_t items = job.rows * job.columns / (whole ? kWhole<T> : 1);
        launch("swiglu", whole ? swiglu_kernel<T, kWhole<T>> : swiglu_kernel<T, 1>, ceil_divide(items, kThreads), queue, job, out);
    });
}

void swiglu_backward_cuda(const Swiglu& job, const void* grad, void* grad_gate_up, float* grad_weights, const Queue& queue) {
    if (job.rows == 0) return;
    with_type(job.dtype, [&](auto type) {
        using T = decltype(type);
        const bool whole = job.columns % kWhole<T> == 0 && all_aligned<T>(job.gate_up, grad, grad_gate_up);
        launch("swiglu_backward", whole ? swiglu_backward_kernel<T, kWhole<T>> : swiglu_backward_kernel<T, 1>, job.rows, queue,
               job, grad, grad_gate_up, grad_weights);
    });
}

void rotate_cuda(const Rotation& job, const Queue& queue) {
    const int64_t pairs = job.tokens * (job.query.heads + job.key.heads) * job.pairs;
    if (pairs == 0) return;
    with_type(job.dtype, [&](auto type) {
        using T = decltype(type);
        const auto allows = [&](const Heads& tensor, int64_t size) {
            const auto begin = reinterpret_cast<uintptr_t>(tensor.from) | reinterpret_cast<uintptr_t>(tensor.to);
            return begin % (size * sizeof(T)) == 0 && tensor.token_stride % size == 0 && tensor.head_stride % size == 0;
        };
        // Heads of 72 channels have 36 pairs: pieces of four, not of eight.
        int64_t size = kWhole<T>;
        while (size > 1 && (job.pairs % size != 0 || !allows(job.query, size) || !allows(job.key, size))) size = size > 4 ? 4 : 1;
        const auto kernel = size == kWhole<T> ? rotate_kernel<T, kWhole<T>> : size == 4 ? rotate_kernel<T, 4> : rotate_kernel<T, 1>;
        launch("rotate", kernel, ceil_divide(pairs / size, kThreads), queue, job);
    });
}

namespace {

template <typename T>
bool whole_rows(const RmsNorm& job, bool others) {
    return job.columns % kWhole<T> == 0 && job.row_stride % kWhole<T> == 0 && others && all_aligned<T>(job.from, job.weight);
}

int64_t norm_rows_per_block(int64_t columns) { return columns <= kWarpColumns ? kThreads / kWarp : 1; }

}  // namespace

void rms_norm_cuda(const RmsNorm& job, double epsilon, void* out, float* inverse_rms, const Queue& queue) {
    if (job.columns > kMostNormColumns) throw std::invalid_argument("rms_norm: rows are too long");
    if (job.rows * job.columns == 0) return;
    with_type(job.dtype, [&](auto type) {
        using T = decltype(type);
        const bool whole = whole_rows<T>(job, all_aligned<T>(out));
        const auto of_warp = whole ? rms_norm_kernel<T, kWhole<T>, kWarp> : rms_norm_kernel<T, 1, kWarp>;
        const auto of_block = whole ? rms_norm_kernel<T, kWhole<T>, kThreads> : rms_norm_kernel<T, 1, kThreads>;
        launch("rms_norm", job.columns <= kWarpColumns ? of_warp : of_block,
               ceil_divide(job.rows, norm_rows_per_block(job.columns)), queue, job, static_cast<float>(epsilon), out, inverse_rms);
    });
}

int64_t rms_norm_parts_cuda(int64_t rows, int64_t columns) {
    return std::min(kNormBlocks, ceil_divide(rows, norm_rows_per_block(columns)));
}

void rms_norm_backward_cuda(const RmsNorm& job, const float* inverse_rms, const void* grad, void* grad_from,
                            float* grad_weight, int64_t parts, const Queue& queue) {
    if (parts == 0 || job.columns == 0) return;
    with_type(job.dtype, [&](auto type) {
        using T = decltype(type);
        const bool whole = whole_rows<T>(job, all_aligned<T>(grad, grad_from));
        const auto of_warp = whole ? rms_norm_backward_kernel<T, kWhole<T>, kWarp> : rms_norm_backward_kernel<T, 1, kWarp>;
        const auto of_block = whole ? rms_norm_backward_kernel<T, kWhole<T>, kThreads> : rms_norm_backward_kernel<T, 1, kThreads>;
        launch("rms_norm_backward", job.columns <= kWarpColumns ? of_warp : of_block, parts, queue, job, inverse_rms, grad,
               grad_from, grad_weight, parts);
    });
}

}  // namespace ecm
