// The kernels of experts.cu. Where a row goes is counted, never claimed: there are no atomics.
#pragma once

#include <cub/block/block_reduce.cuh>

#include "cuda_vectors.cuh"
#include "experts.h"

namespace ecm {
namespace {

// One block: how many of its tokens have chosen each expert -> counts [blocks, experts].
__global__ void __launch_bounds__(kThreads) count_choices_kernel(Routing routing, int32_t* counts) {
    const int64_t begin = blockIdx.x * kTokensPerBlock;
    const int64_t end = begin + kTokensPerBlock < routing.tokens ? begin + kTokensPerBlock : routing.tokens;
    for (int64_t expert = threadIdx.x; expert < routing.experts; expert += kThreads) {
        int32_t count = 0;
        for (int64_t token = begin; token < end; ++token) count += routing.chosen[token * routing.experts + expert];
        counts[blockIdx.x * routing.experts + expert] = count;
    }
}

// One block in all: counts [blocks, experts] -> within each expert the rows of earlier blocks, and behind them in row
// `blocks` each expert's first row.
__global__ void __launch_bounds__(kThreads) scan_choices_kernel(int64_t experts, int64_t blocks, int32_t* counts, int64_t* totals) {
    for (int64_t expert = threadIdx.x; expert < experts; expert += kThreads) {
        int32_t total = 0;
        for (int64_t block = 0; block < blocks; ++block) {
            const int32_t count = counts[block * experts + expert];
            counts[block * experts + expert] = total;
            total += count;
        }
        totals[expert] = total;
    }
    __syncthreads();
    for (int64_t expert = threadIdx.x; expert < experts; expert += kThreads) {
        int64_t first = 0;
        for (int64_t before = 0; before < expert; ++before) first += totals[before];
        counts[blocks * experts + expert] = static_cast<int32_t>(first);
    }
}

// One block: the rows of its tokens. counts as the scan has left them.
__global__ void __launch_bounds__(kThreads) place_choices_kernel(Routing routing, ExpertOrder order, int64_t blocks, const int32_t* counts) {
    const int64_t begin = blockIdx.x * kTokensPerBlock;
    const int64_t end = begin + kTokensPerBlock < routing.tokens ? begin + kTokensPerBlock : routing.tokens;
    const int64_t rows = routing.tokens * routing.top_k;
    for (int64_t expert = threadIdx.x; expert < routing.experts; expert += kThreads) {
        int32_t row = counts[blocks * routing.experts + expert] + counts[blockIdx.x * routing.experts + expert];
#pragma unroll 1  // unrolled, it spills registers on sm_100
        for (int64_t token = begin; token < end; ++token) {
            const int64_t choice = token * routing.experts + expert;
            const bool here = routing.chosen[choice] != 0;
            order.row_of_choice[choice] = here ? row : -1;
            if (!here) continue;
            if (row < rows) {  // a token with too many experts must not write elsewhere
                order.token_of_row[row] = static_cast<int32_t>(token);
                order.choice_of_row[row] = static_cast<int32_t>(choice);
            }
            ++row;
        }
    }
    __syncthreads();  // the block's rows are written by now
    for (int64_t token = begin + threadIdx.x; token < end; token += kThreads) {
        int64_t count = 0;
        for (int64_t expert = 0; expert < routing.experts; ++expert) {
            const int32_t row = order.row_of_choice[token * routing.experts + expert];
            if (row >= 0 && count < routing.top_k) order.rows_of_token[token * routing.top_k + count++] = row;
        }
        for (; count < routing.top_k; ++count) order.rows_of_token[token * routing.top_k + count] = -1;
    }
}

struct Starts {
    int64_t before, after;
};
struct AddStarts {
    __device__ __forceinline__ Starts operator()(const Starts& a, const Starts& b) const {
        return {a.before + b.before, a.after + b.after};
    }
};

// One block: one chunk of rows from one source for one expert.
__global__ void __launch_bounds__(kThreads) chunk_order_kernel(ChunkOrder order) {
    using Reduce = cub::BlockReduce<Starts, kThreads>;
    __shared__ typename Reduce::TempStorage storage;
    __shared__ Starts shared;
    const int64_t own_source = blockIdx.x / order.experts, own_expert = blockIdx.x % order.experts;
    Starts starts{0, 0};
    for (int64_t chunk = threadIdx.x; chunk < order.sources * order.experts; chunk += kThreads) {
        const int64_t source = chunk / order.experts, expert = chunk % order.experts, count = order.counts[chunk];
        if (chunk < static_cast<int64_t>(blockIdx.x)) starts.before += count;
        if (expert < own_expert || (expert == own_expert && source < own_source)) starts.after += count;
    }
    starts = Reduce(storage).Reduce(starts, AddStarts{});
    if (threadIdx.x == 0) shared = starts;
    __syncthreads();
    const int64_t before = shared.before, after = shared.after;
    int64_t count = order.counts[blockIdx.x];
    const int64_t later = before > after ? before : after;
    if (count > order.rows - later) count = order.rows - later;  // counts of another row must not write elsewhere
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
        order.before[after + i] = static_cast<int32_t>(before + i);
        order.after[before + i] = static_cast<int32_t>(after + i);
    }
}

// One thread: kSize columns of one row, with the loads of four rows in flight.
template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads) sum_rows_kernel(RowSum job) {
    using Piece = Pack<T, kSize>;
    const int64_t pieces = job.columns / kSize;
    const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (item >= job.rows * pieces) return;
    const int64_t row = item / pieces, at = item % pieces;
    const Piece* from = static_cast<const Piece*>(job.from) + at;
    const int32_t* index = job.index + row * job.width;
    Piece* to = static_cast<Piece*>(job.to) + item;
    if (job.width == 1 && index[0] >= 0) {
        *to = from[index[0] * pieces];
        return;
    }
    float sums[kSize];
#pragma unroll
    for (int i = 0; i < kSize; ++i) sums[i] = 0.0f;
    for (int64_t first = 0; first < job.width; first += kUnroll) {
        Piece loaded[kUnroll];
        bool here[kUnroll];
#pragma unroll
        for (int k = 0; k < kUnroll; ++k) {
            const int32_t source = first + k < job.width ? index[first + k] : -1;
            here[k] = source >= 0;
            if (here[k]) loaded[k] = from[source * pieces];
        }
#pragma unroll
        for (int k = 0; k < kUnroll; ++k) {
            if (!here[k]) continue;
#pragma unroll
            for (int i = 0; i < kSize; ++i) sums[i] += load(loaded[k].values[i]);
        }
    }
    Piece sum;
#pragma unroll
    for (int i = 0; i < kSize; ++i) store(sum.values[i], sums[i]);
    *to = sum;
}

}  // namespace
}  // namespace ecm
