// The CUDA variant. `stats` reads each logit once and `backward` reads and writes it once: both run at the speed of
// memory, with 16-byte loads, several of them in flight in each thread. Nothing uses atomics, and how rows are cut depends
// on their sizes alone, so the same input gives the same bits.
#include <cub/block/block_reduce.cuh>
#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "log_probs.h"

namespace ecm {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;                  // 16-byte loads in flight in a thread
constexpr int64_t kBlocks = 1056;           // enough for eight on each of 132 multiprocessors
constexpr int64_t kPartColumns = 4096;     // columns of one part at least
constexpr int64_t kGradientColumns = 16384;  // columns of one block of `backward`
constexpr float kLog2E = 1.44269504f;

// 2^x, by the special function unit on the device: within 2 ulp, 0 below the normal numbers, NaN stays NaN.
__host__ __device__ __forceinline__ float exp2_fast(float x) {
#ifdef __CUDA_ARCH__
    float value;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
#else
    return exp2f(x);
#endif
}

template <typename T>
struct alignas(16) Vector {
    static constexpr int kSize = 16 / sizeof(T);
    T values[kSize];
};

// The columns [begin, end) of a row as a head of single elements, whole 16-byte vectors, and a tail.
template <typename T>
struct Span {
    int64_t vectors_begin, vectors, tail_begin;

    __device__ __forceinline__ Span(const T* row, int64_t begin, int64_t end) {
        constexpr int64_t size = Vector<T>::kSize;
        const int64_t past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(row + begin) % 16 / sizeof(T));
        const int64_t head = (size - past) % size;
        vectors_begin = begin + head < end ? begin + head : end;
        vectors = (end - vectors_begin) / size;
        tail_begin = vectors_begin + vectors * size;
    }
};

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

struct TwoSums {
    double chosen, rejected;
};
struct AddBoth {
    __device__ __forceinline__ TwoSums operator()(const TwoSums& a, const TwoSums& b) const {
        return {a.chosen + b.chosen, a.rejected + b.rejected};
    }
};

// One block: one pair, or one sequence, or (without bounds) kThreads rows.
template <bool kDetails>
__global__ void __launch_bounds__(kThreads, 1) finalize_kernel(Finalize job, Preference preference, bool pairs) {
    constexpr int kWidth = kDetails ? kDetailsWidth : kStatsWidth;
    using SumReduce = cub::BlockReduce<TwoSums, kThreads>;
    __shared__ typename SumReduce::TempStorage storage;
    __shared__ float scales[2];
    const int64_t group = blockIdx.x;
    const int64_t first = pairs ? 2 * group : group;
    const bool tiles = job.sequences == 0;
    const int64_t tile_end = (group + 1) * kThreads < job.rows ? (group + 1) * kThreads : job.rows;
    const int64_t begin = tiles ? group * kThreads : job.bounds[first];
    const int64_t middle = tiles ? tile_end : job.bounds[first + 1];
    const int64_t end = pairs ? job.bounds[first + 2] : middle;

    TwoSums sums{0.0, 0.0};
    for (int64_t row = begin + threadIdx.x; row < end; row += kThreads) {
        const Token token =
            token_of<kDetails>(job.stats + row * kWidth, job.parts, job.rows * kWidth, job.vocab_size);
        job.log_probs[row] = token.log_prob;
        job.lse[2 * row] = token.max;
        job.lse[2 * row + 1] = token.log_sum;
        if (kDetails) {
            job.details[3 * row] = token.entropy;
            job.details[3 * row + 1] = token.mean_logit;
            job.details[3 * row + 2] = token.argmax;
        }
        (row < middle ? sums.chosen : sums.rejected) += token.log_prob;
    }
    if (tiles) return;
    sums = SumReduce(storage).Reduce(sums, AddBoth{});
    if (threadIdx.x == 0) {
        job.sums[first] = static_cast<float>(sums.chosen);
        if (pairs) {
            job.sums[first + 1] = static_cast<float>(sums.rejected);
            const Pair found = pair_of(preference, sums.chosen, sums.rejected, job.reference ? job.reference[first] : 0.0,
                                       job.reference ? job.reference[first + 1] : 0.0,
                                       job.margin ? job.margin[group] : 0.0, middle - begin, end - middle);
            job.loss[group] = static_cast<float>(found.loss);
            job.rewards[2 * group] = static_cast<float>(found.chosen_reward);
            job.rewards[2 * group + 1] = static_cast<float>(found.rejected_reward);
            scales[0] = static_cast<float>(found.chosen_scale);
            scales[1] = static_cast<float>(found.rejected_scale);
        }
    }
    if (!pairs) return;
    __syncthreads();
    for (int64_t row = begin + threadIdx.x; row < end; row += kThreads) job.row_scale[row] = scales[row < middle ? 0 : 1];
}

