// How every CUDA kernel here is launched, and what a launch that fails says.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "cuda_vectors.cuh"
#include "queue.h"

namespace ecm {
namespace {

inline void check(cudaError_t status, const char* what) {
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

inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace
}  // namespace ecm
