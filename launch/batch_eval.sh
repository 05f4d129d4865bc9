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
# together, judges and reports. What is killed or requeued goes on where it was, with the same command.
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
    """This process's part of the generation, as tools/evaluate.py takes it; nothing when there is only one."""
    if "SLURM_ARRAY_TASK_ID" in environment:  # an array may begin at another number than 0
        first, number, count = (
            int(environment[f"SLURM_ARRAY_TASK_{name}"]) for name in ("MIN", "ID", "COUNT")
        )
        number -= first
    else:
        number, count = (int(environment.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    return ["--part", f"{number}/{count}"] if count > 1 else []


if __name__ == "__main__":
    root = Path(os.environ.get("EDITCAPTION_ROOT") or Path(__file__).resolve().parents[1])
    command = [sys.executable, str(root / "tools/evaluate.py"), "run", *sys.argv[1:], *part(os.environ)]
    os.execv(command[0], command)
