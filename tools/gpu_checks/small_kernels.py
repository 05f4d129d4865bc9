"""Each of our kernels once, on small odd sizes: the program that `memory_errors` watches.

python -m gpu_checks.small_kernels {cuda,cpu}
"""

import sys

import torch

from editcaption_mega.kernels import PreferenceLossConfig, linear_preference, log_probs, preference


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
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(sys.argv[1])
