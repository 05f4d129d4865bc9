"""`editcaption curate lint`: faults of instructions that their words show."""

from argparse import Namespace
from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import before_work
from editcaption_mega.words import counted

EXAMPLE = "editcaption curate lint --shards data/pool --instructions data/captions.jsonl --output data/lint.jsonl"


def add_parser(commands: cli.Subparsers) -> None:
    command = cli.add_command(
        commands,
        "lint",
        example=EXAMPLE,
        help="contradictions, leakage, vague words and other faults that the words alone show",
        description="Write, for each instruction, which rules of the linter it breaks (docs/curation.md has them): a "
        "file of columns that `filter` reads as lint:none. English and Chinese. A killed run goes on.",
    )
    given = command.add_mutually_exclusive_group(required=True)
    given.add_argument("--shards", nargs="+", metavar="DIR", help="folders of shards")
    given.add_argument("--jsonl", type=Path, metavar="FILE", help='objects with "id" and "instruction", one per line')
    command.add_argument("--instructions", type=Path, metavar="FILE", help="a file of columns with `instruction`")
    command.add_argument(
        "--mirrored", type=Path, metavar="FILE",
        help="columns with the instructions of the mirrored pairs: left and right must change places",
    )  # fmt: skip
    command.add_argument("--output", required=True, type=Path, metavar="FILE", help="file of columns to write (.jsonl)")
    command.add_argument("--part", default="", metavar="K/N", help="do part K (from 0) of N; the last to end merges")
    command.set_defaults(run=run)


def run(arguments: Namespace) -> None:
    from editcaption_mega.curation.lint import RULES
    from editcaption_mega.curation.lint.lint_columns import JsonlTexts, lint_pairs
    from editcaption_mega.data.shards.reader import open_shards

    cli.check_output_file("--output", arguments.output, makes_folder=True)
    with before_work():
        pairs = open_shards(arguments.shards) if arguments.shards else JsonlTexts(arguments.jsonl)
    counts = lint_pairs(
        pairs, arguments.output, instructions=arguments.instructions, mirrored=arguments.mirrored,
        part=cli.part_of(arguments.part), progress=progress,
    )  # fmt: skip
    if counts is None:
        return print(f"part {arguments.part} is made; the part that ends last writes {arguments.output}")
    if not counts[""]:
        raise ValueError(f"no pair has an instruction in {arguments.instructions or 'these pairs'}: nothing was linted")
    print(f"{arguments.output}: {counts['']:,} instructions of {counted(len(pairs.ids), 'pair')}")
    for rule, meaning in RULES.items():
        print(f"  {counts[rule]:>8,}  {rule}: {meaning}")
