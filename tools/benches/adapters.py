"""Memory and time of a step that trains adapters, against one that trains all weights of the same model: each kind in a
process of its own, in turns. `tools/bench.py lora` is the command."""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from editcaption_mega import platform
from editcaption_mega.settings import AdapterSettings
from editcaption_mega.training.checkpoint import stored_ranges

from .checkpoints import size_of
from .measuring import machine_facts, peak, reset_peak
from .sft_steps import OurSteps, write_pairs
from .ways import CPU, scratch_folder

KINDS = {
    "all weights": AdapterSettings(),
    "LoRA": AdapterSettings(rank=16),
    "LoRA of attention": AdapterSettings(rank=16, modules=["self_attn.*"]),
    "DoRA": AdapterSettings(rank=16, dora=True),
}
STEPS = 4  # timed; two before show the peak


def measured(arguments: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[dict], str, dict]:
    """What `tools/bench.py` prints and writes."""
    runs: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    with scratch_folder(size_of(arguments.gigabytes)) as root:
        write_pairs(root / "pairs", 1)
        for number in range(1, arguments.repeats + 1):
            say(f"turn {number} of {arguments.repeats}")
            for kind in KINDS:
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                    runs[kind].append(alone.submit(measure, root, kind, torch.get_num_threads()).result())
    full = runs["all weights"]
    records = [{"name": kind, **against(of_kind, full)} for kind, of_kind in runs.items()]
    case = f"an SFT step of one pair, fp32, checkpoint of all weights {full[0]['state_bytes'] / 1e9:.2f} GB, rank 16"
    machine = machine_facts(arguments.repeats, case)
    return records, markdown(records, machine), machine


def against(runs: list[dict], others: list[dict]) -> dict:
    """Medians of the turns, and of their ratios to those of others."""
    numbers: dict[str, float] = {}
    for name in runs[0]:
        numbers[name] = statistics.median(run[name] for run in runs)
        ratios = [run[name] / other[name] for run, other in zip(runs, others, strict=True)]
        numbers[f"{name}_ratio"] = statistics.median(ratios)
    return numbers


def measure(root: Path, kind: str, threads: int) -> dict:
    """In a process of its own. peak_bytes: what model, optimizer and two steps added; state_bytes: of what is trained,
    with its moments, as a checkpoint has it."""
    torch.set_num_threads(threads)
    platform.initialize(platform.Layout(), seed=1)
    try:
        before = reset_peak(CPU)
        step = OurSteps(root, 1, KINDS[kind])
        step(), step()
        most, seconds = peak(CPU) - before, []
        for _ in range(STEPS):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
        state = sum(stored.values.nbytes for stored in stored_ranges(step.shards, step.state.optimizer))
        return {"peak_bytes": most, "state_bytes": state, "seconds": statistics.median(seconds)}
    finally:
        platform.destroy()


def markdown(records: list[dict], machine: dict) -> str:
    lines = [
        f"{machine['case']}; {machine['device']}, {machine['threads']} threads, PyTorch {machine['torch']}, medians of "
        f"{machine['repeats']} turns",
        "",
        "| trained | trained state, MiB | of all weights' | peak, MiB | of all weights' | time of all weights' |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for record in records:
        lines.append(
            f"| {record['name']} | {record['state_bytes'] / 2**20:,.1f} | {100 * record['state_bytes_ratio']:.2f} % | "
            f"{record['peak_bytes'] / 2**20:,.0f} | {record['peak_bytes_ratio']:.2f} | {record['seconds_ratio']:.2f} |"
        )
    return "\n".join(lines) + "\n"
