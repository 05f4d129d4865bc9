"""Each of our kernels once, on small odd sizes: the program that `memory_errors` watches.

python -m gpu_checks.small_kernels {cuda,cpu}
"""

import sys

import torch

from editcaption_mega.kernels import (
    PreferenceLossConfig,
    chunk_order,
    expert_order,
    linear_preference,
    log_probs,
    preference,
    rms_norm,
    rotate,
    sum_rows,
    swiglu,
)


def main(device: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for tokens, vocabulary in ((1, 7), (6, 1003), (13, 4099)):
            logits = torch.randn(tokens, vocabulary, device=device, dtype=dtype, requires_grad=True)
            targets = torch.randint(0, vocabulary, (tokens,), device=device)
            log_probs(logits, targets).sum().backward()
            log_probs(logits * 1, targets, inplace_backward=True).sum().backward()
        bounds = torch.tensor([0, 3, 6, 10, 13], dtype=torch.int32)
        reference = torch.zeros(4, device=device)
        for config in (PreferenceLossConfig("sigmoid"), PreferenceLossConfig("ipo")):
            preference(logits * 1, targets, bounds, reference, config).loss.sum().backward()
            rows = torch.randn(tokens, 24, device=device, dtype=dtype, requires_grad=True)
            weight = torch.randn(vocabulary, 24, device=device, dtype=dtype, requires_grad=True)
            linear_preference(rows, weight, targets, bounds, reference, config).loss.sum().backward()
        for columns in (7, 72, 1032):
            layer_parts(device, dtype, columns)
    if device == "cuda":
        torch.cuda.synchronize()


def layer_parts(device: str, dtype: torch.dtype, columns: int) -> None:
    """What runs in each layer, forward and backward: experts' rows, SwiGLU, rotation, RMSNorm."""
    scores = torch.randn(45, 9, device=device)
    order = expert_order(torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.topk(3, 1).indices, True), 3)
    indices = order.token_of_row[:, None], order.rows_of_token
    x = torch.randn(45, columns, device=device, dtype=dtype, requires_grad=True)
    rows = sum_rows(rms_norm(x, torch.ones(columns, device=device, dtype=dtype).requires_grad_(), 1e-6), *indices)
    before, after = chunk_order(order.counts.view(3, 3), 135)
    rows = sum_rows(rows, before[:, None], after[:, None])
    hidden = swiglu(torch.cat((rows, rows), -1), torch.rand(135, device=device).requires_grad_())
    back = sum_rows(sum_rows(hidden, after[:, None], before[:, None]), *reversed(indices))
    heads = torch.randn(45, 3, 2 * columns, device=device, dtype=dtype, requires_grad=True)
    angles = torch.rand(45, columns, device=device)
    query, key = rotate(heads[:, :2], heads[:, 2:], angles.cos(), angles.sin())
    (back.sum() + query.sum() + key.sum()).backward()


if __name__ == "__main__":
    main(sys.argv[1])
