#!/usr/bin/env python
"""Whether one GPU computes what it should, and how fast: a table, JSON beside it. On a CPU the same at small sizes.

Each part runs in a process of its own; one that fails or takes too long does not stop the others."""

import argparse
import gc
import hashlib
import importlib
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parent))  # for `gpu_checks`: Python leaves it out under -P

from editcaption_mega import cli  # noqa: E402
from editcaption_mega.files import write_atomically  # noqa: E402

EXAMPLE = """
make gpu-check
python tools/gpu_check.py --only machine,kernels,steps --again
python tools/gpu_check.py --page docs/performance.md
"""
# What is right comes first, then how fast; each adds to the report when it ends.
PARTS = {
    "machine": "ceilings of copies and products",
    "kernels": "log-prob operators against fp64",
    "layer_kernels": "kernels of layers against fp64, and against a copy",
    "memory_errors": "kernels under compute-sanitizer",
    "attention": "packed attention against the CPU",
    "experts": "grouped products, some experts empty",
    "jobs": "SFT and DPO of a tiny MoE against the CPU, through the launch scripts",
    "layers": "a decoder layer of 32B and of 235B, the vision tower",
    "steps": "SFT and DPO steps of 2B with pictures of real size, beside their plan",
    "peers": "SFT and DPO steps of 2B against a plain transformers loop, the same weights and rows",
    "feeding": "SFT steps of 2B from shards, and what they wait for the loader",
    "kernel_speed": "log-prob operators against their peers",
}
MEASUREMENTS = ROOT / "docs/measurements"
# Seconds on a GPU, where all parts together have ALL_PARTS; a CPU takes its time. What a part does not use is divided
# among those behind it, and so is the time of parts that were not chosen, or are known from before.
ALL_PARTS = 360.0
BUDGETS = {
    "machine": 5.0, "kernels": 15.0, "layer_kernels": 20.0, "memory_errors": 30.0, "attention": 10.0, "experts": 5.0,
    "jobs": 65.0, "layers": 25.0, "steps": 50.0, "peers": 55.0, "feeding": 30.0, "kernel_speed": 50.0,
}  # fmt: skip


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
    chosen = list(PARTS) if arguments.only is None else arguments.only.split(",")
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        raise cli.ArgumentError(f"--only {unknown[0] or repr('')}: no such part; there are {', '.join(PARTS)}")
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
    on_gpu = sees_gpu()
    limit = arguments.seconds or (ALL_PARTS if on_gpu else math.inf)
    code = [identity, *cards(on_gpu)]
    known = {} if arguments.again else {part: earlier_result(arguments.output, part, code) for part in chosen}
    missing = [part for part in chosen if known.get(part) is None]
    results: list[dict[str, Any]] = []
    if missing:
        import_once()
    for part in chosen:
        if (earlier := known.get(part)) is not None:
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
        seconds = share_of(part, missing, left)
        result = in_own_process(part, arguments.output, on_gpu, ceilings, seconds)
        write_atomically(arguments.output / f"{part}.json", json.dumps({**result, "code": code}))
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


def import_once() -> None:
    """What parts import takes seconds: their processes are forked from this one, which starts no CUDA by it."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # else asking for a GPU starts CUDA
    importlib.import_module("gpu_checks.peers")
    importlib.import_module("gpu_checks.feeding")
    gc.collect()
    gc.freeze()  # else each collection in a part, one before every measurement, looks at all of it again


def sees_gpu() -> bool:
    """Asked in a process of its own: where NVML cannot answer, asking starts CUDA, which no fork could use then."""
    import torch

    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=lambda: sender.send(torch.cuda.device_count()))
    process.start()
    sender.close()
    try:
        return int(receiver.recv()) > 0
    except EOFError:
        return False
    finally:
        process.join()


def share_of(part: str, missing: list[str], left: float) -> float:
    """The seconds of a part, of those that are left for it and for what comes behind it."""
    rest = missing[missing.index(part) :]
    return left * BUDGETS[part] / sum(BUDGETS[name] for name in rest)


def cards(on_gpu: bool) -> list[str]:
    """What figures depend on beside the code: PyTorch, and the GPU as its driver names it."""
    import torch

    if not on_gpu:
        return [torch.__version__, "CPU"]
    command = ["nvidia-smi", "--query-gpu=name,uuid", "--format=csv,noheader"]
    try:
        named = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        named = "a GPU"
    return [torch.__version__, named]


def earlier_result(output: Path, part: str, code: list[str]) -> dict[str, Any] | None:
    """What the same code on the same machine measured; None where there is no such file, or another's."""
    from gpu_checks import report

    try:
        result = json.loads((output / f"{part}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not report.is_part(result) or (result["part"], result.get("code"), result["error"]) != (part, code, None):
        return None
    return {**result}


def in_own_process(part: str, output: Path, on_gpu: bool, ceilings: dict, seconds: float) -> dict[str, Any]:
    """A part's figures so far, whatever becomes of its process."""
    began = time.monotonic()
    (output / f"{part}.traceback.txt").unlink(missing_ok=True)  # of an earlier run
    context = multiprocessing.get_context("fork")  # everything is imported once, and CUDA not yet started
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=begin, args=(part, output, on_gpu, ceilings, sender))
    process.start()
    sender.close()
    figures: list[dict[str, Any]] = []
    try:
        error = received(receiver, figures, seconds)
        if error is None:
            process.join(30)
    finally:  # also when this process is asked to end
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)  # with the programs that it has started
        process.kill()
        process.join()
    return {"part": part, "seconds": time.monotonic() - began, "error": error, "figures": figures}


def received(receiver: Any, figures: list[dict[str, Any]], seconds: float) -> str | None:
    """Add a part's figures as they come -> why there are no more; None when it has all."""
    began = time.monotonic()
    while True:
        left = seconds - (time.monotonic() - began)
        if not receiver.poll(None if math.isinf(left) else max(0.0, left)):
            return f"more than {seconds:.0f} s"
        try:
            kind, value = receiver.recv()
        except EOFError:
            return "its process ended without a word"
        if kind == "end":
            return None if value is None else str(value)
        figures.append(value)


def begin(*arguments: Any) -> None:
    """In a part's process: a group of its own, which ends with the process that asked for the part."""
    os.setpgid(0, 0)

    def watch() -> None:
        caller = multiprocessing.parent_process()
        assert caller is not None
        caller.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    execute(*arguments)


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
        with suppress(OSError):  # a full disk hides no reason
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
