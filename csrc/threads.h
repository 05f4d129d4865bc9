// How many threads share work on the CPU, and what they step over.
#pragma once

#include <algorithm>
#include <cstdint>

#include "softmax_math.h"

namespace ecm {

constexpr int64_t kSerialElements = 1 << 14;  // below this, waking threads costs more than it saves

inline int useful_threads(int threads, int64_t units, int64_t elements) {
    if (elements < kSerialElements) return 1;
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, units)));
}

inline int64_t element_size(int dtype) { return dtype == kFloat32 ? 4 : 2; }

}  // namespace ecm
