"""`editcaption curate mirror`: the same pairs with both pictures flipped, for the mirror test."""

from argparse import Namespace
from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import before_work
from editcaption_mega.words import counted

EXAMPLE = "editcaption curate mirror --shards data/pool --output data/mirrored"


def add_parser(commands: cli.Subparsers) -> None:
    command = cli.add_command(
        commands,
        "mirror",
        example=EXAMPLE,
        help="the same pairs with both pictures flipped left to right, for the mirror test",
        description="Write shards of the same ids whose pictures are flipped and of which nothing is said. Caption "
        "them, and `lint --mirrored` tells where left and right did not change places.",
    )
    command.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="folders of shards")
    command.add_argument("--output", required=True, type=Path, metavar="DIR", help="new folder of shards")
    command.set_defaults(run=run)


def run(arguments: Namespace) -> None:
    from editcaption_mega.curation.measures.mirror_test import mirror_shards
    from editcaption_mega.data.shards.reader import open_shards

    with before_work():
        shards = open_shards(arguments.shards)
    count = mirror_shards(shards, arguments.output, progress)
    print(f"{arguments.output}: {counted(count, 'pair')}, flipped")
