"""Plan every shipped configuration at its own size and write the table: `make configurations`, or

python -m tests.planning.configurations --write docs/configurations.md
"""

import argparse
from pathlib import Path

from editcaption_mega.model.released import architecture_to_plan
from editcaption_mega.planning.plan import GIB, JobPlan, make_plan
from editcaption_mega.planning.timing.hardware import load_hardware
from editcaption_mega.planning.workload import UNIFORM
from editcaption_mega.settings import load_job
from tests.helpers import ROOT

from .step_checks import CONFIGS, world_size

HEAD = """\
# Shipped configurations, as planned

Written by `make configurations`: each configuration's step, executed without values for every rank role at its own
size ([planning.md](planning.md)), on one NVIDIA H100 of 80 GB per rank. Memory is that of the fullest rank, with what
is reserved beside tensors; seconds are estimates by the rates in
[h100.yaml](../editcaption_mega/planning/timing/gpus/h100.yaml) until a GPU has confirmed them. Samples are two pictures
of 1,280 tokens, 51 tokens of prompt and answers of 60. Why a configuration is as it is says its own first comment;
settings for other numbers of GPUs are in [gpu_counts.md](gpu_counts.md), and others are found with
`tools/plan.py CONFIG --gpus N --mode search`.

"""
COLUMNS = (
    "configuration", "GPUs", "layout", "micro-batches x tokens", "memory GiB", "free", "step s", "pairs/s", "MFU",
    "bubble", "slowest stage",
)  # fmt: skip


def planned(config: str) -> JobPlan:
    settings, hardware = load_job(ROOT / "configs" / config), load_hardware("h100")
    architecture = architecture_to_plan(settings.model.folder)
    return make_plan(settings, architecture, UNIFORM, world_size(config), hardware)


def row_of(config: str, plan: JobPlan) -> str:
    parallel, record, time = plan.settings.parallel, plan.records[0], plan.time
    sizes = {"TP": parallel.tensor_model_parallel_size, "PP": parallel.pipeline_model_parallel_size}
    sizes |= {"EP": parallel.expert_model_parallel_size, "DP": parallel.data_parallel_size(plan.world_size)}
    layout = " ".join(f"{name}{size}" for name, size in sizes.items() if size > 1)
    needed = plan.needed(plan.records[plan.worst]) / GIB
    return (
        f"| [{config}](../configs/{config}) | {plan.world_size} | {layout} | {record.micro_batches} x "
        f"{record.row_length:,} | {needed:.1f} of {plan.memory_gib:.1f} | {100 * plan.headroom:.0f} % | "
        f"{time.seconds:.2f} | {plan.pairs_per_second:.1f} | {100 * time.mfu:.1f} % | {100 * time.bubble:.0f} % | "
        f"{time.imbalance:.2f} x the mean |\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="file for the table; without it the table is printed")
    arguments = parser.parse_args()
    lines = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
    text = HEAD + lines + "".join(row_of(config, planned(config)) for config in CONFIGS)
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