void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // it is reported here, not by the next call
    std::string message = std::string("editcaption_mega: the CUDA kernel `") + what + "` could not run: " +
                          cudaGetErrorString(status);
    if (status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver)
        message += "; use tensors on the CPU, or a machine with an NVIDIA GPU and its driver";
    if (status == cudaErrorNoKernelImageForDevice)
        message += "; build again with this GPU's architecture in EDITCAPTION_CUDA_ARCHS";
    throw std::runtime_error(message);
}

template <typename... Parameters, typename... Arguments>
void launch(const char* what, void (*kernel)(Parameters...), int64_t blocks, const Queue& queue, Arguments... arguments) {
    if (blocks > INT32_MAX) throw std::runtime_error(std::string("editcaption_mega: `") + what + "` has too many rows for one launch");
    check(cudaSetDevice(queue.device), what);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(kThreads);
    config.stream = static_cast<cudaStream_t>(queue.stream);
    check(cudaLaunchKernelEx(&config, kernel, arguments...), what);
}

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

int64_t stats_parts_cuda(int64_t rows, int64_t cols) {
    if (rows == 0) return 1;
    const int64_t useful = std::max<int64_t>(1, cols / kPartColumns);
    return std::max<int64_t>(1, std::min(useful, ceil_divide(kBlocks, rows)));
}

void stats_cuda(const Logits& logits, const int64_t* targets, float* stats, int width, int64_t parts, const Queue& queue) {
    if (logits.rows == 0) return;
    const auto kernel = [&] {
        const bool details = width == kDetailsWidth;
        if (logits.dtype == kFloat32) return details ? stats_kernel<float, true> : stats_kernel<float, false>;
        if (logits.dtype == kBFloat16) return details ? stats_kernel<BFloat16, true> : stats_kernel<BFloat16, false>;
        return details ? stats_kernel<Float16, true> : stats_kernel<Float16, false>;
    }();
    const int64_t columns = ceil_divide(ceil_divide(logits.valid_cols, parts), 64) * 64;  // parts start on whole vectors
    launch("stats", kernel, logits.rows * parts, queue, logits, targets, stats, parts, columns);
}

void backward_cuda(const Logits& logits, const RowGradient& rows, void* grad, int64_t grad_row_stride, const Queue& queue) {
    const int64_t chunks = ceil_divide(logits.cols, kGradientColumns);
    if (logits.rows * chunks == 0) return;
    const auto kernel = logits.dtype == kFloat32    ? backward_kernel<float>
                        : logits.dtype == kBFloat16 ? backward_kernel<BFloat16>
                                                    : backward_kernel<Float16>;
    launch("backward", kernel, logits.rows * chunks, queue, logits, rows, grad, grad_row_stride, chunks);
}

void finalize_cuda(const Finalize& job, const Queue& queue) {
    const bool pairs = job.preference != nullptr;
    const int64_t groups = job.sequences == 0 ? ceil_divide(job.rows, kThreads) : pairs ? job.sequences / 2 : job.sequences;
    if (groups == 0) return;
    const auto kernel = job.width == kDetailsWidth ? finalize_kernel<true> : finalize_kernel<false>;
    launch("finalize", kernel, groups, queue, job, pairs ? *job.preference : Preference{}, pairs);
}

}  // namespace ecm
