// Experts' orders and sums of rows on the CPU.
#include "experts.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "threads.h"

namespace ecm {
namespace {

constexpr int64_t kBlock = 256;  // columns whose sums stay in the first-level cache

template <typename T>
void sum_row(const RowSum& job, int64_t row) {
    const T* from = static_cast<const T*>(job.from);
    T* to = static_cast<T*>(job.to) + row * job.columns;
    const int32_t* index = job.index + row * job.width;
    if (job.width == 1 && index[0] >= 0) {
        memcpy(to, from + index[0] * job.columns, job.columns * sizeof(T));
        return;
    }
    float sums[kBlock];
    for (int64_t begin = 0; begin < job.columns; begin += kBlock) {
        const int64_t count = std::min(kBlock, job.columns - begin);
        std::fill(sums, sums + count, 0.0f);
        for (int64_t i = 0; i < job.width; ++i) {
            if (index[i] < 0) continue;
            const T* source = from + index[i] * job.columns + begin;
            for (int64_t column = 0; column < count; ++column) sums[column] += load(source[column]);
        }
        for (int64_t column = 0; column < count; ++column) store(to[begin + column], sums[column]);
    }
}

}  // namespace

void expert_order_cpu(const Routing& routing, const ExpertOrder& order) {
    std::fill(order.counts, order.counts + routing.experts, 0);
    for (int64_t token = 0; token < routing.tokens; ++token) {
        int64_t chosen = 0;
        for (int64_t expert = 0; expert < routing.experts; ++expert) {
            const bool here = routing.chosen[token * routing.experts + expert] != 0;
            order.counts[expert] += here;
            chosen += here;
        }
        if (chosen != routing.top_k) throw std::invalid_argument("every token must have chosen exactly top_k experts");
    }
    std::vector<int32_t> next(routing.experts, 0);
    for (int64_t expert = 1; expert < routing.experts; ++expert)
        next[expert] = next[expert - 1] + static_cast<int32_t>(order.counts[expert - 1]);
    for (int64_t token = 0; token < routing.tokens; ++token) {
        int32_t* rows = order.rows_of_token + token * routing.top_k;
        for (int64_t expert = 0; expert < routing.experts; ++expert) {
            const int64_t choice = token * routing.experts + expert;
            order.row_of_choice[choice] = -1;
            if (routing.chosen[choice] == 0) continue;
            const int32_t row = next[expert]++;
            order.row_of_choice[choice] = *rows++ = row;
            order.token_of_row[row] = static_cast<int32_t>(token);
            order.choice_of_row[row] = static_cast<int32_t>(choice);
        }
    }
}

void chunk_order_cpu(const ChunkOrder& order) {
    std::vector<int64_t> starts(order.sources * order.experts);
    int64_t start = 0;
    for (int64_t chunk = 0; chunk < order.sources * order.experts; ++chunk) {
        starts[chunk] = start;
        start += order.counts[chunk];
    }
    if (start != order.rows) throw std::invalid_argument("counts must add up to the rows");
    int32_t to = 0;
    for (int64_t expert = 0; expert < order.experts; ++expert)
        for (int64_t source = 0; source < order.sources; ++source) {
            const int64_t chunk = source * order.experts + expert;
            for (int64_t i = 0; i < order.counts[chunk]; ++i, ++to) {
                order.before[to] = static_cast<int32_t>(starts[chunk] + i);
                order.after[starts[chunk] + i] = to;
            }
        }
}

void sum_rows_cpu(const RowSum& job, int threads) {
    const auto sum = job.dtype == kFloat32 ? sum_row<float> : job.dtype == kBFloat16 ? sum_row<BFloat16> : sum_row<Float16>;
    const int used = useful_threads(threads, job.rows, job.rows * job.columns * job.width);
#pragma omp parallel for schedule(static) num_threads(used)
    for (int64_t row = 0; row < job.rows; ++row) sum(job, row);
    (void)used;
}

}  // namespace ecm
