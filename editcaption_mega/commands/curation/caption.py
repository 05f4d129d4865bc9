"""`editcaption curate caption`: an instruction for every pair from a model."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from editcaption_mega import cli
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import CaptionSettings, before_work, load_settings

if TYPE_CHECKING:
    from editcaption_mega.data.shards.reader import ShardReader

EXAMPLE = "editcaption curate caption caption_qwen3_vl shards=[data/pool] output=data/captions.jsonl"


def add_parser(commands: cli.Subparsers) -> None:
    command = cli.add_command(
        commands,
        "caption",
        example=EXAMPLE,
        help="an instruction for every pair from a model: in process, at an address, or served by the job itself",
        description="Have a model write an instruction for every pair: columns instruction (or reason), "
        "status, served, tokens. A killed run goes on with the same command, which also asks again for what failed.",
    )
    cli.add_settings_arguments(command, "caption")
    command.add_argument("--part", default="", metavar="K/N", help="do part K (from 0) of N; the last to end merges")
    command.set_defaults(run=run)


def run(arguments: Namespace) -> None:
    part = cli.part_of(arguments.part)
    settings = load_settings(arguments.config, arguments.overrides, CaptionSettings)
    from editcaption_mega.curation.captions.caption import caption, check, counts
    from editcaption_mega.data import open_shards
    from editcaption_mega.evaluation.generate import Part

    with before_work():
        reader = open_shards(settings.shards)
        check(settings, reader)
    whole, meter = caption(settings, reader, part=part or Part(), progress=progress)
    print(f"made now: {meter.made:,} {meter}")
    if not whole:
        return print(f"part {arguments.part} is made; the part that ends last writes {settings.output}")
    counted = counts(Path(settings.output))
    statuses = ", ".join(f"{number:,} {status}" for status, number in counted.by_status.most_common())
    print(f"{settings.output}: {counted.made:,} instructions for {len(reader):,} pairs ({statuses})")
    cli.print_counts("without an instruction (the same command asks again, but for refusals)", counted.reasons)
    if not counted.made:
        raise ValueError(f"no pair has an instruction; {settings.output} says why")
    if settings.shards_output:
        write_shards(settings, reader)


def write_shards(settings: CaptionSettings, reader: "ShardReader") -> None:
    """What is whole already stays; another part that writes it at this moment is left to it."""
    from editcaption_mega.curation.captions.shards import is_written, write_captioned
    from editcaption_mega.lock import HeldError

    captions, output = Path(settings.output), Path(settings.shards_output)
    if is_written(captions, output):
        return print(f"{output} is written already")
    try:
        written, left_out = write_captioned(reader, captions, output, progress)
    except HeldError as error:
        return print(f"another part writes the shards: {error}")
    print(f"{output}: {written:,} pairs with their captions, {left_out:,} without one left out")
