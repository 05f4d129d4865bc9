#!/usr/bin/env python
"""Whether one GPU computes what it should, and how fast: a table, JSON beside it. On a CPU the same at small sizes.

Each part runs in a process of its own; one that fails or takes too long does not stop the others."""

import argparse
import hashlib
import importlib
import json
import math
import multiprocessing
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parent))  # for `gpu_checks`: Python leaves it out under -P

from editcaption_mega import cli  # noqa: E402

EXAMPLE = """
make gpu-check
python tools/gpu_check.py --only machine,kernels,steps --again
python tools/gpu_check.py --page docs/performance.md
"""
# What is right comes first, then how fast; each adds to the report when it ends.
PARTS = {
    "machine": "ceilings of copies and products",
    "kernels": "log-prob operators against fp64",
    "memory_errors": "kernels under compute-sanitizer",
    "attention": "packed attention against the CPU",
    "experts": "grouped products, some experts empty",
    "jobs": "SFT and DPO of a tiny MoE against the CPU, through the launch scripts",
    "layers": "a decoder layer of 32B and of 235B, the vision tower",
    "steps": "SFT and DPO steps of 2B with pictures of real size, beside their plan",
    "kernel_speed": "log-prob operators against their peers",
}
MEASUREMENTS = ROOT / "docs/measurements"
ALL_PARTS, ONE_PART = 360.0, 180.0  # seconds at most, on a GPU; a CPU takes its time


def parser() -> argparse.ArgumentParser:
    parts = "; ".join(f"{name}: {text}" for name, text in PARTS.items())
    parser = cli.argument_parser(__doc__, EXAMPLE)
    parser.add_argument("--output", type=Path, default=Path("runs/gpu-check"), help="folder of the report")
    parser.add_argument("--only", metavar="A,B", help=f"parts, in this order: {parts}")
    parser.add_argument("--again", action="store_true", help="also what this folder has of the same code and machine")
    parser.add_argument(
        "--seconds", type=float, help=f"for everything; later parts are left out (on a GPU {ALL_PARTS:.0f})"
    )
    parser.add_argument("--keep", action="store_true", help="put the report among those of docs/performance.md")
    parser.add_argument("--page", type=Path, metavar="FILE.md", help="only write the page of the kept reports")
    return parser


def main(argv):
    arguments = parser().parse_args(argv)
    from gpu_checks import report

    if arguments.page:
        arguments.page.write_text(report.page(MEASUREMENTS), encoding="utf-8")
        return 0
    chosen = arguments.only.split(",") if arguments.only else list(PARTS)
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        raise cli.ArgumentError(f"--only {unknown[0]}: no such part; there are {', '.join(PARTS)}")
    if arguments.seconds is not None and not arguments.seconds > 0:
        raise cli.ArgumentError(f"--seconds must be above 0, found {arguments.seconds:g}")
    if arguments.output.exists() and not arguments.output.is_dir():
        raise cli.ArgumentError(f"--output {arguments.output} is a file: name a folder")
    arguments.output.mkdir(parents=True, exist_ok=True)
    result = check(arguments, ["machine", *(name for name in PARTS if name in chosen and name != "machine")])
    table = report.markdown(result)
    for name, text in (("gpu_check.json", json.dumps(result, indent=1) + "\n"), ("gpu_check.md", table)):
        (arguments.output / name).write_text(text, encoding="utf-8")
    print(table, end="")
    if arguments.keep:
        MEASUREMENTS.mkdir(parents=True, exist_ok=True)
        words = "".join(c if c.isalnum() else "-" for c in f"{result['machine']}-{result['date']}".lower())
        (MEASUREMENTS / f"{words}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    wrong = report.problems(result)
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    return int(bool(wrong))


def check(arguments: argparse.Namespace, chosen: list[str]) -> dict[str, Any]:
    """Run the parts -> the report."""
    import torch

    began, identity = time.monotonic(), code_digest()
    on_gpu = torch.cuda.device_count() > 0  # without starting CUDA, which a fork could not use
    limit = arguments.seconds or (ALL_PARTS if on_gpu else math.inf)
    results: list[dict[str, Any]] = []
    for part in chosen:
        path = arguments.output / f"{part}.json"
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and not arguments.again else {}
        if earlier.get("code") == [identity, on_gpu] and not earlier["error"]:
            say(f"{part}: as before, {earlier['seconds']:.0f} s then")
            results.append(earlier)
            continue
        left = limit - (time.monotonic() - began)
        if left < 1:
            late = "no time was left: give more --seconds"
            results.append({"part": part, "seconds": 0.0, "figures": [], "error": late})
            continue
        say(f"{part}: {PARTS[part]}")
        ceilings = {f["name"]: f["value"] for r in results if r["part"] == "machine" for f in r["figures"]}
        result = in_own_process(part, arguments.output, on_gpu, ceilings, min(left, ONE_PART if on_gpu else math.inf))
        path.write_text(json.dumps({**result, "code": [identity, on_gpu]}), encoding="utf-8")
        results.append(result)
        say(f"{part}: {result['seconds']:.0f} s" + (f", FAILED: {result['error']}" if result["error"] else ""))
    return {
        "machine": torch.cuda.get_device_name(0) if on_gpu else "CPU",
        "on_gpu": on_gpu,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "seconds": time.monotonic() - began,
        "parts": [{key: value for key, value in result.items() if key != "code"} for result in results],
    }


def in_own_process(part: str, output: Path, on_gpu: bool, ceilings: dict, seconds: float) -> dict[str, Any]:
    """A part's figures so far, whatever becomes of its process."""
    began = time.monotonic()
    context = multiprocessing.get_context("fork")  # PyTorch is imported once, and CUDA not yet started
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=execute, args=(part, output, on_gpu, ceilings, sender))
    process.start()
    sender.close()
    figures: list[dict[str, Any]] = []
    error: str | None = "its process ended without a word"
    while True:
        left = seconds - (time.monotonic() - began)
        if not receiver.poll(None if math.isinf(left) else max(0.0, left)):
            error = f"more than {seconds:.0f} s"
            break
        try:
            kind, value = receiver.recv()
        except EOFError:
            break
        if kind == "end":
            error = value
            break
        figures.append(value)
    process.kill() if error else process.join(30)
    process.join()
    return {"part": part, "seconds": time.monotonic() - began, "error": error, "figures": figures}


def execute(part: str, output: Path, on_gpu: bool, ceilings: dict, sender: Any) -> None:
    """In the part's process: its figures, one by one, and how it ended."""
    import torch
    from gpu_checks.figures import Machine

    from editcaption_mega import platform

    try:
        platform.prepare()
        machine = Machine(torch.device("cuda", 0) if on_gpu else torch.device("cpu"), output, ceilings)
        for figure in importlib.import_module(f"gpu_checks.{part}").run(machine):
            sender.send(("figure", figure.to_json(on_gpu)))
        sender.send(("end", None))
    except BaseException as error:
        (output / f"{part}.traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        words = " ".join(str(error).split())[:300]
        sender.send(("end", f"{type(error).__name__}: {words}"))


def code_digest() -> str:
    """Of everything that a part executes, so that a changed line measures again."""
    digest = hashlib.sha256()
    for folder in ("editcaption_mega", "csrc", "tools", "configs", "launch"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "not known"
    return done.stdout.strip()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
