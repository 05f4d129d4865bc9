"""Gradients that a backward pass adds to Megatron's gradient buffer by itself.

Each trained weight has a view of that buffer, fp32, as `weight.main_grad`. A GEMM that adds into it (`add_product`)
saves a gradient in the weight's precision, its rounding, and the pass that would add it up.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from .products import add_product

# Elements of one expert's weight from which a product of its own, which the host launches, takes the GPU longer than
# the launch takes the host (planning/timing/gpus/h100.yaml: 8 bytes an element against 10 microseconds).
_LARGE_EXPERT = 4 << 20


def weight_gradient(weight: Tensor, grad: Tensor, x: Tensor, *, fused: bool = True) -> Tensor | None:
    """The gradient by the weight [out, in] of x [T, in] @ weight.T, whose own is grad [T, out].

    With a `main_grad` it is added there in fp32, unrounded, and what comes back is `returned_gradient`; without one, or
    with fused=False, it comes back in the weight's dtype."""
    main_grad = getattr(weight, "main_grad", None) if fused else None
    if main_grad is None:
        return grad.t() @ x
    add_product(main_grad, grad.t(), x)
    return returned_gradient(weight)


def grouped_weight_gradient(
    weight: Tensor,
    grad: Tensor,
    x: Tensor,
    ends: Tensor,
    counts: Sequence[int] | None,
    *,
    fused: bool = True,
    experts: slice = slice(None),
) -> Tensor | None:
    """The same for experts: rows [T, ..] sorted by expert, weight [experts, .., in].

    ends: int32 [experts] on the device, where the rows of each expert end; counts: how many rows each has, where the
    host knows. They are needed to add into `main_grad` by products, one for each expert; without them, and for small
    experts on a GPU, one grouped product makes all gradients in the weight's dtype, which are then added. experts: of
    the weight, those that the rows are for; of several calls that add to a buffer, the one for the first experts
    returns `returned_gradient`, and others None."""
    main_grad = getattr(weight, "main_grad", None) if fused else None
    some = weight[experts]
    large = weight[0].numel() >= _LARGE_EXPERT or weight.device.type == "cpu"
    if main_grad is None or counts is None or not large:
        gradients = F.grouped_mm(grad.t(), x, offs=ends).view_as(some)
        if len(some) == len(weight):
            return gradients
        if main_grad is None:
            whole = torch.zeros_like(weight)
            whole[experts] = gradients
            return whole
        main_grad[experts].add_(gradients)
    else:
        for total, count, end in zip(main_grad[experts], counts, accumulate(counts), strict=True):
            if count:
                add_product(total.flatten(0, -2), grad[end - count : end].t(), x[end - count : end])
    return returned_gradient(weight) if not experts.start else None


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
