// The CUDA variant of experts.h: orders are counted on the device, rows move at the speed of memory.
#include <cub/block/block_reduce.cuh>
#include <cuda_runtime.h>

#include "cuda_experts.cuh"
#include "launch.cuh"

namespace ecm {

void expert_order_cuda(const Routing& routing, const ExpertOrder& order, int32_t* workspace, const Queue& queue) {
    const int64_t blocks = ceil_divide(routing.tokens, kTokensPerBlock);
    if (blocks > 0) launch("count_choices", count_choices_kernel, blocks, queue, routing, workspace);
    launch("scan_choices", scan_choices_kernel, 1, queue, routing.experts, blocks, workspace, order.counts);
    if (blocks > 0) launch("place_choices", place_choices_kernel, blocks, queue, routing, order, blocks, workspace);
}

void chunk_order_cuda(const ChunkOrder& order, const Queue& queue) {
    if (order.rows > 0) launch("chunk_order", chunk_order_kernel, order.sources * order.experts, queue, order);
}

namespace {

template <typename T>
void sum_rows_of(const RowSum& job, const Queue& queue) {
    constexpr int kSize = Vector<T>::kSize;
    const bool whole = job.columns % kSize == 0 && is_aligned<T, kSize>(job.from) && is_aligned<T, kSize>(job.to);
    const int64_t items = job.rows * (whole ? job.columns / kSize : job.columns);
    if (items > 0) launch("sum_rows", whole ? sum_rows_kernel<T, kSize> : sum_rows_kernel<T, 1>, ceil_divide(items, kThreads), queue, job);
}

}  // namespace

void sum_rows_cuda(const RowSum& job, const Queue& queue) {
    if (job.dtype == kFloat32) sum_rows_of<float>(job, queue);
    else if (job.dtype == kBFloat16) sum_rows_of<BFloat16>(job, queue);
    else sum_rows_of<Float16>(job, queue);
}

}  // namespace ecm
