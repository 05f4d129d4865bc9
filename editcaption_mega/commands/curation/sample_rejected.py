"""`editcaption curate sample-rejected`: preference pairs, or tasks for people, from what a model gets wrong."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from editcaption_mega import cli
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import PixelLimits, before_work

from .people_export import add_task_arguments, export

if TYPE_CHECKING:
    from editcaption_mega.curation.model_samples import SamplingSettings
    from editcaption_mega.data.batching.dataset import PairDataset
    from editcaption_mega.inference import Generator

_OF_THE_MODEL = ("--samples", "--temperature", "--seed", "--max-new-tokens", "--batch-size",
                 "--min-pixels", "--max-pixels", "--prompt")  # fmt: skip
_OF_TASKS = ("--first", "--hardness", "--hints", "--limit", "--skip", "--page", "--label-studio", "--project",
             "--annotators", "--document-root")  # fmt: skip

EXAMPLE = "editcaption curate sample-rejected --model runs/sft_hf --shards data/pool --output data/pairs"


def add_parser(commands: cli.Subparsers) -> None:
    command = cli.add_command(
        commands,
        "sample-rejected",
        example=EXAMPLE,
        help="preference pairs: the model's wrong instructions as rejected, the truth (or people's) as chosen",
        description="Let a model write instructions for pairs whose truth is machine-readable (the synthetic world). "
        "Wrong ones become `rejected`, with failure modes and severity, the pair's instruction `chosen`; pairs that "
        "the model gets right are marked already_correct and kept out. Of real pairs, whose truth no code reads, the "
        "instructions become tasks for people (--folder in the place of --output; then preference-import), likely "
        "failures first by the columns of --first and --hardness. A killed run goes on with the same command.",
    )
    command.add_argument("--model", type=Path, metavar="DIR", help="Hugging Face folder")
    command.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="folders written by make_shards")
    command.add_argument("--output", type=Path, metavar="DIR", help="new folder of preference shards")
    command.add_argument("--samples", type=int, default=1, metavar="N", help="instructions per pair (default 1)")
    command.add_argument("--temperature", type=float, default=0.0, metavar="T", help="default 0: the likeliest tokens")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--max-new-tokens", type=int, default=256, metavar="N")
    command.add_argument("--batch-size", type=int, default=32, metavar="N", help="pairs answered at once (default 32)")
    pixels = PixelLimits()
    command.add_argument("--min-pixels", type=int, default=pixels.min_pixels, metavar="N", help="as in training")
    command.add_argument("--max-pixels", type=int, default=pixels.max_pixels, metavar="N", help="as in training")
    command.add_argument("--prompt", default="", metavar="FILE", help="another prompt file, as in training")
    people = command.add_argument_group("tasks for people")
    people.add_argument(
        "--captions", type=Path, metavar="FILE.jsonl", help="the model's texts, in the place of --model"
    )
    add_task_arguments(people, required=False)
    command.set_defaults(run=partial(run, command))


def run(parser: ArgumentParser, arguments: Namespace) -> None:
    if bool(arguments.output) == bool(arguments.folder):
        raise cli.ArgumentError(
            "give --output DIR where the truth is machine-readable, or --folder DIR for tasks for people, and not both"
        )
    if bool(arguments.model) == bool(arguments.captions):
        raise cli.ArgumentError("give --model DIR or --captions FILE.jsonl, one of the two")
    cli.check_used(parser, arguments, "--model", *_OF_THE_MODEL)
    cli.check_used(parser, arguments, "--folder", *_OF_TASKS)
    if arguments.folder:
        tasks_for_people(arguments)
    elif arguments.captions:
        raise cli.ArgumentError("--captions are for tasks for people (--folder): with --output, give --model")
    else:
        preference_pairs(arguments)


def tasks_for_people(arguments: Namespace) -> None:
    from editcaption_mega.curation.columns import ColumnFile
    from editcaption_mega.curation.model_samples import sampled_instructions
    from editcaption_mega.curation.people.drafts import caption_drafts, sampled_drafts
    from editcaption_mega.data import open_shards

    with before_work():
        reader = open_shards(arguments.shards)
        captions = ColumnFile(arguments.captions, reader) if arguments.captions else None
    if captions is not None:
        export(arguments, reader, caption_drafts(reader, captions), "preference")
        return
    dataset, load_generator, settings, model = opened(arguments)
    path = arguments.folder.with_name(arguments.folder.name + ".samples.jsonl")
    samples = sampled_instructions(dataset, load_generator, path, settings, model, progress)
    origin = {"model": model, "temperature": settings.temperature, "seed": settings.seed}
    export(arguments, reader, sampled_drafts(reader, samples, origin), "preference")


def opened(
    arguments: Namespace,
) -> "tuple[PairDataset, Callable[[], Generator], SamplingSettings, str]":
    """The pairs as prompts, what loads the model, how it is sampled, and the digest of its weights."""
    from editcaption_mega.conversion import WeightSource
    from editcaption_mega.curation.model_samples import SamplingSettings
    from editcaption_mega.data.batching.dataset import open_pairs
    from editcaption_mega.inference import Generator
    from editcaption_mega.inference.local.folder import check_model

    settings = SamplingSettings(
        arguments.samples, arguments.temperature, arguments.seed, arguments.max_new_tokens, arguments.batch_size
    )
    pixels = PixelLimits(min_pixels=arguments.min_pixels, max_pixels=arguments.max_pixels)
    pixels.check_pixels("pictures")
    with before_work():
        folder = check_model(arguments.model)
        dataset = open_pairs(
            arguments.shards, folder, min_pixels=pixels.min_pixels, max_pixels=pixels.max_pixels,
            prompt=arguments.prompt,
        )  # fmt: skip
    return dataset, lambda: Generator(folder), settings, WeightSource.of(folder).digest()


def preference_pairs(arguments: Namespace) -> None:
    from editcaption_mega.curation.preference_pairs import sample_rejected as sample

    dataset, load_generator, settings, model = opened(arguments)
    counts = sample(dataset, load_generator, arguments.output, settings, model=model, progress=progress)
    verdicts, modes = counts.verdicts, counts.failure_modes
    print(
        f"{arguments.output}: {verdicts['rejected']:,} preference pairs from {len(dataset):,} "
        f"({verdicts['already_correct']:,} already_correct, {verdicts['unusable']:,} unusable)"
    )
    for name in ("orientation", "viewpoint", "detail", "no failure mode"):
        print(f"  {modes[name]:,} with {name if name.startswith('no') else 'a failure of ' + name}")
