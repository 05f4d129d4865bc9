// What the files of bindings share: addresses as pointers, and who adds what to the module.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

template <typename T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

void bind_experts(pybind11::module_& module);
void bind_elementwise(pybind11::module_& module);
void bind_transposes(pybind11::module_& module);
