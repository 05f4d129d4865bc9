// What the CUDA kernels share: the size of their blocks, 16-byte loads, and 2^x.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "softmax_math.h"

namespace ecm {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;  // 16-byte loads in flight in a thread
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

// kSize elements that are loaded and stored in one piece.
template <typename T, int kSize>
struct alignas(kSize * sizeof(T)) Pack {
    T values[kSize];
};

template <typename T, int kSize>
bool is_aligned(const void* address) {
    return reinterpret_cast<uintptr_t>(address) % (kSize * sizeof(T)) == 0;
}

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

}  // namespace
}  // namespace ecm
