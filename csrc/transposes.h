// Copies of matrices whose rows are columns in memory.
#pragma once

#include <cstdint>

namespace ecm {

// A matrix [rows, cols] of items of 1, 2, 4 or 8 bytes; strides in items, those of rows. `to` is [cols, rows].
struct Transpose {
    const void* from;
    int64_t from_stride;
    void* to;
    int64_t to_stride;
    int64_t rows, cols;
    int item_size;
};

void transpose_cpu(const Transpose& job);

}  // namespace ecm
