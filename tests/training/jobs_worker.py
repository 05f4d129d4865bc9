"""Runs on every rank: one job after another, each of a file of settings; of files behind --together one job of all.

Usage: -m tests.training.jobs_worker CONFIG.yaml [CONFIG.yaml ...] [--together CONFIG.yaml [CONFIG.yaml ...]].
"""

import os
import sys

import torch.distributed as dist

from editcaption_mega.settings import DPOSettings, JobSettings, load_job
from editcaption_mega.training import run_dpo, run_several, run_sft
from editcaption_mega.training.session import Ending
from editcaption_mega.training.shared_base import SharedBase


def main(words: list[str]) -> None:
    apart = words.index("--together") if "--together" in words else len(words)
    for config in words[:apart]:
        meet(config)
        train(load_job(config))
    together = words[apart + 1 :]
    if together:
        meet(together[0])
        run_several({config: load_job(config) for config in together}, train)


def meet(config: str) -> None:
    """A rendezvous of its own for each job."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{config}.rendezvous",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )


def train(settings: JobSettings, base: SharedBase | None = None) -> Ending:
    if isinstance(settings, DPOSettings):
        return run_dpo(settings, base=base)
    return run_sft(settings, base)


if __name__ == "__main__":
    main(sys.argv[1:])
