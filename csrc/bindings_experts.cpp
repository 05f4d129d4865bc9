// experts.h in Python. Sizes and shapes have been checked by the caller.
#include "bindings_common.h"
#include "experts.h"

namespace py = pybind11;

namespace {

ecm::Routing routing_of(uintptr_t chosen, int64_t tokens, int64_t experts, int64_t top_k) {
    if (tokens < 0 || experts < 1 || top_k < 1 || top_k > experts || tokens * experts > INT32_MAX)
        throw py::value_error("sizes must satisfy tokens >= 0, 1 <= top_k <= experts and tokens * experts < 2^31");
    return {at<const uint8_t>(chosen), tokens, experts, top_k};
}

ecm::ExpertOrder order_of(uintptr_t token_of_row, uintptr_t choice_of_row, uintptr_t row_of_choice, uintptr_t rows_of_token,
                          uintptr_t counts) {
    return {at<int32_t>(token_of_row), at<int32_t>(choice_of_row), at<int32_t>(row_of_choice), at<int32_t>(rows_of_token),
            at<int64_t>(counts)};
}

ecm::ChunkOrder chunks_of(uintptr_t counts, int64_t sources, int64_t experts, int64_t rows, uintptr_t before, uintptr_t after) {
    if (sources < 1 || experts < 1 || rows < 0 || rows > INT32_MAX)
        throw py::value_error("sizes must satisfy sources >= 1, experts >= 1 and 0 <= rows < 2^31");
    return {at<const int64_t>(counts), sources, experts, rows, at<int32_t>(before), at<int32_t>(after)};
}

ecm::RowSum sum_of(uintptr_t from, uintptr_t index, uintptr_t to, int dtype, int64_t columns, int64_t rows, int64_t width) {
    if (columns < 0 || rows < 0 || width < 1) throw py::value_error("sizes must satisfy columns, rows >= 0 and width >= 1");
    return {at<const void>(from), at<const int32_t>(index), at<void>(to), dtype, columns, rows, width};
}

}  // namespace

void bind_experts(py::module_& m) {
    using py::arg;
    using release = py::call_guard<py::gil_scoped_release>;
    py::class_<ecm::Routing>(m, "Routing", py::module_local())
        .def(py::init(&routing_of), arg("chosen"), arg("tokens"), arg("experts"), arg("top_k"));
    py::class_<ecm::ExpertOrder>(m, "ExpertOrder", py::module_local())
        .def(py::init(&order_of), arg("token_of_row"), arg("choice_of_row"), arg("row_of_choice"), arg("rows_of_token"),
             arg("counts"));
    py::class_<ecm::ChunkOrder>(m, "ChunkOrder", py::module_local())
        .def(py::init(&chunks_of), arg("counts"), arg("sources"), arg("experts"), arg("rows"), arg("before"), arg("after"));
    py::class_<ecm::RowSum>(m, "RowSum", py::module_local())
        .def(py::init(&sum_of), arg("source"), arg("index"), arg("out"), arg("dtype"), arg("columns"), arg("rows"), arg("width"));
    m.def("expert_order", &ecm::expert_order_cpu, "Which rows each expert gets.", arg("routing"), arg("order"), release());
    m.def("chunk_order", &ecm::chunk_order_cpu, "Rows by source and expert -> by expert and source.", arg("order"), release());
    m.def("sum_rows", &ecm::sum_rows_cpu, "Sums of chosen rows.", arg("job"), arg("threads"), release());
#ifdef ECM_WITH_CUDA
    m.attr("TOKENS_PER_BLOCK") = ecm::kTokensPerBlock;
    m.def(
        "expert_order_cuda",
        [](const ecm::Routing& routing, const ecm::ExpertOrder& order, uintptr_t workspace, const ecm::Queue& queue) {
            ecm::expert_order_cuda(routing, order, at<int32_t>(workspace), queue);
        },
        "As `expert_order`, launched on a stream.", arg("routing"), arg("order"), arg("workspace"), arg("queue"), release());
    m.def("chunk_order_cuda", &ecm::chunk_order_cuda, "As `chunk_order`, launched on a stream.", arg("order"), arg("queue"), release());
    m.def("sum_rows_cuda", &ecm::sum_rows_cuda, "As `sum_rows`, launched on a stream.", arg("job"), arg("queue"), release());
#endif
}
