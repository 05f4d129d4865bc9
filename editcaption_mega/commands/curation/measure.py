"""`editcaption curate measure`: columns about the pictures, without any model that writes."""

from argparse import Namespace
from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import before_work
from editcaption_mega.words import counted

_PAIRS_AT_ONCE = 16

EXAMPLE = """
editcaption curate measure --shards data/pool --output data/measures.jsonl
editcaption curate measure --shards data/pool --output data/clip.jsonl --clip models/siglip2 \\
    --instructions data/captions.jsonl
"""


def add_parser(commands: cli.Subparsers) -> None:
    command = cli.add_command(
        commands,
        "measure",
        example=EXAMPLE,
        help="what changed between the pictures, where, and how much",
        description="Write columns about each pair's pictures: share of changed pixels and where they are, SSIM, "
        "sizes, identical pictures. With --clip instead: how near pictures and instruction are for a CLIP or SigLIP "
        "model. A killed run goes on with the same command.",
    )
    command.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="folders of shards")
    command.add_argument("--output", required=True, type=Path, metavar="FILE", help="file of columns to write (.jsonl)")
    command.add_argument("--part", default="", metavar="K/N", help="do part K (from 0) of N; the last to end merges")
    command.add_argument("--workers", type=cli.positive, metavar="N", help="processes (default: one per processor)")
    clip = command.add_argument_group("embeddings")
    clip.add_argument("--clip", type=Path, metavar="DIR", help="Hugging Face folder of a CLIP or SigLIP model")
    clip.add_argument("--instructions", type=Path, metavar="FILE", help="a file of columns with `instruction`")
    clip.add_argument("--captions", type=Path, metavar="FILE", help="columns source_caption, target_caption")
    clip.add_argument("--batch-size", type=cli.positive, metavar="N", help=f"pairs at once (default {_PAIRS_AT_ONCE})")
    command.set_defaults(run=run)


def run(arguments: Namespace) -> None:
    from editcaption_mega.data.shards.reader import open_shards

    cli.check_output_file("--output", arguments.output, makes_folder=True)
    if not arguments.clip and (arguments.instructions or arguments.captions):
        raise cli.ArgumentError("--instructions and --captions are compared with pictures by a model: give --clip DIR")
    if arguments.batch_size and not arguments.clip:
        raise cli.ArgumentError("--batch-size has a meaning with --clip only: give both, or neither")
    if arguments.workers and arguments.clip:
        raise cli.ArgumentError("--workers measure pictures, and --clip has its model do it: leave one of them out")
    with before_work():
        shards = open_shards(arguments.shards)
    from editcaption_mega.curation.measures.measure_columns import embed_pairs, measure_pairs

    part = cli.part_of(arguments.part)
    if arguments.clip:
        whole = embed_pairs(
            shards, arguments.output, arguments.clip, instructions=arguments.instructions, captions=arguments.captions,
            batch_size=arguments.batch_size or _PAIRS_AT_ONCE, part=part, progress=progress,
        )  # fmt: skip
    else:
        whole = measure_pairs(shards, arguments.output, workers=arguments.workers or 0, part=part, progress=progress)
    if not whole:
        return print(f"part {arguments.part} is made; the part that ends last writes {arguments.output}")
    print(f"{arguments.output}: columns of {counted(len(shards), 'pair')}")
