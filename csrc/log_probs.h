// The CPU variant's entry points: raw pointers and sizes, no tensor library.
#pragma once

#include <cstdint>

#include "softmax_math.h"

namespace ecm {

constexpr int kStatsWidth = 4;  // Partial's max and rest, the target's logit, Partial's weighted

// A matrix of logits, row-major. Columns from valid_cols on are padding and never enter the softmax.
struct Logits {
    const void* data;
    int dtype;           // DType
    int64_t rows;
    int64_t row_stride;  // in elements
    int64_t cols;
    int64_t valid_cols;
    int64_t vocab_offset;  // the vocabulary id of column 0 (shards); a target elsewhere belongs to another shard
};

// stats: float [rows, 4]. The target's logit is -inf where another shard holds it; column 3 is 0 unless entropy is asked.
void stats_cpu(const Logits& logits, const int64_t* targets, float* stats, bool entropy, int threads);

// grad [rows, cols] (may be the logits themselves) = row_grad * (1[col == target] - exp(z - max - log_sum)), rounded once.
// lse: float [rows, 2], (max, log of the sum over all shards). Padding columns become 0, and so do rows with row_grad 0.
void backward_cpu(const Logits& logits, const int64_t* targets, const float* lse, const float* row_grad, void* grad,
                  int64_t grad_row_stride, int threads);

const char* instruction_set_cpu();  // the one that dispatch chose on this machine
const char* instruction_sets_built_cpu();
bool has_openmp();

}  // namespace ecm
