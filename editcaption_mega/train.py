"""The training jobs as commands. launch/pretrain_sft.sh and launch/train_dpo.sh end here, however they were started."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from editcaption_mega import cli


def sft() -> NoReturn:
    """Supervised fine-tuning, with the command line's arguments."""
    cli.run_job(_sft)


def dpo() -> NoReturn:
    """Preference optimization (DPO and its variants), with the command line's arguments."""
    cli.run_job(_dpo)


def _sft(argv: Sequence[str]) -> int:
    arguments = _arguments(
        argv, "Fine-tune Qwen3-VL on shards of image pairs with instructions.", "pretrain_sft", "sft"
    )
    from editcaption_mega.settings import check_paths, load_settings

    settings = load_settings(arguments.config, arguments.overrides)
    check_paths(settings)
    from editcaption_mega.training import run_sft

    return cli.stopped_code(run_sft(settings).signal)


def _dpo(argv: Sequence[str]) -> int:
    words = "Train Qwen3-VL to prefer chosen over rejected instructions (DPO and its variants)."
    arguments = _arguments(argv, words, "train_dpo", "dpo")
    from editcaption_mega.settings import DPOSettings, check_paths, load_settings

    settings = load_settings(arguments.config, arguments.overrides, DPOSettings)
    check_paths(settings)
    from editcaption_mega.training import run_dpo

    return cli.stopped_code(run_dpo(settings, cli.progress).signal)


def _arguments(argv: Sequence[str], description: str, script: str, configs: str) -> argparse.Namespace:
    """Settings and training are imported after this: what is wrong with the arguments is said at once."""
    parser = cli.argument_parser(
        description,
        example=f"torchrun --nproc-per-node 2 launch/{script}.sh configs/{configs}_demo.yaml training.steps=100",
    )
    cli.add_settings_arguments(parser, configs)
    # argparse would ask for `key=value` too.
    if all(word.startswith("-") for word in argv) and not {"-h", "--help"} & set(argv):
        parser.error(f"give a file of settings, such as configs/{configs}_demo.yaml")
    return parser.parse_intermixed_args(argv)
