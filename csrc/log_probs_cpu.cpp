// Work sharing over rows and columns, and the choice of instruction set, for the CPU variant.
//
// A row is cut into chunks of fixed length and the chunks are spread over the threads, so one row with a large vocabulary
// keeps every core busy; chunks are merged in column order, so the bits don't depend on the number of threads.
#include "log_probs.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "instruction_sets.h"
#include "log_probs_rows.h"
#include "threads.h"

namespace ecm {
namespace {

constexpr int64_t kChunk = 16384;  // columns in one unit of work

const RowKernels& kernels() {
    static const RowKernels& chosen =
        table_of<RowKernels>(&row_kernels_baseline, ECM_IF_AVX2(&row_kernels_avx2), ECM_IF_AVX512(&row_kernels_avx512));
    return chosen;
}

const char* row_at(const Logits& logits, int64_t row) {
    return static_cast<const char*>(logits.data) + row * logits.row_stride * element_size(logits.dtype);
}

float read(const char* row, int dtype, int64_t col) {
    if (dtype == kFloat32) return load(reinterpret_cast<const float*>(row)[col]);
    if (dtype == kBFloat16) return load(reinterpret_cast<const BFloat16*>(row)[col]);
    return load(reinterpret_cast<const Float16*>(row)[col]);
}

void write(char* row, int dtype, int64_t col, float value) {
    if (dtype == kFloat32) store(reinterpret_cast<float*>(row)[col], value);
    else if (dtype == kBFloat16) store(reinterpret_cast<BFloat16*>(row)[col], value);
    else store(reinterpret_cast<Float16*>(row)[col], value);
}

bool holds(const Logits& logits, int64_t local_target) { return local_target >= 0 && local_target < logits.valid_cols; }

}  // namespace

void stats_cpu(const Logits& logits, const int64_t* targets, float* stats, int width, int64_t parts, int threads) {
    if (parts != 1) throw std::invalid_argument("the CPU kernel writes one part");
    const auto partial = kernels().partial[logits.dtype];
    const bool details = width == kDetailsWidth;
    const int64_t chunks = std::max<int64_t>(1, (logits.valid_cols + kChunk - 1) / kChunk);
    const int64_t units = logits.rows * chunks;
    const int used = useful_threads(threads, units, logits.rows * logits.valid_cols);
    std::vector<Partial> partials(units);
#pragma omp parallel for schedule(static) num_threads(used)
    for (int64_t unit = 0; unit < units; ++unit) {
        const int64_t begin = unit % chunks * kChunk;
        const int64_t end = std::min(begin + kChunk, logits.valid_cols);
        partials[unit] = partial(row_at(logits, unit / chunks), begin, end, details);
    }
    for (int64_t row = 0; row < logits.rows; ++row) {
        Partial total = empty_partial();
        for (int64_t chunk = 0; chunk < chunks; ++chunk) total = merge(total, partials[row * chunks + chunk]);
        const int64_t target = targets[row] - logits.vocab_offset;
        float* out = stats + row * width;
        out[0] = total.max;
        out[1] = static_cast<float>(total.rest);
        out[2] = holds(logits, target) ? read(row_at(logits, row), logits.dtype, target) : -INFINITY;
        out[3] = static_cast<float>(total.weighted);
        if (!details) continue;
        out[4] = static_cast<float>(total.sum);
        out[5] = static_cast<float>(logits.vocab_offset + total.argmax);
    }
    (void)used;
}

void backward_cpu(const Logits& logits, const RowGradient& rows, void* grad, int64_t grad_row_stride, int threads) {
    const auto gradient = kernels().gradient[logits.dtype];
    const size_t size = element_size(logits.dtype);
    const int64_t chunks = std::max<int64_t>(1, (logits.cols + kChunk - 1) / kChunk);
    const int64_t units = logits.rows * chunks;
    const int used = useful_threads(threads, units, logits.rows * logits.cols);
#pragma omp parallel for schedule(static) num_threads(used)
    for (int64_t unit = 0; unit < units; ++unit) {
        const int64_t row = unit / chunks;
        const int64_t begin = unit % chunks * kChunk;
        const int64_t end = std::min(begin + kChunk, logits.cols);
        char* to = static_cast<char*>(grad) + row * grad_row_stride * size;
        const float scale = rows.row_grad[row];
        if (scale == 0.0f) {
            memset(to + begin * size, 0, (end - begin) * size);
            continue;
        }
        const int64_t valid = std::max(begin, std::min(end, logits.valid_cols));
        gradient(row_at(logits, row), to, begin, valid, rows.lse[2 * row], rows.lse[2 * row + 1], scale);
        if (valid < end) memset(to + valid * size, 0, (end - valid) * size);
        const int64_t target = rows.targets[row] - logits.vocab_offset;
        if (holds(logits, target) && target >= begin && target < end)  // 1 - p without the cancellation near p = 1
            write(to, logits.dtype, target, -scale * std::expm1(rows.log_probs[row]));
    }
    (void)used;
}

void finalize_cpu(const Finalize& job, int threads) {
    const int used = useful_threads(threads, job.rows, 64 * job.rows * job.parts);  // a row costs as much as 64 columns
    const auto token_of_row = job.width == kDetailsWidth ? token_of<true> : token_of<false>;
#pragma omp parallel for schedule(static) num_threads(used)
    for (int64_t row = 0; row < job.rows; ++row) {
        const Token token = token_of_row(job.stats + row * job.width, job.parts, job.rows * job.width, job.vocab_size);
        job.log_probs[row] = token.log_prob;
        job.lse[2 * row] = token.max;
        job.lse[2 * row + 1] = token.log_sum;
        if (job.width != kDetailsWidth) continue;
        job.details[3 * row] = token.entropy;
        job.details[3 * row + 1] = token.mean_logit;
        job.details[3 * row + 2] = token.argmax;
    }
    (void)used;
    const auto sum = [&](int64_t sequence) {
        double total = 0.0;
        for (int64_t row = job.bounds[sequence]; row < job.bounds[sequence + 1]; ++row) total += job.log_probs[row];
        return total;
    };
    const auto scale_rows = [&](int64_t sequence, double scale) {
        for (int64_t row = job.bounds[sequence]; row < job.bounds[sequence + 1]; ++row)
            job.row_scale[row] = static_cast<float>(scale);
    };
    if (job.preference == nullptr) {
        for (int64_t sequence = 0; sequence < job.sequences; ++sequence)
            job.sums[sequence] = static_cast<float>(sum(sequence));
        return;
    }
    for (int64_t pair = 0; pair < job.sequences / 2; ++pair) {
        const int64_t chosen = 2 * pair, rejected = 2 * pair + 1;
        const double sums[2] = {sum(chosen), sum(rejected)};
        const Pair found = pair_of(*job.preference, sums[0], sums[1], job.reference ? job.reference[chosen] : 0.0,
                                   job.reference ? job.reference[rejected] : 0.0, job.margin ? job.margin[pair] : 0.0,
                                   job.bounds[chosen + 1] - job.bounds[chosen],
                                   job.bounds[rejected + 1] - job.bounds[rejected]);
        job.sums[chosen] = static_cast<float>(sums[0]);
        job.sums[rejected] = static_cast<float>(sums[1]);
        job.loss[pair] = static_cast<float>(found.loss);
        job.rewards[2 * pair] = static_cast<float>(found.chosen_reward);
        job.rewards[2 * pair + 1] = static_cast<float>(found.rejected_reward);
        scale_rows(chosen, found.chosen_scale);
        scale_rows(rejected, found.rejected_scale);
    }
}

const char* instruction_set_cpu() {
    static const char* const names[] = {"baseline", "avx2", "avx512"};
    return names[best_instruction_set()];
}

const char* instruction_sets_built_cpu() {
    return "baseline"
#ifdef ECM_HAVE_AVX2
           " avx2"
#endif
#ifdef ECM_HAVE_AVX512
           " avx512"
#endif
        ;
}

bool has_openmp() {
#ifdef _OPENMP
    return true;
#else
    return false;
#endif
}

}  // namespace ecm
