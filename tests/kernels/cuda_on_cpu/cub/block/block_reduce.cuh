// cub::BlockReduce as the kernels use it: the result is the first thread's. Others get whatever they brought.
#pragma once

#include "cuda_runtime.h"

namespace cub {

template <typename T, int kThreads>
struct BlockReduce {
    struct TempStorage {
        alignas(T) unsigned char bytes[kThreads * sizeof(T)];
    };
    TempStorage& storage;

    explicit BlockReduce(TempStorage& storage) : storage(storage) {}

    template <typename Operation>
    T Reduce(T value, Operation operation) {
        T* values = reinterpret_cast<T*>(storage.bytes);
        values[threadIdx.x] = value;
        __syncthreads();
        if (threadIdx.x == 0)  // neighbours first, as CUB does within a warp: it rounds as little
            for (int apart = 1; apart < kThreads; apart *= 2)
                for (int thread = 0; thread + apart < kThreads; thread += 2 * apart)
                    values[thread] = operation(values[thread], values[thread + apart]);
        return threadIdx.x == 0 ? values[0] : value;
    }
};

}  // namespace cub
