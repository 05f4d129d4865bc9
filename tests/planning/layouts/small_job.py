"""A job of four layers of a released model on two GPUs, which takes seconds to plan."""

from dataclasses import replace

from editcaption_mega.model.released import released_architecture
from editcaption_mega.planning.layouts.modes import PlannedJob
from editcaption_mega.planning.timing.hardware import load_hardware
from editcaption_mega.planning.workload import Workload
from editcaption_mega.settings import load_job
from tests.helpers import ROOT

NEEDED_GIB = 23.8  # of a rank, by fit


def small_job(memory_gib: float) -> PlannedJob:
    changes = ["training.global_batch_size=4", "data.sequence_length=2880"]
    settings = load_job(ROOT / "configs/sft_qwen3_vl_2b.yaml", changes)
    architecture = replace(released_architecture("Qwen3-VL-2B"), num_layers=4)
    return PlannedJob(settings, architecture, Workload(), 2, load_hardware("h100"), memory_gib)
