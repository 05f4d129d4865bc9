// The CUDA variant: launches of the kernels in cuda_*.cuh. `stats` reads each logit once and `backward` reads and writes it once: both run at the speed of
// memory, with 16-byte loads, several of them in flight in each thread. Nothing uses atomics, and how rows are cut depends
// on their sizes alone, so the same input gives the same bits.
#include <cub/block/block_reduce.cuh>
#include <cuda_runtime.h>

#include <algorithm>

#include "cuda_backward.cuh"
#include "cuda_finalize.cuh"
#include "cuda_stats.cuh"
#include "launch.cuh"
#include "log_probs.h"

namespace ecm {
namespace {

constexpr int64_t kBlocks = 1056;       // enough for eight on each of 132 multiprocessors
constexpr int64_t kPartColumns = 4096;  // columns of one part at least

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
    launch("finalize", kernel, groups, queue, job, pairs ? *job.preference : PreferenceLoss{}, pairs);
}

}  // namespace ecm
