// The table of elementwise loops over one row that each instruction set provides, indexed by DType. See elementwise.h.
#pragma once

#include <cstdint>

#include "softmax_math.h"

namespace ecm {

struct ElementwiseRows {
    // silu(gate) up weight. gate_up [2 columns]: gate first.
    void (*swiglu[3])(const void* gate_up, float weight, void* out, int64_t columns);
    // Its gradients -> that of the weight.
    float (*swiglu_gradient[3])(const void* gate_up, float weight, const void* grad, void* grad_gate_up, int64_t columns);
    // One head of 2 pairs channels, by `sign` times the angle.
    void (*rotate[3])(const void* from, void* to, const float* cos, const float* sin, float sign, int64_t pairs);
    // -> 1 / rms(x).
    float (*rms_norm[3])(const void* from, const void* weight, void* out, float epsilon, int64_t columns);
    // That of the weight is added to grad_weight [columns].
    void (*rms_norm_gradient[3])(const void* from, const void* weight, float inverse_rms, const void* grad,
                                 void* grad_from, float* grad_weight, int64_t columns);
};

extern const ElementwiseRows elementwise_rows_baseline;
#ifdef ECM_HAVE_AVX2
extern const ElementwiseRows elementwise_rows_avx2;
#endif
#ifdef ECM_HAVE_AVX512
extern const ElementwiseRows elementwise_rows_avx512;
#endif

}  // namespace ecm
