// The Python module editcaption_mega.kernels._C. Tensors come as addresses and sizes (the caller has checked them),
// so the module needs no PyTorch to build and serves any version of it.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "log_probs.h"

namespace py = pybind11;

namespace {

template <typename T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

ecm::Logits logits_of(uintptr_t data, int dtype, int64_t rows, int64_t row_stride, int64_t cols, int64_t valid_cols,
                      int64_t vocab_offset) {
    if (dtype < ecm::kFloat32 || dtype > ecm::kFloat16) throw py::value_error("dtype must be FLOAT32, BFLOAT16 or FLOAT16");
    if (rows < 0 || cols < 0 || valid_cols < 0 || valid_cols > cols)
        throw py::value_error("sizes must satisfy rows >= 0 and 0 <= valid_cols <= cols");
    return {at<const void>(data), dtype, rows, row_stride, cols, valid_cols, vocab_offset};
}

void stats(uintptr_t logits, int dtype, int64_t rows, int64_t row_stride, int64_t cols, int64_t valid_cols,
           int64_t vocab_offset, uintptr_t targets, uintptr_t out, bool entropy, int threads) {
    const auto matrix = logits_of(logits, dtype, rows, row_stride, cols, valid_cols, vocab_offset);
    py::gil_scoped_release release;
    ecm::stats_cpu(matrix, at<const int64_t>(targets), at<float>(out), entropy, threads);
}

void backward(uintptr_t logits, int dtype, int64_t rows, int64_t row_stride, int64_t cols, int64_t valid_cols,
              int64_t vocab_offset, uintptr_t targets, uintptr_t lse, uintptr_t row_grad, uintptr_t grad,
              int64_t grad_row_stride, int threads) {
    const auto matrix = logits_of(logits, dtype, rows, row_stride, cols, valid_cols, vocab_offset);
    py::gil_scoped_release release;
    ecm::backward_cpu(matrix, at<const int64_t>(targets), at<const float>(lse), at<const float>(row_grad), at<void>(grad),
                      grad_row_stride, threads);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    using py::arg;
    m.doc() = "Log-prob kernels over raw pointers; editcaption_mega.kernels is their public face.";
    m.attr("FLOAT32") = static_cast<int>(ecm::kFloat32);
    m.attr("BFLOAT16") = static_cast<int>(ecm::kBFloat16);
    m.attr("FLOAT16") = static_cast<int>(ecm::kFloat16);
#ifdef ECM_WITH_CUDA
    m.attr("WITH_CUDA") = true;
#else
    m.attr("WITH_CUDA") = false;
#endif
    m.attr("INSTRUCTION_SETS") = ecm::instruction_sets_built_cpu();
    m.attr("OPENMP") = ecm::has_openmp();
    m.def("instruction_set", &ecm::instruction_set_cpu, "The instruction set chosen on this machine.");
    m.def("stats", &stats, "Softmax statistics [rows, 4] of a matrix of logits.", arg("logits"), arg("dtype"), arg("rows"),
          arg("row_stride"), arg("cols"), arg("valid_cols"), arg("vocab_offset"), arg("targets"), arg("out"), arg("entropy"),
          arg("threads"));
    m.def("backward", &backward, "Gradient of the log-probs by the logits, in place when grad is logits.", arg("logits"),
          arg("dtype"), arg("rows"), arg("row_stride"), arg("cols"), arg("valid_cols"), arg("vocab_offset"), arg("targets"),
          arg("lse"), arg("row_grad"), arg("grad"), arg("grad_row_stride"), arg("threads"));
}
