// Elementwise parts of a layer, each one kernel forward and one backward. Raw pointers and sizes, no tensor library. Inside
// everything is fp32, and results are rounded once.
#pragma once

#include <cstdint>

#include "queue.h"
#include "softmax_math.h"

namespace ecm {

// out = silu(gate) up weight. gate_up [rows, 2 columns]: gate first; weights: fp32 [rows], null: 1.
struct Swiglu {
    const void* gate_up;
    const float* weights;
    int dtype;  // DType
    int64_t rows;
    int64_t columns;
};

// x [tokens, heads, 2 pairs] with the last dimension contiguous, rotated into a contiguous tensor.
struct Heads {
    const void* from;
    void* to;
    int64_t heads;
    int64_t token_stride;  // of `from`, in elements
    int64_t head_stride;
};

// (a, b) -> (a cos - b sin, b cos + a sin), a and b being the halves of a head. cos, sin: fp32 [tokens, pairs].
struct Rotation {
    Heads query;
    Heads key;
    const float* cos;
    const float* sin;
    int dtype;
    int64_t tokens;
    int64_t pairs;
    bool inverse;  // by the opposite angle, which is the gradient
};

// y = x / rms(x) weight, over the columns of each row. weight: of x's dtype.
struct RmsNorm {
    const void* from;
    const void* weight;
    int dtype;
    int64_t rows;
    int64_t columns;
    int64_t row_stride;  // of `from`, in elements
};

void swiglu_cpu(const Swiglu& job, void* out, int threads);
// grad [rows, columns] -> grad_gate_up [rows, 2 columns] and, unless null, grad_weights fp32 [rows].
void swiglu_backward_cpu(const Swiglu& job, const void* grad, void* grad_gate_up, float* grad_weights, int threads);
void rotate_cpu(const Rotation& job, int threads);
// out [rows, columns]; inverse_rms fp32 [rows].
void rms_norm_cpu(const RmsNorm& job, double epsilon, void* out, float* inverse_rms, int threads);
int64_t rms_norm_parts_cpu(int64_t rows, int64_t columns);
// grad [rows, columns] -> grad_from [rows, columns], and of the weight's gradient fp32 [parts, columns], to be added up.
void rms_norm_backward_cpu(const RmsNorm& job, const float* inverse_rms, const void* grad, void* grad_from,
                           float* grad_weight, int64_t parts, int threads);

#ifdef ECM_WITH_CUDA
// The same, launched on a stream.
constexpr int64_t kMostNormColumns = 8192;

void swiglu_cuda(const Swiglu& job, void* out, const Queue& queue);
void swiglu_backward_cuda(const Swiglu& job, const void* grad, void* grad_gate_up, float* grad_weights, const Queue& queue);
void rotate_cuda(const Rotation& job, const Queue& queue);
// std::invalid_argument: more than kMostNormColumns.
void rms_norm_cuda(const RmsNorm& job, double epsilon, void* out, float* inverse_rms, const Queue& queue);
int64_t rms_norm_parts_cuda(int64_t rows, int64_t columns);
void rms_norm_backward_cuda(const RmsNorm& job, const float* inverse_rms, const void* grad, void* grad_from,
                            float* grad_weight, int64_t parts, const Queue& queue);
#endif

}  // namespace ecm
