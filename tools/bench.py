"""Measures the project against everything installed that does the same work, on this machine.

Peers beside PyTorch and Megatron-Core are measured when they are installed: pip install -e .[bench]

Example: tools/bench.py kernels --dtype bfloat16 --rows 512 --vocab 151936 --hidden 2048 --output runs/bench
"""

import argparse
import json
import platform
import sys
from pathlib import Path

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SUITES = {
    "kernels": "log-probs from logits and from hidden rows, forward and backward, against each installed peer",
    "dpo-rows": "a shared-prompt row against two plain packed sequences",
    "dpo-step": "whole DPO steps against TRL's DPOTrainer, the same model and pairs",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told = "; ".join(f"{name}: {text}" for name, text in SUITES.items())
    parser.add_argument("suite", choices=list(SUITES), help=f"what to measure ({told})")
    parser.add_argument("--repeats", type=int, default=3, help="turns; the median counts (default 3)")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder for SUITE.md, SUITE.json")
    kernels = parser.add_argument_group("kernels")
    kernels.add_argument("--rows", type=int, default=512, help="response tokens (default 512)")
    kernels.add_argument("--tokens", type=int, default=16384, help="tokens of the whole batch (default 16384)")
    kernels.add_argument("--vocab", type=int, default=32768)
    kernels.add_argument("--hidden", type=int, default=512)
    kernels.add_argument("--dtype", choices=list(DTYPES), default="float32")
    kernels.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    dpo = parser.add_argument_group("dpo-rows, dpo-step (on the CPU)")
    dpo.add_argument("--prompt", type=int, default=2500, help="dpo-rows: tokens of the prompt (default 2500)")
    dpo.add_argument("--response", type=int, default=100, help="dpo-rows: tokens of each answer (default 100)")
    dpo.add_argument("--pairs", type=int, default=32, help="dpo-step: pairs in a step (default 32)")
    arguments = parser.parse_args()
    for name in ("rows", "tokens", "vocab", "hidden", "repeats", "response"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, found {getattr(arguments, name)}")
    if arguments.prompt < 64:
        parser.error(f"--prompt must be at least 64, to hold two pictures, found {arguments.prompt}")
    if arguments.pairs < 1 or arguments.pairs % 4:
        parser.error(f"--pairs must be a multiple of 4 (TRL takes 4 at a time), found {arguments.pairs}")
    measure = {"kernels": kernel_suite, "dpo-rows": dpo_rows, "dpo-step": dpo_step}[arguments.suite]
    records, table, machine = measure(parser, arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / f"{arguments.suite}.md").write_text(table)
    content = json.dumps({"machine": machine, "records": records}, indent=2)
    (arguments.output / f"{arguments.suite}.json").write_text(content + "\n")
    print(table, end="")
    return 0


def kernel_suite(parser: argparse.ArgumentParser, arguments: argparse.Namespace):
    from bench_kernels import Case, markdown, measure

    if arguments.rows > arguments.tokens:
        parser.error(f"--rows {arguments.rows} are part of --tokens {arguments.tokens} and can't be more")
    if arguments.device not in ("cpu", "cuda"):
        parser.error(f"--device must be cpu or cuda, found {arguments.device}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here; use --device cpu")
    device = torch.device(arguments.device, 0) if arguments.device == "cuda" else torch.device("cpu")
    sizes = (arguments.rows, arguments.tokens, arguments.vocab, arguments.hidden)
    records = measure(Case(*sizes, DTYPES[arguments.dtype], device), arguments.repeats, say)
    machine = machine_facts(
        arguments.repeats,
        "{} response rows of {}, vocabulary {}, hidden {}, {}".format(*sizes, arguments.dtype),
        torch.cuda.get_device_name(0) if device.type == "cuda" else "",
    )
    return records, markdown(records, machine), machine


def dpo_rows(parser: argparse.ArgumentParser, arguments: argparse.Namespace):
    from bench_dpo import markdown, measure_rows

    records = measure_rows(arguments.prompt, arguments.response, arguments.repeats, say)
    case = f"forward and backward of one pair, prompt {arguments.prompt}, answers {arguments.response} tokens, fp32"
    machine = machine_facts(arguments.repeats, case)
    return records, markdown(records, machine), machine


def dpo_step(parser: argparse.ArgumentParser, arguments: argparse.Namespace):
    try:
        import trl  # noqa: F401
    except ImportError:
        parser.error("dpo-step compares with trl, which is not installed: pip install -e .[test]")
    from bench_dpo import MICRO_BATCH, markdown, measure_step

    records = measure_step(arguments.pairs, arguments.repeats, say)
    case = (
        f"whole DPO steps of {arguments.pairs} pairs with two pictures of 81 tokens, fp32; TRL takes {MICRO_BATCH} "
        "pairs at once; pairs/s counts reading the pictures"
    )
    machine = machine_facts(arguments.repeats, case)
    return records, markdown(records, machine), machine


def machine_facts(repeats: int, case: str, device: str = "") -> dict:
    return {
        "device": device or platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": repeats,
        "case": case,
    }


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
