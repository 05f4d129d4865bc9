"""Gradients that a backward pass adds to Megatron's gradient buffer by itself.

Each trained weight has a view of that buffer, fp32, as `weight.main_grad`. A GEMM that adds into it (`add_product`)
saves a gradient in the weight's precision, its rounding, and the pass that would add it up.
"""

import torch
from torch import Tensor


def returned_gradient(weight: Tensor) -> Tensor | None:
    """What a backward pass returns for a weight whose gradient it has added to `weight.main_grad`.

    Megatron's data-parallel wrapper takes a weight for ready when autograd has handed it a gradient, and leaves alone
    one of a weight with `grad_added_to_main_grad` (megatron-core 0.19: `DistributedDataParallel.
    _make_backward_post_hook`, `tensor_parallel.layers.LinearWithGradAccumulationAndAsyncCommunication`). So one must
    come, and its values say nothing. None where another one of the same weight comes anyway, which counts
    (`zero_out_wgrad`: the embedding's, where it is tied to the LM head on one stage), and without that wrapper."""
    if not hasattr(weight, "grad_added_to_main_grad") or getattr(weight, "zero_out_wgrad", False):
        return None
    weight.grad_added_to_main_grad = True
    return torch.empty_like(weight)
