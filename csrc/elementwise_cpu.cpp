// Work sharing over rows for the elementwise parts of a layer on the CPU. What rows add up to is added in parts of fixed
// length, so the bits don't depend on the number of threads.
#include "elementwise.h"

#include <algorithm>

#include "elementwise_rows.h"
#include "instruction_sets.h"
#include "threads.h"

namespace ecm {
namespace {

constexpr int64_t kPartRows = 64;  // whose weight gradients are added up by one thread

const ElementwiseRows& kernels() {
    static const ElementwiseRows& chosen = table_of<ElementwiseRows>(
        &elementwise_rows_baseline, ECM_IF_AVX2(&elementwise_rows_avx2), ECM_IF_AVX512(&elementwise_rows_avx512));
    return chosen;
}

const char* place(const void* from, int64_t elements, int dtype) {
    return static_cast<const char*>(from) + elements * element_size(dtype);
}

char* place(void* to, int64_t elements, int dtype) { return static_cast<char*>(to) + elements * element_size(dtype); }

template <typename Work>
void share(int64_t units, int64_t elements, int threads, const Work& work) {
    const int used = useful_threads(threads, units, elements);
#pragma omp parallel for schedule(static) num_threads(used)
    for (int64_t unit = 0; unit < units; ++unit) work(unit);
    (void)used;
}

}  // namespace

void swiglu_cpu(const Swiglu& job, void* out, int threads) {
    const auto swiglu = kernels().swiglu[job.dtype];
    share(job.rows, job.rows * job.columns, threads, [&](int64_t row) {
        swiglu(place(job.gate_up, 2 * row * job.columns, job.dtype), job.weights ? job.weights[row] : 1.0f,
               place(out, row * job.columns, job.dtype), job.columns);
    });
}

void swiglu_backward_cpu(const Swiglu& job, const void* grad, void* grad_gate_up, float* grad_weights, int threads) {
    const auto gradient = kernels().swiglu_gradient[job.dtype];
    share(job.rows, job.rows * job.columns, threads, [&](int64_t row) {
        const float by_weight =
            gradient(place(job.gate_up, 2 * row * job.columns, job.dtype), job.weights ? job.weights[row] : 1.0f,
                     place(grad, row * job.columns, job.dtype), place(grad_gate_up, 2 * row * job.columns, job.dtype),
                     job.columns);
        if (grad_weights) grad_weights[row] = by_weight;
    });
}

void rotate_cpu(const Rotation& job, int threads) {
    const auto rotate = kernels().rotate[job.dtype];
    const float sign = job.inverse ? -1.0f : 1.0f;
    const int64_t channels = 2 * job.pairs, heads = job.query.heads + job.key.heads;
    share(job.tokens, job.tokens * heads * channels, threads, [&](int64_t token) {
        const float* cos = job.cos + token * job.pairs;
        const float* sin = job.sin + token * job.pairs;
        for (const Heads& part : {job.query, job.key})
            for (int64_t head = 0; head < part.heads; ++head)
                rotate(place(part.from, token * part.token_stride + head * part.head_stride, job.dtype),
                       place(part.to, (token * part.heads + head) * channels, job.dtype), cos, sin, sign, job.pairs);
    });
}

void rms_norm_cpu(const RmsNorm& job, double epsilon, void* out, float* inverse_rms, int threads) {
    const auto norm = kernels().rms_norm[job.dtype];
    share(job.rows, job.rows * job.columns, threads, [&](int64_t row) {
        inverse_rms[row] = norm(place(job.from, row * job.row_stride, job.dtype), job.weight,
                                place(out, row * job.columns, job.dtype), static_cast<float>(epsilon), job.columns);
    });
}

int64_t rms_norm_parts_cpu(int64_t rows, int64_t) { return (rows + kPartRows - 1) / kPartRows; }

void rms_norm_backward_cpu(const RmsNorm& job, const float* inverse_rms, const void* grad, void* grad_from,
                           float* grad_weight, int64_t parts, int threads) {
    const auto gradient = kernels().rms_norm_gradient[job.dtype];
    share(parts, job.rows * job.columns, threads, [&](int64_t part) {
        float* sums = grad_weight + part * job.columns;
        std::fill(sums, sums + job.columns, 0.0f);
        const int64_t end = std::min(job.rows, (part + 1) * kPartRows);
        for (int64_t row = part * kPartRows; row < end; ++row)
            gradient(place(job.from, row * job.row_stride, job.dtype), job.weight, inverse_rms[row],
                     place(grad, row * job.columns, job.dtype), place(grad_from, row * job.columns, job.dtype), sums,
                     job.columns);
    });
}

}  // namespace ecm
