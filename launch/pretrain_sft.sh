#!/usr/bin/env bash
#SBATCH --job-name=editcaption-sft
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
''':'
# Supervised fine-tuning. Shell and Python in one file; three ways to start it, from the repository root:
#   sbatch --nodes 4 --gpus-per-node 8 launch/pretrain_sft.sh configs/sft_qwen3_vl_32b.yaml [key=value ...]
#   bash launch/pretrain_sft.sh configs/sft_demo.yaml [key=value ...]        # NPROC_PER_NODE ranks on this machine
#   torchrun --nproc-per-node 2 launch/pretrain_sft.sh configs/sft_demo.yaml [key=value ...]
# A job that is stopped, killed or requeued goes on from its newest checkpoint with the same command.
root="${EDITCAPTION_ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "$0")/.." && pwd)}}"
script="$root/launch/pretrain_sft.sh"
. "$root/launch/start.sh"
exit
':'''

from editcaption_mega.train import sft  # Python reads this file from here

if __name__ == "__main__":
    sft()
