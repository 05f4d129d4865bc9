// transposes.h in Python. Strides and memory have been checked by the caller.
#include "bindings_common.h"
#include "transposes.h"

namespace py = pybind11;

void bind_transposes(py::module_& m) {
    using py::arg;
    m.def(
        "transpose",
        [](uintptr_t from, int64_t from_stride, uintptr_t to, int64_t to_stride, int64_t rows, int64_t cols, int item_size) {
            if (rows < 0 || cols < 0) throw py::value_error("sizes must satisfy rows >= 0 and cols >= 0");
            if (item_size != 1 && item_size != 2 && item_size != 4 && item_size != 8)
                throw py::value_error("item_size must be 1, 2, 4 or 8");
            ecm::transpose_cpu({at<const void>(from), from_stride, at<void>(to), to_stride, rows, cols, item_size});
        },
        "A matrix [rows, cols] as [cols, rows]; strides of rows, in items.", arg("source"), arg("source_stride"), arg("out"),
        arg("out_stride"), arg("rows"), arg("cols"), arg("item_size"), py::call_guard<py::gil_scoped_release>());
}
