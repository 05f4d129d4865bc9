// The table of inner loops that each instruction set provides, indexed by DType.
#pragma once

#include <cstdint>

#include "softmax_math.h"

namespace ecm {

struct RowKernels {
    // Softmax sums over the columns [begin, end) of one row; weighted, sum and argmax only with details.
    Partial (*partial[3])(const void* row, int64_t begin, int64_t end, bool details);
    // to[i] = -scale * exp(from[i] - max - log_sum) for i in [begin, end); from and to may be the same row.
    void (*gradient[3])(const void* from, void* to, int64_t begin, int64_t end, float max, float log_sum, float scale);
};

extern const RowKernels row_kernels_baseline;
#ifdef ECM_HAVE_AVX2
extern const RowKernels row_kernels_avx2;
#endif
#ifdef ECM_HAVE_AVX512
extern const RowKernels row_kernels_avx512;
#endif

}  // namespace ecm
