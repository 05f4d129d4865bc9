#!/usr/bin/env python
"""Execute a job's step on tensors without values, at its own size, and say whether it fits and how fast it is."""

import json
from pathlib import Path

from editcaption_mega.cli import argument_parser, positive, progress, run
from editcaption_mega.model.released import architecture_to_plan
from editcaption_mega.planning.advice import advice_lines
from editcaption_mega.planning.plan import make_plan
from editcaption_mega.planning.plan_picture import draw_plan
from editcaption_mega.planning.plan_text import lines_of, plan_summary
from editcaption_mega.planning.timing.hardware import load_hardware
from editcaption_mega.planning.workload import Workload
from editcaption_mega.settings import before_work, load_job

EXAMPLE = """
python tools/plan.py configs/sft_qwen3_vl_235b_a22b.yaml --gpus 256
python tools/plan.py configs/dpo_qwen3_vl_32b.yaml model.recompute=none --gpus 64 --hardware h200 --json plan.json
"""


def main(argv):
    parser = argument_parser(__doc__, EXAMPLE)
    parser.add_argument("config", metavar="CONFIG", help="YAML file of an SFT or DPO job")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")
    parser.add_argument("--gpus", type=positive, required=True, metavar="N", help="GPUs of the job")
    parser.add_argument("--hardware", default="h100", metavar="h100|h200|FILE")
    parser.add_argument("--gpu-memory", type=float, metavar="GIB", help="of one GPU (default: the hardware's)")
    parser.add_argument("--imbalance", type=float, default=1.0, help="tokens of the fullest expert rank over the mean")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the plan as JSON")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the pipeline and the memory")
    args = parser.parse_args(argv)
    settings = load_job(args.config, args.overrides)
    with before_work():  # a plan is of settings, and what it refuses is for them to mend
        architecture, workload = architecture_to_plan(settings.model.folder), Workload()
        plan = make_plan(
            settings, architecture, workload, args.gpus, load_hardware(args.hardware),
            memory_gib=args.gpu_memory, imbalance=args.imbalance, progress=progress,
        )  # fmt: skip
    print("\n".join(lines_of(plan)))
    print()
    print("\n".join(advice_lines(plan, architecture, workload)))
    print()
    print(plan_summary(plan))
    if args.json:
        args.json.write_text(json.dumps(plan.to_json(), indent=1) + "\n", encoding="utf-8")
    if args.picture:
        draw_plan(plan).save(args.picture)


if __name__ == "__main__":
    run(main)
