"""`editcaption curate export`: a finished set in the form that others read."""

from argparse import Namespace
from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import before_work
from editcaption_mega.words import counted

FORMS = ("jsonl", "parquet", "webdataset", "instruct-pix2pix")

EXAMPLE = "editcaption curate export --shards data/kept --format parquet --output data/parquet"


def add_parser(commands: cli.Subparsers) -> None:
    command = cli.add_command(
        commands,
        "export",
        example=EXAMPLE,
        help="a set as JSONL, parquet, WebDataset or instruct-pix2pix folders, with a data card",
        description="Write the pairs of shards in a form that editor trainers and others read, with licenses and "
        "provenance of each pair, and README.md: a data card counted from the records. Pictures keep their bytes.",
    )
    command.add_argument("--shards", required=True, nargs="+", metavar="DIR", help="folders of shards")
    command.add_argument("--format", required=True, choices=FORMS, help="the form (parquet: `datasets`, diffusers)")
    command.add_argument("--output", required=True, type=Path, metavar="DIR", help="new folder")
    command.add_argument(
        "--licenses", nargs="+", metavar="NAME", help="refuse pairs whose provenance has another license, or none"
    )
    command.add_argument(
        "--survival", type=Path, metavar="FILE.json", help="what editcaption curate filter said, for the card"
    )
    command.set_defaults(run=run)


def run(arguments: Namespace) -> None:
    from editcaption_mega.curation.export.export_pairs import export_pairs
    from editcaption_mega.data import open_shards
    from editcaption_mega.files import read_json

    with before_work():
        survival = read_json(arguments.survival) if arguments.survival else None
        shards = open_shards(arguments.shards)
    contents = export_pairs(
        shards, arguments.format, arguments.output, licenses=arguments.licenses, survival=survival, progress=progress,
    )  # fmt: skip
    print(f"{arguments.output}: {counted(contents.pairs, 'pair')} as {arguments.format}; README.md is the data card")
    cli.print_counts("licenses of the pairs", contents.licenses)
