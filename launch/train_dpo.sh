#!/usr/bin/env bash
#SBATCH --job-name=editcaption-dpo
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
''':'
# Preference optimization (DPO). Shell and Python in one file; three ways to start it, from any folder:
#   sbatch --nodes 4 --gpus-per-node 8 launch/train_dpo.sh configs/dpo_qwen3_vl_32b.yaml [key=value ...]
#   bash launch/train_dpo.sh configs/dpo_demo.yaml [key=value ...]        # NPROC_PER_NODE ranks on this machine
#   torchrun --nproc-per-node 2 launch/train_dpo.sh configs/dpo_demo.yaml [key=value ...]
# --dry-run among the arguments prints what would be started. A job that is stopped, killed or requeued goes on from its
# newest checkpoint with the same command; how jobs end and what follows: docs/launching.md.
root="${EDITCAPTION_ROOT:-$(dirname "$0")/..}"
if [ ! -f "$root/launch/start.sh" ]; then  # Slurm runs a copy of this file: where it was submitted from
    root="$(scontrol show job "${SLURM_JOB_ID:-}" 2>/dev/null | grep -o 'Command=/.*/launch/' || :)"
    root="${root#Command=}" root="${root%/launch/}"
    [ -f "$root/launch/start.sh" ] || root="${SLURM_SUBMIT_DIR:-.}"
fi
root="$(cd "$root" && pwd)"
script="$root/launch/train_dpo.sh"
. "$root/launch/start.sh"
exit
':'''

from editcaption_mega.train import dpo  # Python reads this file from here

if __name__ == "__main__":
    dpo()
