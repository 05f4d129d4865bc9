// Rotary embedding of queries and keys in one launch; backward is the same rotation by the opposite angle.
#pragma once

#include "cuda_vectors.cuh"
#include "elementwise.h"

namespace ecm {
namespace {

// One thread: kSize pairs of one head.
template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads) rotate_kernel(Rotation job) {
    using Piece = Pack<T, kSize>;
    const int64_t pieces = job.pairs / kSize, heads = job.query.heads + job.key.heads;
    const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (item >= job.tokens * heads * pieces) return;
    const int64_t at = item % pieces, token = item / pieces / heads;
    int64_t head = item / pieces % heads;
    const bool of_query = head < job.query.heads;
    const Heads& tensor = of_query ? job.query : job.key;
    if (!of_query) head -= job.query.heads;
    const T* from = static_cast<const T*>(tensor.from) + token * tensor.token_stride + head * tensor.head_stride;
    T* to = static_cast<T*>(tensor.to) + (token * tensor.heads + head) * 2 * job.pairs;
    Piece a = reinterpret_cast<const Piece*>(from)[at];
    Piece b = reinterpret_cast<const Piece*>(from + job.pairs)[at];
    const float* cos = job.cos + token * job.pairs + at * kSize;
    const float* sin = job.sin + token * job.pairs + at * kSize;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
        const float first = load(a.values[i]), second = load(b.values[i]), c = cos[i], s = job.inverse ? -sin[i] : sin[i];
        store(a.values[i], first * c - second * s);
        store(b.values[i], second * c + first * s);
    }
    reinterpret_cast<Piece*>(to)[at] = a;
    reinterpret_cast<Piece*>(to + job.pairs)[at] = b;
}

}  // namespace
}  // namespace ecm
