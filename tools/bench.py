"""Measures the project's kernels against everything installed that does the same work, on this machine.

Peers beside PyTorch and Megatron-Core are measured when they are installed: pip install -e .[bench]

Example: tools/bench.py kernels --dtype bfloat16 --rows 512 --vocab 151936 --hidden 2048 --output runs/bench
"""

import argparse
import json
import platform
import sys
from pathlib import Path

import torch
from bench_kernels import Case, markdown, measure

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=["kernels"], help="what to measure")
    parser.add_argument("--rows", type=int, default=512, help="response tokens (default 512)")
    parser.add_argument("--tokens", type=int, default=16384, help="tokens of the whole batch (default 16384)")
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--repeats", type=int, default=3, help="turns; the median counts (default 3)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder for kernels.md, kernels.json")
    arguments = parser.parse_args()
    for name in ("rows", "tokens", "vocab", "hidden", "repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, found {getattr(arguments, name)}")
    if arguments.rows > arguments.tokens:
        parser.error(f"--rows {arguments.rows} are part of --tokens {arguments.tokens} and can't be more")
    if arguments.device not in ("cpu", "cuda"):
        parser.error(f"--device must be cpu or cuda, found {arguments.device}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here; use --device cpu")
    device = torch.device(arguments.device, 0) if arguments.device == "cuda" else torch.device("cpu")
    sizes = (arguments.rows, arguments.tokens, arguments.vocab, arguments.hidden)
    case = Case(*sizes, DTYPES[arguments.dtype], device)
    records = measure(case, arguments.repeats, lambda line: print(line, file=sys.stderr, flush=True))
    machine = {
        "device": torch.cuda.get_device_name(0) if device.type == "cuda" else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": arguments.repeats,
        "case": "{} response rows of {}, vocabulary {}, hidden {}, {}".format(*sizes, arguments.dtype),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    table = markdown(records, machine)
    (arguments.output / "kernels.md").write_text(table)
    content = json.dumps({"machine": machine, "records": records}, indent=2)
    (arguments.output / "kernels.json").write_text(content + "\n")
    print(table, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
