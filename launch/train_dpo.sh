#!/usr/bin/env bash
#SBATCH --job-name=editcaption-dpo
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
''':'
# Preference optimisation (DPO). Shell and Python in one file; three ways to start it, from the repository root:
#   sbatch --nodes 4 --gpus-per-node 8 launch/train_dpo.sh configs/dpo_qwen3_vl_32b.yaml [key=value ...]
#   bash launch/train_dpo.sh configs/dpo_demo.yaml [key=value ...]        # NPROC_PER_NODE ranks on this machine
#   torchrun --nproc-per-node 2 launch/train_dpo.sh configs/dpo_demo.yaml [key=value ...]
# A job that is stopped, killed or requeued goes on from its newest checkpoint with the same command.
root="${EDITCAPTION_ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "$0")/.." && pwd)}}"
script="$root/launch/train_dpo.sh"
. "$root/launch/start.sh"
exit
':'''

from editcaption_mega.train import dpo  # Python reads this file from here

if __name__ == "__main__":
    dpo()
