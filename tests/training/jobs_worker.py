"""Runs on every rank: one job after another, each of a file of settings.

Usage: -m tests.training.jobs_worker CONFIG.yaml [CONFIG.yaml ...].
"""

import os
import sys

import torch.distributed as dist

from editcaption_mega.settings import DPOSettings, load_job
from editcaption_mega.training import run_dpo, run_sft


def main(configs: list[str]) -> None:
    for config in configs:
        # A rendezvous of its own for each job.
        dist.init_process_group(
            "gloo",
            init_method=f"file://{config}.rendezvous",
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
        settings = load_job(config)
        run_dpo(settings) if isinstance(settings, DPOSettings) else run_sft(settings)


if __name__ == "__main__":
    main(sys.argv[1:])
