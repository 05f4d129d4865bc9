"""The training jobs as commands. launch/pretrain_sft.sh and launch/train_dpo.sh end here, however they were started."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from editcaption_mega import cli
from editcaption_mega.progress_display import progress
from editcaption_mega.words import counted

if TYPE_CHECKING:
    from editcaption_mega.settings import JobSettings
    from editcaption_mega.training.job_check import JobCheck


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
    from editcaption_mega.settings import JobSettings

    runs = _runs(arguments, JobSettings)
    if arguments.check or arguments.dry_run:
        return _check_each(runs, arguments)
    from editcaption_mega.training import run_several, run_sft

    ending = run_several(runs, run_sft) if arguments.runs else run_sft(runs[""])
    return cli.stopped_code(ending.signal)


def _dpo(argv: Sequence[str]) -> int:
    words = "Train Qwen3-VL to prefer chosen over rejected instructions (DPO and its variants)."
    arguments = _arguments(argv, words, "train_dpo", "dpo")
    from editcaption_mega.settings import DPOSettings, refuse_sft

    runs = _runs(arguments, DPOSettings)
    for settings in runs.values():
        refuse_sft(settings, arguments.config, arguments.overrides)
    if arguments.check or arguments.dry_run:
        return _check_each(runs, arguments)
    from editcaption_mega.training import run_dpo, run_several

    train = partial(run_dpo, progress=progress)
    ending = run_several(runs, lambda run, base: train(run, base=base)) if arguments.runs else train(runs[""])
    return cli.stopped_code(ending.signal)


def _runs[Kind: "JobSettings"](arguments: argparse.Namespace, kind: type[Kind]) -> "dict[str, Kind]":
    """The settings of the job's runs by name, and of its only one by "". Raises SettingsError."""
    from editcaption_mega.settings import SettingsError, check_paths, earlier_run, load_runs, load_settings

    if arguments.runs is None:
        runs = {"": load_settings(arguments.config, arguments.overrides, kind)}
    else:
        runs = load_runs(arguments.runs, arguments.config, arguments.overrides, kind)
    for name, settings in runs.items():
        try:
            check_paths(settings, start_will_be=bool(earlier_run(runs, name)))
        except SettingsError as error:
            raise SettingsError(f"{arguments.runs}, run {name}: {error}") if name else error from None
    return runs


def _check_each(runs: "Mapping[str, JobSettings]", arguments: argparse.Namespace) -> int:
    """`_check` of each run, behind its name."""
    from editcaption_mega.settings import earlier_run

    codes = []
    for name, settings in runs.items():
        if name and os.environ.get("RANK", "0") == "0":
            print(f"run {name}:")
        if earlier := earlier_run(runs, name):
            print(f"adapters: starts from those that run {earlier} has trained by then")
            settings.model.adapters.start = ""  # they need not be there yet
        try:
            codes.append(_check(settings, arguments))
        except Exception as error:
            if name:
                error.add_note(f"this was run {name}")
            raise
    return max(codes)


def _check(settings: "JobSettings", arguments: argparse.Namespace) -> int:
    """What would be started; under torchrun the first rank says it. Raises ValueError for ranks that the layout cannot
    divide, and with --check for whatever else cannot be used."""
    ranks = arguments.gpus or int(os.environ.get("WORLD_SIZE", "1"))
    data_parallel = settings.parallel.data_parallel_size(ranks)
    if os.environ.get("RANK", "0") != "0":
        return 0
    if not arguments.check:
        shared = {1: "all with the same samples", ranks: "each with samples of its own"}
        groups = shared.get(data_parallel, f"in {data_parallel} groups, each with samples of its own")
        print(
            f"settings and paths can be used: {counted(ranks, 'rank')}{f', {groups}' * (ranks > 1)}, into "
            f"{settings.training.output}; nothing was started (--dry-run)"
        )
        return 0
    from editcaption_mega.training.job_check import check_job

    check = check_job(settings, ranks, progress)
    print("\n".join(check.lines))
    problem = _check_memory(settings, check, ranks, arguments.gpu_memory)
    print("nothing was started (--check)")
    if problem:
        print(f"error: {problem}", file=sys.stderr)
    return int(bool(problem))


def _check_memory(settings: "JobSettings", check: "JobCheck", ranks: int, memory_gib: float | None) -> str:
    """Print what the job needs of a GPU, of this machine's size unless told, or as h100.yaml has it -> the sentence of
    what does not fit, or ""."""
    import torch

    from editcaption_mega.planning.layouts.modes import PlannedJob, quick_fit
    from editcaption_mega.planning.timing.hardware import load_hardware
    from editcaption_mega.planning.workload import workload_of

    hardware = load_hardware("h100")
    if memory_gib is None and torch.cuda.is_available():
        memory_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    workload = workload_of(check.dataset, check.lengths)
    memory = hardware.memory_gib if memory_gib is None else memory_gib
    answer = quick_fit(PlannedJob(settings, check.architecture, workload, ranks, hardware, memory), progress)
    print("\n".join(["estimated for GPUs as h100.yaml has them:", *answer.lines]))
    return answer.problem


def _arguments(argv: Sequence[str], description: str, script: str, configs: str) -> argparse.Namespace:
    """Settings and training are imported after this: what is wrong with the arguments is said at once."""
    parser = cli.argument_parser(
        description,
        example=f"""
editcaption train-{configs} {configs}_qwen3_vl_2b data.shards=data/{configs}     # one process
torchrun --nproc-per-node 8 -m editcaption_mega train-{configs} {configs}_qwen3_vl_8b data.shards=data/{configs}
sbatch --nodes 4 --gpus-per-node 8 launch/{script}.sh configs/{configs}_qwen3_vl_32b.yaml     # of a clone""",
    )
    cli.add_settings_arguments(parser, configs)
    parser.add_argument(
        "--runs",
        metavar="FILE",
        help="train several adapters one after another on weights that are loaded once: a YAML file with a name for "
        "each run, which is its folder in training.output, and the settings that it has of its own",
    )
    parser.add_argument("--dry-run", action="store_true", help="look at settings and paths, start nothing")
    parser.add_argument(
        "--check",
        action="store_true",
        help="open everything, count tokens, say steps, rows and the estimated memory of a GPU, start nothing",
    )
    parser.add_argument("--gpus", type=cli.positive, metavar="N", help="of --check and --dry-run: ranks of the job")
    parser.add_argument("--gpu-memory", type=cli.between(0.01, 4096), metavar="GIB", help="of --check: of one GPU")
    # argparse would ask for `key=value` too.
    if all(word.startswith("-") for word in argv) and not {"-h", "--help"} & set(argv):
        parser.error(f"give a file of settings, such as configs/{configs}_demo.yaml")
    arguments = parser.parse_intermixed_args(argv)
    cli.check_used(parser, arguments, "--check", "--gpu-memory")
    if arguments.gpus and not (arguments.check or arguments.dry_run):
        raise cli.ArgumentError(
            "--gpus has a meaning with --check and --dry-run only: a job has as many ranks as torchrun starts, with "
            "--nproc-per-node N"
        )
    return arguments
