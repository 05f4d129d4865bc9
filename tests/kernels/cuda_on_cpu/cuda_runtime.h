// Enough of CUDA's runtime to run csrc/*.cu on a CPU: every thread of a block is a thread of the processor and
// __syncthreads is a barrier, so the tests execute the kernels' own source, and sanitizers see its races. Blocks follow
// one another, which makes a static variable the block's shared memory.
#pragma once

#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
    unsigned x, y, z;
    explicit dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline thread_local dim3 threadIdx, blockIdx;

namespace emulation {
inline std::unique_ptr<std::barrier<>> everyone;
}  // namespace emulation

inline void __syncthreads() { emulation::everyone->arrive_and_wait(); }  // threads that have left the kernel dropped out

// The value of the thread whose number differs in these bits. Every thread of the block takes part, as in all kernels here.
template <typename T>
T __shfl_xor_sync(unsigned, T value, int bits) {
    static T values[1024];
    values[threadIdx.x] = value;
    __syncthreads();
    const T other = values[threadIdx.x ^ bits];
    __syncthreads();
    return other;
}

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorNoDevice, cudaErrorInsufficientDriver, cudaErrorNoKernelImageForDevice };
inline const char* cudaGetErrorString(cudaError_t) { return "emulated"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments... arguments) {
    const unsigned count = config->blockDim.x;
    for (unsigned block = 0; block < config->gridDim.x; ++block) {
        emulation::everyone = std::make_unique<std::barrier<>>(count);
        std::vector<std::thread> threads;
        for (unsigned thread = 0; thread < count; ++thread)
            threads.emplace_back([&, thread] {
                threadIdx = dim3(thread, 0, 0);
                blockIdx = dim3(block, 0, 0);
                kernel(static_cast<Parameters>(arguments)...);
                emulation::everyone->arrive_and_drop();
            });
        for (std::thread& thread : threads) thread.join();
    }
    return cudaSuccess;
}
