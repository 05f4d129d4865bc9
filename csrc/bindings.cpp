// The Python module editcaption_mega.kernels._C. Tensors come as addresses and sizes (the caller has checked them),
// so the module needs no PyTorch to build and serves any version of it. An address of 0 means: none.
#include "bindings_common.h"
#include "log_probs.h"

namespace py = pybind11;

namespace {

ecm::Logits make_logits(uintptr_t data, int dtype, int64_t rows, int64_t row_stride, int64_t cols, int64_t valid_cols,
                        int64_t vocab_offset) {
    if (dtype < ecm::kFloat32 || dtype > ecm::kFloat16) throw py::value_error("dtype must be FLOAT32, BFLOAT16 or FLOAT16");
    if (rows < 0 || cols < 0 || valid_cols < 0 || valid_cols > cols)
        throw py::value_error("sizes must satisfy rows >= 0 and 0 <= valid_cols <= cols");
    return {at<const void>(data), dtype, rows, row_stride, cols, valid_cols, vocab_offset};
}

ecm::RowGradient make_row_gradient(uintptr_t targets, uintptr_t log_probs, uintptr_t lse, uintptr_t row_grad) {
    return {at<const int64_t>(targets), at<const float>(log_probs), at<const float>(lse), at<const float>(row_grad)};
}

ecm::PreferenceLoss make_preference_loss(int shape, bool per_token, double beta, double label_smoothing, double margin,
                                         double nll_weight) {
    if (shape < 0 || shape >= ecm::kLossShapes) throw py::value_error("shape must be an index into LOSS_SHAPES");
    return {shape, per_token, beta, label_smoothing, margin, nll_weight};
}

int checked_width(int width) {
    if (width != ecm::kStatsWidth && width != ecm::kDetailsWidth)
        throw py::value_error("width must be STATS_WIDTH or DETAILS_WIDTH");
    return width;
}

ecm::Finalize make_finalize(uintptr_t stats, int64_t parts, int64_t rows, int width, int64_t vocab_size, uintptr_t bounds,
                            int64_t sequences, const ecm::PreferenceLoss* preference, uintptr_t reference, uintptr_t margin,
                            uintptr_t log_probs, uintptr_t lse, uintptr_t details, uintptr_t sums, uintptr_t loss,
                            uintptr_t rewards, uintptr_t row_scale) {
    if (parts < 1 || rows < 0 || sequences < 0 || vocab_size < 1)
        throw py::value_error("sizes must satisfy parts >= 1, vocab_size >= 1, rows >= 0 and sequences >= 0");
    if (preference != nullptr && sequences % 2 != 0) throw py::value_error("pairs need an even number of sequences");
    return {at<const float>(stats), parts, rows, checked_width(width), vocab_size, at<const int64_t>(bounds), sequences,
            preference, at<const float>(reference), at<const float>(margin), at<float>(log_probs), at<float>(lse),
            at<float>(details), at<float>(sums), at<float>(loss), at<float>(rewards), at<float>(row_scale)};
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    using py::arg;
    using release = py::call_guard<py::gil_scoped_release>;
    m.doc() = "Kernels over raw pointers; editcaption_mega.kernels is their public face.";
    m.attr("FLOAT32") = static_cast<int>(ecm::kFloat32);
    m.attr("BFLOAT16") = static_cast<int>(ecm::kBFloat16);
    m.attr("FLOAT16") = static_cast<int>(ecm::kFloat16);
    py::tuple shapes(static_cast<int>(ecm::kLossShapes));
    for (int shape = 0; shape < ecm::kLossShapes; ++shape) shapes[shape] = ecm::kLossShapeNames[shape];
    m.attr("LOSS_SHAPES") = shapes;  // a shape is given as its index
    m.attr("STATS_WIDTH") = ecm::kStatsWidth;
    m.attr("DETAILS_WIDTH") = ecm::kDetailsWidth;
    m.attr("INSTRUCTION_SETS") = ecm::instruction_sets_built_cpu();
    m.attr("OPENMP") = ecm::has_openmp();
    m.def("instruction_set", &ecm::instruction_set_cpu, "The instruction set chosen on this machine.");

    // The arguments of the kernels; log_probs.h says what each field is.
    py::class_<ecm::Logits>(m, "Logits", py::module_local())
        .def(py::init(&make_logits), arg("data"), arg("dtype"), arg("rows"), arg("row_stride"), arg("cols"),
             arg("valid_cols"), arg("vocab_offset"));
    py::class_<ecm::RowGradient>(m, "RowGradient", py::module_local())
        .def(py::init(&make_row_gradient), arg("targets"), arg("log_probs"), arg("lse"), arg("row_grad"));
    py::class_<ecm::PreferenceLoss>(m, "PreferenceLoss", py::module_local())
        .def(py::init(&make_preference_loss), arg("shape"), arg("per_token"), arg("beta"), arg("label_smoothing"),
             arg("margin"), arg("nll_weight"));
    py::class_<ecm::Finalize>(m, "Finalize", py::module_local())
        .def(py::init(&make_finalize), arg("stats"), arg("parts"), arg("rows"), arg("width"), arg("vocab_size"),
             arg("bounds"), arg("sequences"), arg("preference"), arg("reference"), arg("margin"), arg("log_probs"),
             arg("lse"), arg("details"), arg("sums"), arg("loss"), arg("rewards"), arg("row_scale"), py::keep_alive<1, 9>());

    m.def(
        "stats",
        [](const ecm::Logits& logits, uintptr_t targets, uintptr_t out, int width, int64_t parts, int threads) {
            ecm::stats_cpu(logits, at<const int64_t>(targets), at<float>(out), checked_width(width), parts, threads);
        },
        "Softmax statistics [parts, rows, width] of a matrix of logits.", arg("logits"), arg("targets"), arg("out"),
        arg("width"), arg("parts"), arg("threads"), release());
    m.def(
        "backward",
        [](const ecm::Logits& logits, const ecm::RowGradient& rows, uintptr_t grad, int64_t grad_row_stride, int threads) {
            ecm::backward_cpu(logits, rows, at<void>(grad), grad_row_stride, threads);
        },
        "Gradient of the log-probs by the logits, in place when grad is logits.", arg("logits"), arg("rows"), arg("grad"),
        arg("grad_row_stride"), arg("threads"), release());
    m.def("finalize", &ecm::finalize_cpu, "Statistics of all parts -> log-probs, sums over sequences, losses of pairs.",
          arg("job"), arg("threads"), release());

#ifdef ECM_WITH_CUDA
    m.attr("CUDA_ARCHITECTURES") = ECM_CUDA_ARCHITECTURES;
    py::class_<ecm::Queue>(m, "Queue", py::module_local())
        .def(py::init([](int device, uintptr_t stream) { return ecm::Queue{device, at<void>(stream)}; }), arg("device"),
             arg("stream"));
    m.def("stats_parts_cuda", &ecm::stats_parts_cuda, "How many parts to cut each row into.", arg("rows"), arg("cols"));
    m.def(
        "stats_cuda",
        [](const ecm::Logits& logits, uintptr_t targets, uintptr_t out, int width, int64_t parts, const ecm::Queue& queue) {
            if (parts < 1) throw py::value_error("parts must be at least 1");
            ecm::stats_cuda(logits, at<const int64_t>(targets), at<float>(out), checked_width(width), parts, queue);
        },
        "As `stats`, launched on a stream.", arg("logits"), arg("targets"), arg("out"),
        arg("width"), arg("parts"), arg("queue"), release());
    m.def(
        "backward_cuda",
        [](const ecm::Logits& logits, const ecm::RowGradient& rows, uintptr_t grad, int64_t grad_row_stride,
           const ecm::Queue& queue) { ecm::backward_cuda(logits, rows, at<void>(grad), grad_row_stride, queue); },
        "As `backward`, launched on a stream.", arg("logits"), arg("rows"), arg("grad"), arg("grad_row_stride"),
        arg("queue"), release());
    m.def("finalize_cuda", &ecm::finalize_cuda, "As `finalize`, launched on a stream.", arg("job"), arg("queue"), release());
#else
    m.attr("CUDA_ARCHITECTURES") = "";
#endif
    bind_experts(m);
    bind_elementwise(m);
    bind_transposes(m);
}
