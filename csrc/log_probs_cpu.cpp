// Work sharing over rows and columns, and the choice of instruction set, for the CPU variant.
//
// A row is cut into chunks of fixed length and the chunks are spread over the threads, so one row with a large vocabulary
// keeps every core busy; chunks are merged in column order, so the bits don't depend on the number of threads.
#include "log_probs.h"

#include <algorithm>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "log_probs_rows.h"

namespace ecm {
namespace {

constexpr int64_t kChunk = 16384;            // columns in one unit of work
constexpr int64_t kSerialElements = 1 << 14;  // below this, waking threads costs more than it saves

struct Choice {
    const RowKernels* kernels;
    const char* name;
};

Choice choose() {
#ifdef ECM_HAVE_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        return {&row_kernels_avx512, "avx512"};
#endif
#ifdef ECM_HAVE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {&row_kernels_avx2, "avx2"};
#endif
    return {&row_kernels_baseline, "baseline"};
}

const Choice& choice() {
    static const Choice chosen = choose();
    return chosen;
}

size_t element_size(int dtype) { return dtype == kFloat32 ? 4 : 2; }

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

int useful_threads(int threads, int64_t units, int64_t elements) {
    if (elements < kSerialElements) return 1;
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, units)));
}

}  // namespace

void stats_cpu(const Logits& logits, const int64_t* targets, float* stats, bool entropy, int threads) {
    const auto partial = choice().kernels->partial[logits.dtype];
    const int64_t chunks = std::max<int64_t>(1, (logits.valid_cols + kChunk - 1) / kChunk);
    const int64_t units = logits.rows * chunks;
    const int used = useful_threads(threads, units, logits.rows * logits.valid_cols);
    std::vector<Partial> parts(units);
#pragma omp parallel for schedule(static) num_threads(used)
    for (int64_t unit = 0; unit < units; ++unit) {
        const int64_t begin = unit % chunks * kChunk;
        const int64_t end = std::min(begin + kChunk, logits.valid_cols);
        parts[unit] = partial(row_at(logits, unit / chunks), begin, end, entropy);
    }
    for (int64_t row = 0; row < logits.rows; ++row) {
        Partial total = empty_partial();
        for (int64_t chunk = 0; chunk < chunks; ++chunk) total = merge(total, parts[row * chunks + chunk]);
        const int64_t target = targets[row] - logits.vocab_offset;
        float* out = stats + row * kStatsWidth;
        out[0] = total.max;
        out[1] = static_cast<float>(total.rest);
        out[2] = holds(logits, target) ? read(row_at(logits, row), logits.dtype, target) : -INFINITY;
        out[3] = static_cast<float>(total.weighted);
    }
    (void)used;
}

void backward_cpu(const Logits& logits, const int64_t* targets, const float* lse, const float* row_grad, void* grad,
                  int64_t grad_row_stride, int threads) {
    const auto gradient = choice().kernels->gradient[logits.dtype];
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
        const float scale = row_grad[row];
        if (scale == 0.0f) {
            memset(to + begin * size, 0, (end - begin) * size);
            continue;
        }
        const char* from = row_at(logits, row);
        const float max = lse[2 * row];
        const float log_sum = lse[2 * row + 1];
        const int64_t target = targets[row] - logits.vocab_offset;
        const bool here = holds(logits, target) && target >= begin && target < end;
        const float target_logit = here ? read(from, logits.dtype, target) : 0.0f;  // before it is overwritten
        const int64_t valid = std::max(begin, std::min(end, logits.valid_cols));
        gradient(from, to, begin, valid, max, log_sum, scale);
        if (valid < end) memset(to + valid * size, 0, (end - valid) * size);
        // 1 - p without the cancellation near p = 1
        if (here) write(to, logits.dtype, target, -scale * std::expm1((target_logit - max) - log_sum));
    }
    (void)used;
}

const char* instruction_set_cpu() { return choice().name; }

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
