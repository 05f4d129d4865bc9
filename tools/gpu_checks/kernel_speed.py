"""The log-prob operators' time against everything installed that does their work, at Qwen's vocabulary."""

import sys

import torch
from benches import kernels

from .figures import Figure, Figures, Machine

REPEATS = 5


def run(machine: Machine) -> Figures:
    dtype = torch.bfloat16 if machine.on_gpu else torch.float32
    case = kernels.Case(*machine.size((4096, 16384, 151936, 4096), (64, 256, 2048, 64)), dtype, machine.device)
    sizes = f"{case.rows} response tokens, vocabulary {case.vocab}, hidden size {case.hidden}"
    for records in kernels.measure_forms(case, machine.size(REPEATS, 1), _say):
        for record in records:
            name = f"{record['form']}: {record['name']}"
            if "error" in record:
                yield Figure(name, "not run", "", record["error"])
                continue
            yield Figure(
                name, record["ms"], "ms", f"forward and backward, {sizes}, {record['peak_bytes'] / 2**20:.0f} MiB"
            )
            if "share_of_copy" in record:
                yield Figure("log-probs from logits: share of copy", record["share_of_copy"], "", "", goal=0.9)
            if "flops_per_second" in record:
                share = record["flops_per_second"] / machine.ceilings["matmul"]
                yield Figure("linear log-probs: share of matmul", share, "", "three products of the LM head")
            if record["name"] != "ours":
                yield Figure(f"{name}: time / ours", record["time_ratio"], "x")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
