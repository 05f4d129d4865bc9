"""`editcaption curate alternatives` and `best-of`: a model checks what it wrote, and the better text is taken."""

from argparse import Namespace
from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.settings import before_work
from editcaption_mega.words import counted

EXAMPLE_RULE = "log_prob reward:0.5"


def add_parser(commands: cli.Subparsers) -> None:
    command = cli.add_command(
        commands,
        "alternatives",
        example="editcaption curate alternatives --shards data/pool --captions data/captions.jsonl --output both.jsonl",
        help="each caption beside the one with its directions turned, to be scored: the model checks itself",
        description="Write a file of columns in which each caption is followed by the one with every direction turned "
        "(left for right, in for out of a camera, ..). Scored by editcaption log-probs --texts and editcaption curate "
        "score, best-of takes the one that the model believes.",
    )
    command.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="the folders that were captioned")
    command.add_argument("--captions", required=True, type=Path, metavar="FILE.jsonl", help="file of captions")
    command.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl", help="file of columns")
    command.set_defaults(run=alternatives)

    command = cli.add_command(
        commands,
        "best-of",
        example="""
editcaption curate best-of --shards data/pool --captions data/captions.jsonl --scores data/likelihoods.jsonl \\
    --output data/best.jsonl""",
        help="of each pair's sampled captions the one that its scores prefer",
        description="Choose among the samples of a file of captions by a sum of columns of scores. "
        f"'--by {EXAMPLE_RULE}' weighs a text's likelihood and what preference training moved. Measured on the demo's "
        "held-out pairs in docs/curation.md.",
    )
    command.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="the folders that were captioned")
    command.add_argument("--captions", required=True, type=Path, metavar="FILE.jsonl", help="file with several samples")
    command.add_argument("--scores", required=True, nargs="+", type=Path, metavar="FILE.jsonl", help="of these samples")
    command.add_argument(
        "--by", nargs="+", default=["log_prob", "reward:0.5"], metavar="COLUMN[:WEIGHT]",
        help="the sum that decides (default: log_prob reward:0.5); a text without the first column is not taken",
    )  # fmt: skip
    command.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl", help="file of one caption a pair")
    command.set_defaults(run=best_of)


def alternatives(arguments: Namespace) -> None:
    from editcaption_mega.curation.columns import ColumnFile
    from editcaption_mega.curation.scores.scored_texts import write_alternatives
    from editcaption_mega.data import open_shards

    with before_work():
        shards = open_shards(arguments.shards)
    turned = write_alternatives(arguments.output, shards, ColumnFile(arguments.captions, shards))
    print(f"{arguments.output}: {turned:,} texts have an opposite; score the file, then editcaption curate best-of")


def best_of(arguments: Namespace) -> None:
    from editcaption_mega.curation.columns import ColumnFile
    from editcaption_mega.curation.scores.best_of import WeightedColumn
    from editcaption_mega.curation.scores.best_of import best_of as choose
    from editcaption_mega.data import open_shards

    with before_work():
        rule = [WeightedColumn.parse(text) for text in arguments.by]
        shards = open_shards(arguments.shards)
        captions = ColumnFile(arguments.captions, shards)
        scores = [ColumnFile(path, shards) for path in arguments.scores]
    chosen = choose(arguments.output, shards, captions, scores, rule)
    if not chosen:
        raise ValueError(f"no pair has a text with a score: are there instructions in {arguments.captions}?")
    print(
        f"{arguments.output}: {chosen:,} of {counted(len(shards), 'pair')} have a text, "
        f"chosen by {' + '.join(arguments.by)}"
    )
