"""Data worth training on, from what models write and what is measured of each pair."""

import importlib
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence

from editcaption_mega import cli

EXAMPLE = "editcaption curate sample-rejected --model runs/sft_hf --shards data/pool --output data/pairs"
STEPS = (
    "caption",
    "filter",
    "measure",
    "mirror",
    "lint",
    "score",
    "best_of",
    "people_export",
    "people_import",
    "sample_rejected",
    "export",
)


def main(argv: Sequence[str]) -> int | None:
    arguments = make_parser().parse_args(argv)
    run: Callable[[Namespace], int | None] = arguments.run
    return run(arguments)


def make_parser() -> ArgumentParser:
    parser = cli.argument_parser(
        "Make training data: each step has a command, and says more with COMMAND --help.", example=EXAMPLE
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for step in STEPS:
        importlib.import_module(f"editcaption_mega.commands.curation.{step}").add_parser(commands)
    return parser
