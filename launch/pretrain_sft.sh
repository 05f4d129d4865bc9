#!/usr/bin/env bash
#SBATCH --job-name=editcaption-sft
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:USR1@300
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

import sys

from editcaption_mega import cli


def main(argv):
    parser = cli.argument_parser(
        "Fine-tune Qwen3-VL on shards of image pairs with instructions.",
        example="torchrun --nproc-per-node 2 launch/pretrain_sft.sh configs/sft_demo.yaml training.steps=100",
    )
    parser.add_argument("config", help="YAML file of settings (configs/sft_*.yaml)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    arguments = parser.parse_intermixed_args(argv)
    from editcaption_mega.settings import check_paths, load_settings

    try:
        settings = load_settings(arguments.config, arguments.overrides)
        check_paths(settings)
    except ValueError as error:
        raise cli.ArgumentError(str(error)) from None
    from editcaption_mega.training import run_sft

    return cli.stopped_code(run_sft(settings).signal)


if __name__ == "__main__":
    cli.run_job(main, sys.argv[1:])
