#!/usr/bin/env bash
#SBATCH --job-name=editcaption-caption
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
''':'
# Captions of a pool of pairs: each task serves the model on its GPUs and has it write instructions for its part of the
# pairs. Shell and Python in one file; two ways to start it, from any folder:
#   sbatch --array 0-7 --gpus 8 launch/caption.sh configs/caption_qwen3_vl.yaml [key=value ...]
#   bash launch/caption.sh configs/caption_qwen3_vl.yaml [key=value ...]
# The tasks of an array divide the pairs among them, each with its own server, cache and log; whichever ends last puts
# the parts together. What is killed or requeued goes on where it was, with the same command; an array of other tasks
# (--array 3,5, --array 6) divides what is missing among these. Where the array is no regular series, say which part a
# task does: EDITCAPTION_PART=K/N (K from 0).
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
exec python "$root/launch/caption.sh" "$@"
':'''

from editcaption_mega.array_tasks import start_part

if __name__ == "__main__":
    start_part("caption.sh", ["tools/curate.py", "caption"], "configs/caption_qwen3_vl.yaml")
