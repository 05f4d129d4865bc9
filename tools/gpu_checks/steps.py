"""Whole SFT and DPO steps of 2B with pictures of real size: time, memory and host waits, beside what was planned."""

import gc
import statistics
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from benches.measuring import peak, reset_peak, timed, write_profile

from editcaption_mega import platform
from editcaption_mega.data.batching.loader import Step
from editcaption_mega.model import Architecture
from editcaption_mega.planning.dry_run.rank_step import job_objective
from editcaption_mega.planning.plan import JobPlan, make_plan
from editcaption_mega.planning.timing.hardware import load_hardware
from editcaption_mega.planning.workload import Workload, planned_step
from editcaption_mega.settings import JobSettings
from editcaption_mega.training.loop import train_step
from editcaption_mega.training.setup import rank_share

from .figures import Figure, Figures, Machine
from .models import architecture_of, job_settings, model_with_weights, train_state_of

GIB = 2**30
# One GPU has the whole optimizer, so the vision tower's activations are made again to leave room for it.
GPU = ["training.global_batch_size=8", "model.recompute_vision=true"]
CPU = ["training.global_batch_size=4", "data.sequence_length=300", "data.max_pixels=65536", "data.min_pixels=1024"]
JOBS = {"SFT": "sft_qwen3_vl_2b.yaml", "DPO": "dpo_qwen3_vl_2b.yaml"}
REPEATS = 3


def job_of(kind: str, machine: Machine) -> tuple[JobSettings, Architecture, Workload]:
    """A job of 2B on one device, its model, and what a step trains on."""
    architecture = architecture_of("Qwen3-VL-2B", machine)
    workload = Workload(answer_tokens=machine.size(60, 10))
    return job_settings(JOBS[kind], machine, GPU, CPU), architecture, workload


def run(machine: Machine) -> Figures:
    card = torch.cuda.get_device_name() if machine.on_gpu else ""
    hardware = load_hardware("h200" if "H200" in card else "h100")
    with ThreadPoolExecutor(len(JOBS)) as threads:  # plans are executed in processes of their own
        jobs = {kind: job_of(kind, machine) for kind in JOBS}
        plans = {kind: threads.submit(make_plan, *job, 1, hardware) for kind, job in jobs.items()}
        for kind, job in jobs.items():
            yield from _measured(kind, *job, plans[kind], machine)


def _measured(
    kind: str,
    settings: JobSettings,
    architecture: Architecture,
    workload: Workload,
    planned: Future[JobPlan],
    machine: Machine,
) -> Figures:
    pairs = settings.training.global_batch_size
    platform.initialize(platform.Layout(), seed=1)
    try:
        step = planned_step(settings, architecture, workload, rank_share(settings.parallel))
        execute = _executor(settings, architecture, step)
        before = reset_peak(machine.device)
        execute()
        used = peak(machine.device)
        seconds = statistics.median(timed(execute, machine.device) for _ in range(machine.size(REPEATS, 1)))
        size = f"{pairs} pairs in {len(step.micro_batches)} rows of {step.length} tokens"
        yield Figure(f"{kind} step of 2B", seconds, "s", size)
        yield Figure(f"{kind} of 2B", pairs / seconds, "pairs/s")
        plan = planned.result()
        mfu = plan.time.mfu * plan.time.seconds / seconds
        counted = f"of {plan.hardware.name}, language and vision, nothing counted twice"
        yield Figure(f"{kind} of 2B: MFU", mfu, "", counted)
        ratio = seconds / plan.time.seconds
        yield Figure(f"{kind} step of 2B: measured / planned", ratio, "x", "by the hardware file")
        if not machine.on_gpu:
            held = (used - before) / GIB
            yield Figure(f"{kind} of 2B: peak of memory", held, "GiB", "of the process, beside the model")
            return
        expected = plan.records[0].peak.total
        yield Figure(f"{kind} of 2B: peak of tensors", used / GIB, "GiB", f"planned {expected / GIB:.1f}")
        yield Figure(f"{kind} of 2B: peak, measured / planned", used / expected, "x")
        waits, listed = _waits(execute), sum(plan.records[0].host_syncs.values())
        places = ", ".join(f"{place} x{count}" for place, count in waits.most_common(8))
        yield Figure(f"{kind} step of 2B: host waits", float(sum(waits.values())), "", f"planned {listed}; {places}")
        kinds = write_profile(execute, machine.output / f"profile-{kind}.txt")
        for name, spent in kinds.items():
            share = spent / sum(kinds.values())
            yield Figure(f"{kind} step of 2B: share of {name}", share, "", f"{spent:.3g} s of the device")
    finally:
        platform.destroy()
        execute = None
        gc.collect()
        if machine.on_gpu:
            torch.cuda.empty_cache()


def _executor(settings: JobSettings, architecture: Architecture, step: Step) -> Callable[[], None]:
    """A model with its optimizer and objective, as a function that trains on `step` once more."""
    state = train_state_of(model_with_weights(architecture, settings), architecture, settings)
    objective, _ = job_objective(settings, architecture, step)
    batches = [batch.to(platform.device()) for batch in step.micro_batches]  # in a job, while the step before runs

    def execute() -> None:
        train_step(state, objective, replace(step, micro_batches=batches))

    return execute


def _waits(execute: Callable[[], None]) -> Counter[str]:
    """Where one step makes the host wait for the GPU, as PyTorch notices it."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            execute()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Counter(
        f"{Path(warning.filename).name}:{warning.lineno}" for warning in seen if "synchroniz" in str(warning.message)
    )
