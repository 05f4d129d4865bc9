"""Measures the project's own kernels against plain PyTorch on this machine.

Example: tools/bench.py kernels --rows 256 --vocab 151936 --output runs/bench
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from editcaption_mega.kernels import available_backends, linear_log_probs, log_probs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def median_ms(runs: tuple[Callable[[], None], ...], repeats: int) -> list[float]:
    """The median time of each run in milliseconds, after one that isn't counted; taken in turns, so that whatever else
    the machine does meets all of them alike."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(repeats + 1):
        for run, found in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if turn:
                found.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(found) for found in times]


def plain(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What one writes without the kernels: an fp32 log-softmax and a gather."""
    return logits.float().log_softmax(-1).gather(1, targets[:, None])[:, 0]


def measure(rows: int, vocab: int, hidden: int, dtype: torch.dtype, repeats: int) -> list[dict]:
    """One record per operator and pass, with both medians and their ratio."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, vocab, generator=generator).to(dtype).requires_grad_()
    x = torch.randn(rows, hidden, generator=generator).to(dtype).requires_grad_()
    weight = (torch.randn(vocab, hidden, generator=generator) / hidden**0.5).to(dtype).requires_grad_()
    targets = torch.randint(0, vocab, (rows,), generator=generator)
    backend = available_backends()[-2] if len(available_backends()) > 1 else "torch"

    def both(forward: Callable[[], torch.Tensor], inputs: tuple[torch.Tensor, ...]) -> dict[str, Callable[[], None]]:
        def only_forward() -> None:
            with torch.no_grad():
                forward()

        return {"forward": only_forward, "forward + backward": lambda: torch.autograd.grad(forward().sum(), inputs)}

    pairs = {
        "log_probs": (
            both(lambda: log_probs(logits, targets, backend=backend), (logits,)),
            both(lambda: plain(logits, targets), (logits,)),
        ),
        "linear_log_probs": (
            both(lambda: linear_log_probs(x, weight, targets, backend=backend), (x, weight)),
            both(lambda: plain(x @ weight.T, targets), (x, weight)),
        ),
    }
    records = []
    for operator, (ours, theirs) in pairs.items():
        for name in ours:
            found, reference = median_ms((ours[name], theirs[name]), repeats)
            records.append(
                {
                    "operator": operator,
                    "pass": name,
                    "backend": backend,
                    "dtype": str(dtype).removeprefix("torch."),
                    "rows": rows,
                    "vocab": vocab,
                    "hidden": hidden if operator == "linear_log_probs" else None,
                    "ours_ms": found,
                    "pytorch_ms": reference,
                    "ratio": reference / found,
                }
            )
    return records


def markdown(records: list[dict], machine: dict) -> str:
    """The records as a table under one line about the machine."""
    lines = [
        f"{machine['processor']}, {machine['threads']} threads, PyTorch {machine['torch']}, "
        f"medians of {machine['repeats']}",
        "",
        "| operator | pass | dtype | rows x vocab (hidden) | ours (ms) | PyTorch (ms) | PyTorch / ours |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    for r in records:
        shape = f"{r['rows']} x {r['vocab']}" + (f" ({r['hidden']})" if r["hidden"] else "")
        times = f"{r['ours_ms']:.2f} | {r['pytorch_ms']:.2f} | {r['ratio']:.2f}"
        lines.append(f"| {r['operator']} ({r['backend']}) | {r['pass']} | {r['dtype']} | {shape} | {times} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=["kernels"], help="what to measure")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--output", type=Path, default=Path("runs/bench"), help="folder for kernels.md and kernels.json"
    )
    arguments = parser.parse_args()
    for name in ("rows", "vocab", "hidden", "repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, found {getattr(arguments, name)}")
    records = []
    for dtype in arguments.dtypes:
        records += measure(arguments.rows, arguments.vocab, arguments.hidden, DTYPES[dtype], arguments.repeats)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": arguments.repeats,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    table = markdown(records, machine)
    (arguments.output / "kernels.md").write_text(table)
    (arguments.output / "kernels.json").write_text(
        json.dumps({"machine": machine, "records": records}, indent=2) + "\n"
    )
    print(table, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
