// Where tokens go among experts, and how their rows get there and back: entry points for the CPU and for CUDA. Raw
// pointers and sizes, no tensor library. No row is added to by two threads, so the same input gives the same bits.
#pragma once

#include <cstdint>

#include "queue.h"
#include "softmax_math.h"

namespace ecm {

// Which experts each token has chosen: [tokens, experts] of 0 and 1, exactly top_k in each row.
struct Routing {
    const uint8_t* chosen;
    int64_t tokens;
    int64_t experts;
    int64_t top_k;
};

// Rows sorted by expert, those of one expert in the order of the tokens.
struct ExpertOrder {
    int32_t* token_of_row;   // [tokens top_k]
    int32_t* choice_of_row;  // [tokens top_k]: token * experts + expert
    int32_t* row_of_choice;  // [tokens, experts]: the row, -1 where it was not chosen
    int32_t* rows_of_token;  // [tokens, top_k], by expert
    int64_t* counts;         // [experts]
};

// Rows in chunks by (source, expert) -> rows by (expert, source); counts [sources, experts].
struct ChunkOrder {
    const int64_t* counts;
    int64_t sources;
    int64_t experts;
    int64_t rows;      // the sum of counts
    int32_t* before;   // [rows]: where each sorted row was
    int32_t* after;    // [rows]: where each row goes
};

// to[row] = sum of from[index[row, i]] over i, in that order, in fp32 and rounded once; an index of -1 adds nothing.
struct RowSum {
    const void* from;      // [.., columns]
    const int32_t* index;  // [rows, width]
    void* to;              // [rows, columns]
    int dtype;             // DType
    int64_t columns;
    int64_t rows;
    int64_t width;
};

void expert_order_cpu(const Routing& routing, const ExpertOrder& order);  // std::invalid_argument: not top_k in a row
void chunk_order_cpu(const ChunkOrder& order);
void sum_rows_cpu(const RowSum& job, int threads);

#ifdef ECM_WITH_CUDA
constexpr int64_t kTokensPerBlock = 32;  // of expert_order

// workspace: int32 [ceil(tokens / kTokensPerBlock) + 1, experts]
void expert_order_cuda(const Routing& routing, const ExpertOrder& order, int32_t* workspace, const Queue& queue);
void chunk_order_cuda(const ChunkOrder& order, const Queue& queue);
void sum_rows_cuda(const RowSum& job, const Queue& queue);
#endif

}  // namespace ecm
