#!/usr/bin/env bash
#SBATCH --job-name=editcaption-eval
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
''':'
# Batch evaluation after training: every model writes instructions for every benchmark, judges score them, a report
# shows them. Shell and Python in one file; three ways to start it, from any folder:
#   sbatch --array 0-7 --gpus 1 launch/batch_eval.sh configs/eval_qwen3_vl.yaml [key=value ...]
#   bash launch/batch_eval.sh configs/eval_demo.yaml [key=value ...]
#   torchrun --nproc-per-node 2 launch/batch_eval.sh configs/eval_demo.yaml [key=value ...]
# The tasks of an array (or the ranks of torchrun) divide the generation among them; whichever ends last puts the parts
# together, judges and reports. What is killed or requeued goes on where it was, with the same command; an array of
# other tasks (--array 3,5, --array 6) divides what is missing among these. Where the array is no regular series, say
# which part a task does: EDITCAPTION_PART=K/N (K from 0).
set -eu
root="${EDITCAPTION_ROOT:-$(dirname "$0")/..}"
if [ ! -f "$root/launch/start.sh" ]; then  # Slurm runs a copy of this file: where it was submitted from
    root="$(scontrol show job "${SLURM_JOB_ID:-}" 2>/dev/null | grep -o 'Command=/.*/launch/' || :)"
    root="${root#Command=}" root="${root%/launch/}"
    [ -f "$root/launch/start.sh" ] || root="${SLURM_SUBMIT_DIR:-.}"
fi
root="$(cd "$root" && pwd)"
export EDITCAPTION_ROOT="$root" PYTHONUNBUFFERED=1
[ -x "$root/.venv/bin/python" ] && PATH="$root/.venv/bin:$PATH"
exec python "$root/launch/batch_eval.sh" "$@"
':'''

from editcaption_mega.array_tasks import part, start_part  # noqa: F401 (`part` is looked at by tests)

if __name__ == "__main__":
    start_part("batch_eval.sh", ["tools/evaluate.py", "run"], "configs/eval_demo.yaml")
