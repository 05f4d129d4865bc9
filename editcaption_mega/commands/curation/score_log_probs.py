"""`editcaption curate score log-probs`: what a model itself believes of each instruction."""

from argparse import Namespace
from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.settings import before_work

EXAMPLE = """
editcaption log-probs --checkpoint runs/sft --shards data/pool --output data/given.jsonl
editcaption curate score log-probs --shards data/pool --given data/given.jsonl --output data/likelihoods.jsonl
"""


def add_parser(scorers: cli.Subparsers) -> None:
    command = cli.add_command(
        scorers,
        "log-probs",
        example=EXAMPLE,
        help="a model's own likelihoods: of the text, and against swapped or mirrored pictures and turned directions",
        description="Columns log_prob (and log_prob_per_token), margin_swapped, margin_mirrored, margin_opposite "
        "(against the text with its directions turned) and reward (against the reference of the model's DPO), from "
        "files that editcaption log-probs wrote with --texts or --opposites. No judge is asked. A score shows what the "
        "model believes.",
    )
    command.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="the folders that were scored")
    command.add_argument(
        "--captions", type=Path, metavar="FILE.jsonl", help="the file given as --texts; left out: the shards' own texts"
    )
    command.add_argument(
        "--given", required=True, type=Path, metavar="FILE.jsonl", help="log-probs of the given pictures"
    )
    command.add_argument("--swapped", type=Path, metavar="FILE.jsonl", help="those of --view swapped")
    command.add_argument("--mirrored", type=Path, metavar="FILE.jsonl", help="those of --view mirrored")
    command.add_argument(
        "--reference", type=Path, metavar="FILE.jsonl", help="the given pictures' by another model: that DPO began with"
    )
    command.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl", help="file of columns")
    command.add_argument("--part", default="", metavar="K/N", help="the part that these files of log-probs are of")
    command.set_defaults(run=run)


def run(arguments: Namespace) -> None:
    from editcaption_mega.curation.columns import ColumnFile
    from editcaption_mega.curation.scores.likelihoods import write_log_prob_scores
    from editcaption_mega.data import open_shards
    from editcaption_mega.data.batching.scoring import View

    part = cli.part_of(arguments.part)
    with before_work():
        shards = open_shards(arguments.shards)
        captions = ColumnFile(arguments.captions, shards) if arguments.captions else None
    views: tuple[View, ...] = ("given", "swapped", "mirrored")
    files = {view: path for view in views if (path := getattr(arguments, view))}
    whole = write_log_prob_scores(arguments.output, shards, captions, files, reference=arguments.reference, part=part)
    print(f"{arguments.output} is written" if whole else f"part {arguments.part} is kept; the others are not there yet")
