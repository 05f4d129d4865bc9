// Where a CUDA kernel is launched.
#pragma once

namespace ecm {

struct Queue {
    int device;
    void* stream;
};

}  // namespace ecm
