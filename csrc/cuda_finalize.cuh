// From the statistics of all parts to log-probs, sums over sequences and preference losses, in one launch.
#pragma once

#include <cub/block/block_reduce.cuh>

#include "cuda_vectors.cuh"
#include "log_probs.h"

namespace ecm {
namespace {

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
__global__ void __launch_bounds__(kThreads, 1) finalize_kernel(Finalize job, PreferenceLoss preference, bool pairs) {
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

}  // namespace
}  // namespace ecm
