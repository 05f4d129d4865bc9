"""The training jobs as commands. launch/pretrain_sft.sh and launch/train_dpo.sh end here, however they were started."""

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from editcaption_mega import cli
from editcaption_mega.progress_display import progress

if TYPE_CHECKING:
    from editcaption_mega.settings import JobSettings


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
    if arguments.dry_run:
        return _nothing_started(settings)
    from editcaption_mega.training import run_sft

    return cli.stopped_code(run_sft(settings).signal)


def _dpo(argv: Sequence[str]) -> int:
    words = "Train Qwen3-VL to prefer chosen over rejected instructions (DPO and its variants)."
    arguments = _arguments(argv, words, "train_dpo", "dpo")
    from editcaption_mega.settings import DPOSettings, check_paths, load_settings

    settings = load_settings(arguments.config, arguments.overrides, DPOSettings)
    check_paths(settings)
    if arguments.dry_run:
        return _nothing_started(settings)
    from editcaption_mega.training import run_dpo

    return cli.stopped_code(run_dpo(settings, progress).signal)


def _nothing_started(settings: "JobSettings") -> int:
    """What would be started; under torchrun the first rank says it. Raises ValueError for ranks that the layout cannot
    divide."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    data_parallel = settings.parallel.data_parallel_size(ranks)
    if os.environ.get("RANK", "0") == "0":
        print(
            f"settings and paths can be used: {ranks} rank{'s' * (ranks > 1)}, {data_parallel} of them with other "
            f"data, into {settings.training.output}; nothing was started (--dry-run)"
        )
    return 0


def _arguments(argv: Sequence[str], description: str, script: str, configs: str) -> argparse.Namespace:
    """Settings and training are imported after this: what is wrong with the arguments is said at once."""
    parser = cli.argument_parser(
        description,
        example=f"torchrun --nproc-per-node 2 launch/{script}.sh configs/{configs}_demo.yaml training.steps=100",
    )
    cli.add_settings_arguments(parser, configs)
    parser.add_argument("--dry-run", action="store_true", help="look at settings and paths, start nothing")
    # argparse would ask for `key=value` too.
    if all(word.startswith("-") for word in argv) and not {"-h", "--help"} & set(argv):
        parser.error(f"give a file of settings, such as configs/{configs}_demo.yaml")
    return parser.parse_intermixed_args(argv)
