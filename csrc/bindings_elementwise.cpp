// elementwise.h in Python. Sizes and shapes have been checked by the caller.
#include "bindings_common.h"
#include "elementwise.h"

namespace py = pybind11;

namespace {

ecm::Heads heads_of(uintptr_t from, uintptr_t to, int64_t heads, int64_t token_stride, int64_t head_stride) {
    return {at<const void>(from), at<void>(to), heads, token_stride, head_stride};
}

ecm::Rotation rotation_of(const ecm::Heads& query, const ecm::Heads& key, uintptr_t cos, uintptr_t sin, int dtype,
                          int64_t tokens, int64_t pairs, bool inverse) {
    return {query, key, at<const float>(cos), at<const float>(sin), dtype, tokens, pairs, inverse};
}

ecm::Swiglu swiglu_of(uintptr_t gate_up, uintptr_t weights, int dtype, int64_t rows, int64_t columns) {
    return {at<const void>(gate_up), at<const float>(weights), dtype, rows, columns};
}

ecm::RmsNorm norm_of(uintptr_t from, uintptr_t weight, int dtype, int64_t rows, int64_t columns, int64_t row_stride) {
    return {at<const void>(from), at<const void>(weight), dtype, rows, columns, row_stride};
}

}  // namespace

void bind_elementwise(py::module_& m) {
    using py::arg;
    using release = py::call_guard<py::gil_scoped_release>;
    py::class_<ecm::Heads>(m, "Heads", py::module_local())
        .def(py::init(&heads_of), arg("source"), arg("out"), arg("heads"), arg("token_stride"), arg("head_stride"));
    py::class_<ecm::Rotation>(m, "Rotation", py::module_local())
        .def(py::init(&rotation_of), arg("query"), arg("key"), arg("cos"), arg("sin"), arg("dtype"), arg("tokens"),
             arg("pairs"), arg("inverse"));
    py::class_<ecm::Swiglu>(m, "Swiglu", py::module_local())
        .def(py::init(&swiglu_of), arg("gate_up"), arg("weights"), arg("dtype"), arg("rows"), arg("columns"));
    py::class_<ecm::RmsNorm>(m, "RmsNorm", py::module_local())
        .def(py::init(&norm_of), arg("source"), arg("weight"), arg("dtype"), arg("rows"), arg("columns"), arg("row_stride"));
    m.def("rotate", &ecm::rotate_cpu, "Rotary embedding.", arg("job"), arg("threads"), release());
    m.def(
        "swiglu", [](const ecm::Swiglu& job, uintptr_t out, int threads) { ecm::swiglu_cpu(job, at<void>(out), threads); },
        "silu(gate) up weight.", arg("job"), arg("out"), arg("threads"), release());
    m.def(
        "swiglu_backward",
        [](const ecm::Swiglu& job, uintptr_t grad, uintptr_t grad_gate_up, uintptr_t grad_weights, int threads) {
            ecm::swiglu_backward_cpu(job, at<const void>(grad), at<void>(grad_gate_up), at<float>(grad_weights), threads);
        },
        "Its gradients.", arg("job"), arg("grad"), arg("grad_gate_up"), arg("grad_weights"), arg("threads"), release());
    m.def(
        "rms_norm",
        [](const ecm::RmsNorm& job, double epsilon, uintptr_t out, uintptr_t inverse_rms, int threads) {
            ecm::rms_norm_cpu(job, epsilon, at<void>(out), at<float>(inverse_rms), threads);
        },
        "x / rms(x) weight.", arg("job"), arg("epsilon"), arg("out"), arg("inverse_rms"), arg("threads"), release());
    m.def("rms_norm_parts", &ecm::rms_norm_parts_cpu, "Parts of the weight's gradient.", arg("rows"), arg("columns"));
    m.def(
        "rms_norm_backward",
        [](const ecm::RmsNorm& job, uintptr_t inverse_rms, uintptr_t grad, uintptr_t grad_from, uintptr_t grad_weight,
           int64_t parts, int threads) {
            ecm::rms_norm_backward_cpu(job, at<const float>(inverse_rms), at<const void>(grad), at<void>(grad_from),
                                       at<float>(grad_weight), parts, threads);
        },
        "Its gradients, that of the weight in parts.", arg("job"), arg("inverse_rms"), arg("grad"), arg("grad_from"),
        arg("grad_weight"), arg("parts"), arg("threads"), release());
#ifdef ECM_WITH_CUDA
    m.attr("MOST_NORM_COLUMNS") = ecm::kMostNormColumns;
    m.def("rms_norm_parts_cuda", &ecm::rms_norm_parts_cuda, "As `rms_norm_parts`.", arg("rows"), arg("columns"));
    m.def("rotate_cuda", &ecm::rotate_cuda, "As `rotate`, launched on a stream.", arg("job"), arg("queue"), release());
    m.def(
        "swiglu_cuda",
        [](const ecm::Swiglu& job, uintptr_t out, const ecm::Queue& queue) { ecm::swiglu_cuda(job, at<void>(out), queue); },
        "As `swiglu`, launched on a stream.", arg("job"), arg("out"), arg("queue"), release());
    m.def(
        "swiglu_backward_cuda",
        [](const ecm::Swiglu& job, uintptr_t grad, uintptr_t grad_gate_up, uintptr_t grad_weights, const ecm::Queue& queue) {
            ecm::swiglu_backward_cuda(job, at<const void>(grad), at<void>(grad_gate_up), at<float>(grad_weights), queue);
        },
        "As `swiglu_backward`, launched on a stream.", arg("job"), arg("grad"), arg("grad_gate_up"), arg("grad_weights"), arg("queue"), release());
    m.def(
        "rms_norm_cuda",
        [](const ecm::RmsNorm& job, double epsilon, uintptr_t out, uintptr_t inverse_rms, const ecm::Queue& queue) {
            ecm::rms_norm_cuda(job, epsilon, at<void>(out), at<float>(inverse_rms), queue);
        },
        "As `rms_norm`, launched on a stream.", arg("job"), arg("epsilon"), arg("out"), arg("inverse_rms"), arg("queue"), release());
    m.def(
        "rms_norm_backward_cuda",
        [](const ecm::RmsNorm& job, uintptr_t inverse_rms, uintptr_t grad, uintptr_t grad_from, uintptr_t grad_weight,
           int64_t parts, const ecm::Queue& queue) {
            ecm::rms_norm_backward_cuda(job, at<const float>(inverse_rms), at<const void>(grad), at<void>(grad_from),
                                        at<float>(grad_weight), parts, queue);
        },
        "As `rms_norm_backward`, launched on a stream.", arg("job"), arg("inverse_rms"), arg("grad"), arg("grad_from"),
        arg("grad_weight"), arg("parts"), arg("queue"), release());
#endif
}
