"""`editcaption curate score agreement`: how far the captions of a pair say the same."""

from argparse import Namespace
from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.settings import before_work

EXAMPLE = """
editcaption curate score agreement --shards data/pool --captions data/captions.jsonl \\
    --output data/agreement.jsonl
"""


def add_parser(scorers: cli.Subparsers) -> None:
    command = cli.add_command(
        scorers,
        "agreement",
        example=EXAMPLE,
        help="how far a pair's captions agree with one another (several samples); no model is asked",
        description="Column agreement of each caption: the mean similarity to the pair's others, from 0 to 1 (F1 of "
        "the words that two texts share).",
    )
    command.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="the folders that were captioned")
    command.add_argument("--captions", required=True, type=Path, metavar="FILE.jsonl", help="with several samples")
    command.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl", help="file of columns")
    command.set_defaults(run=run)


def run(arguments: Namespace) -> None:
    from editcaption_mega.curation.columns import ColumnFile
    from editcaption_mega.curation.scores.sample_agreement import write_agreement
    from editcaption_mega.data import open_shards

    with before_work():
        reader = open_shards(arguments.shards)
    write_agreement(ColumnFile(arguments.captions, reader), reader, arguments.output)
    print(f"{arguments.output} is written")
