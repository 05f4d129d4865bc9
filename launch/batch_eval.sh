#!/usr/bin/env bash
#SBATCH --job-name=editcaption-eval
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
''':'
# Batch evaluation after training: every model writes instructions for every benchmark, judges score them, a report
# shows them. Shell and Python in one file; three ways to start it, from the repository root:
#   sbatch --array 0-7 --gpus 1 launch/batch_eval.sh configs/eval_qwen3_vl.yaml [key=value ...]
#   bash launch/batch_eval.sh configs/eval_demo.yaml [key=value ...]
#   torchrun --nproc-per-node 2 launch/batch_eval.sh configs/eval_demo.yaml [key=value ...]
# The tasks of an array (or the ranks of torchrun) divide the generation among them; whichever ends last puts the parts
# together, judges and reports. What is killed or requeued goes on where it was, with the same command; an array of
# other tasks (--array 3,5, --array 6) divides what is missing among these. Where the array is no regular series, say
# which part a task does: EDITCAPTION_PART=K/N (K from 0).
set -eu
root="${EDITCAPTION_ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "$0")/.." && pwd)}}"
export EDITCAPTION_ROOT="$root" PYTHONUNBUFFERED=1
[ -x "$root/.venv/bin/python" ] && PATH="$root/.venv/bin:$PATH"
exec python "$root/launch/batch_eval.sh" "$@"
':'''

import os
import sys
from pathlib import Path


def part(environment) -> list[str]:
    """This process's part of the generation, as tools/evaluate.py takes it; nothing when there is only one.

    Raises ValueError for an array of which it cannot be told which task is the how-manieth."""
    if environment.get("EDITCAPTION_PART"):
        return ["--part", environment["EDITCAPTION_PART"]]
    number, count = array_part(environment) if "SLURM_ARRAY_TASK_ID" in environment else (0, 1)
    rank, ranks = (int(environment.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    number, count = number * ranks + rank, count * ranks
    return ["--part", f"{number}/{count}"] if count > 1 else []


def array_part(environment) -> tuple[int, int]:
    """(which task of its array this is, from 0; how many there are). Slurm tells the first and the last number, their
    count and a step, but not the list."""
    told = {name: environment.get(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "MIN", "MAX", "COUNT", "STEP")}
    given = int(told["STEP"] or 1)
    number, first = int(told["ID"]), int(told["MIN"] or told["ID"])
    last = int(told["MAX"] or first + given * (int(told["COUNT"] or 1) - 1))
    count = int(told["COUNT"] or (last - first) // given + 1)
    step = (last - first) // (count - 1) if count > 1 else 1
    regular = first + step * (count - 1) == last and (number - first) % step == 0
    # Of two tasks the step says nothing (--array 3,5); of more, Slurm's own is that of a series and of no other list.
    if not regular or (count > 2 and told["STEP"] and given != step):
        raise ValueError(
            f"task {number} of an array of {count} numbers from {first} to {last} that are no regular series: write it "
            f"as --array 0-{count - 1}, or set EDITCAPTION_PART=K/{count} (K from 0, another one for each task)"
        )
    return (number - first) // step, count


if __name__ == "__main__":
    if not sys.argv[1:]:
        print("usage: batch_eval.sh CONFIG [key=value ...]", file=sys.stderr)
        print("batch_eval.sh: error: give a file of settings, such as configs/eval_demo.yaml", file=sys.stderr)
        sys.exit(2)
    root = Path(os.environ.get("EDITCAPTION_ROOT") or Path(__file__).resolve().parents[1])
    try:
        own = part(os.environ)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    command = [sys.executable, str(root / "tools/evaluate.py"), "run", *sys.argv[1:], *own]
    os.execv(command[0], command)
