"""Say of a job, at its own size and without GPUs, whether it fits and how fast it is, or which layout is best."""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from editcaption_mega.cli import ArgumentError, argument_parser, between, check_output_file, positive
from editcaption_mega.planning.timing.hardware import MOST_GIB, load_hardware
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import SettingsError, before_work, load_job

if TYPE_CHECKING:
    from editcaption_mega.planning.layouts.modes import PlannedJob

EXAMPLE = """
editcaption plan configs/sft_qwen3_vl_235b_a22b.yaml --gpus 256
editcaption plan configs/sft_qwen3_vl_32b.yaml --gpus 64 --mode search --top 5
editcaption plan configs/dpo_qwen3_vl_32b.yaml model.recompute=none --gpus 64 --hardware h200 --json plan.json
"""
MODES = """fit: put together from the costs of one layer, the first stage and the last, in seconds; dry-run (default):
execute a step of every distinct rank without values; search: the best layouts, row lengths and recomputation by fit,
and a dry run of each"""


def main(argv: Sequence[str]) -> int | None:
    parser = argument_parser(__doc__, EXAMPLE)
    parser.add_argument("config", metavar="CONFIG", help="YAML file of an SFT or DPO job")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")
    parser.add_argument("--gpus", type=positive, required=True, metavar="N", help="GPUs of the job")
    parser.add_argument("--mode", choices=("fit", "dry-run", "search"), default="dry-run", help=MODES)
    parser.add_argument("--top", type=positive, metavar="K", help="search: layouts to execute and show (default 3)")
    parser.add_argument("--hardware", default="h100", metavar="h100|h200|FILE")
    memory = between(0.01, MOST_GIB)
    parser.add_argument("--gpu-memory", type=memory, metavar="GIB", help="of one GPU (default: the hardware's)")
    imbalance = "tokens of the fullest expert rank over the mean (default 1)"
    parser.add_argument("--imbalance", type=between(1, 1000), default=1.0, metavar="RATIO", help=imbalance)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the plan as JSON")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="dry-run: draw the pipeline and the memory")
    args = parser.parse_args(argv)
    if args.picture and args.mode != "dry-run":
        parser.error(f"--picture is of --mode dry-run, not of {args.mode}")
    if args.top and args.mode != "search":
        parser.error(f"--top is of --mode search, not of {args.mode}")
    check_output_files(args)
    settings = load_job(args.config, args.overrides)
    with before_work():  # a plan is of settings, and what it refuses is for them to mend
        hardware = load_hardware(args.hardware)
        from editcaption_mega.model.released import architecture_to_plan
        from editcaption_mega.planning.layouts.modes import PlannedJob, best_layouts, quick_fit
        from editcaption_mega.planning.workload import Workload

        job = PlannedJob(
            settings, architecture_to_plan(settings.model.folder), Workload(), args.gpus, hardware,
            hardware.memory_gib if args.gpu_memory is None else args.gpu_memory, args.imbalance,
        )  # fmt: skip
        check_imbalance(job, args.mode)
        if args.mode == "dry-run":
            return dry_run(job, args)
        answer = quick_fit(job, progress) if args.mode == "fit" else best_layouts(job, args.top or 3, progress)
    print("\n".join(answer.lines))
    if args.json:
        args.json.write_text(json.dumps(answer.json, indent=1) + "\n", encoding="utf-8")
    return ended(answer.problem)


def check_output_files(args: Namespace) -> None:
    check_output_file("--json", args.json)
    check_output_file("--picture", args.picture)
    if args.picture and args.picture.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ArgumentError(f"--picture {args.picture} is of no known kind: name a file that ends with .png")
    if args.picture and args.json and args.picture.resolve() == args.json.resolve():
        raise ArgumentError(f"--json and --picture both name {args.json}: name two files")


def check_imbalance(job: "PlannedJob", mode: str) -> None:
    """Of ranks that share the experts of a layer none gets more than all tokens."""
    ranks = 1 if job.architecture.experts is None else job.settings.parallel.expert_model_parallel_size
    if mode == "search" and job.architecture.experts is not None:
        return  # layouts differ in it, and a rank gets at most all
    if job.imbalance > ranks:
        raise ArgumentError(
            f"--imbalance {job.imbalance:g} is more than the {ranks} ranks that share experts "
            "(parallel.expert_model_parallel_size): one that gets all tokens has that many times the mean"
        )


def dry_run(job: "PlannedJob", args: Namespace) -> int:
    from editcaption_mega.planning.advice import advice_lines
    from editcaption_mega.planning.layouts.modes import quick_fit
    from editcaption_mega.planning.plan import make_plan
    from editcaption_mega.planning.plan_picture import draw_plan
    from editcaption_mega.planning.plan_text import lines_of, plan_summary

    plan = make_plan(
        job.settings, job.architecture, job.workload, job.world_size, job.hardware,
        memory_gib=job.memory_gib, imbalance=job.imbalance, progress=progress,
    )  # fmt: skip
    print("\n".join(lines_of(plan)))
    print()
    print("\n".join(advice_lines(plan, job.architecture, job.workload)))
    print()
    print(plan_summary(plan))
    if args.json:
        args.json.write_text(json.dumps(plan.to_json(), indent=1) + "\n", encoding="utf-8")
    if args.picture:
        draw_plan(plan).save(args.picture)
    if plan.fits:
        return 0
    try:
        problem = quick_fit(job, progress).problem
    except SettingsError as error:  # adapters that differ from layer to layer
        problem = f"{plan_summary(plan)}; which layout would fit is not known: {error}"
    return ended(problem or plan_summary(plan))


def ended(problem: str) -> int:
    """The exit code: 1, with the sentence, where something does not fit."""
    if problem:
        print(f"error: {problem}", file=sys.stderr)
    return int(bool(problem))
