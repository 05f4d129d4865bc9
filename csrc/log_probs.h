// The kernels' entry points: raw pointers and sizes, no tensor library. Each exists for the CPU and for CUDA.
#pragma once

#include <cstdint>

#include "finalize_math.h"
#include "queue.h"

namespace ecm {

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

// What the backward pass reads of each row: fp32 [rows], [rows], [rows, 2] (max, log of the sum), [rows].
struct RowGradient {
    const int64_t* targets;
    const float* log_probs;
    const float* lse;
    const float* row_grad;
};

// Statistics of all parts -> log-probs, sums over sequences, losses of pairs.
struct Finalize {
    const float* stats;  // [parts, rows, width]
    int64_t parts;
    int64_t rows;
    int width;                 // kStatsWidth or kDetailsWidth
    int64_t vocab_size;        // over all parts
    const int64_t* bounds;     // [sequences + 1], the sequences' first rows and the end; null: none
    int64_t sequences;
    const PreferenceLoss* preference;  // null: none. Else sequences 2 i and 2 i + 1 are the answers of pair i
    const float* reference;        // [sequences], null: 0 (reference-free)
    const float* margin;           // [sequences / 2], null: 0
    float* log_probs;              // [rows]
    float* lse;                    // [rows, 2]
    float* details;                // [rows, 3]: entropy, mean logit, argmax; only with kDetailsWidth
    float* sums;                   // [sequences]
    float* loss;                   // [sequences / 2]
    float* rewards;                // [sequences / 2, 2]: of the chosen and of the rejected answer
    float* row_scale;              // [rows]: derivative of the pair's loss by the row's log-prob
};

// stats: float [parts, rows, width]; columns 3 to 5 are computed with kDetailsWidth only. Here parts must be 1.
void stats_cpu(const Logits& logits, const int64_t* targets, float* stats, int width, int64_t parts, int threads);

// grad [rows, cols] (may be the logits themselves) = row_grad * (1[col == target] - exp(z - max - log_sum)), rounded once.
// Padding columns become 0, and so do rows with row_grad 0.
void backward_cpu(const Logits& logits, const RowGradient& rows, void* grad, int64_t grad_row_stride, int threads);

void finalize_cpu(const Finalize& job, int threads);

const char* instruction_set_cpu();  // the one that dispatch chose on this machine
const char* instruction_sets_built_cpu();
bool has_openmp();

#ifdef ECM_WITH_CUDA
// The same on a CUDA device: pointers to its memory (Finalize::preference excepted) and one of its streams. These only
// launch; they throw std::runtime_error when that fails.
int64_t stats_parts_cuda(int64_t rows, int64_t cols);  // how many parts to cut rows into
void stats_cuda(const Logits& logits, const int64_t* targets, float* stats, int width, int64_t parts, const Queue& queue);
void backward_cuda(const Logits& logits, const RowGradient& rows, void* grad, int64_t grad_row_stride, const Queue& queue);
void finalize_cuda(const Finalize& job, const Queue& queue);
#endif

}  // namespace ecm
