"""Data worth training on, from what models write and what is measured of each pair."""

import importlib
import sys
from pathlib import Path

from editcaption_mega import cli

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for `curation`: Python leaves it out under -P
EXAMPLE = "python tools/curate.py sample-rejected --model runs/sft_hf --shards data/pool --output data/pairs"
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


def main(argv):
    parser = cli.argument_parser(
        "Make training data: each step has a command, and says more with COMMAND --help.", example=EXAMPLE
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for step in STEPS:
        importlib.import_module(f"curation.{step}").add_parser(commands)
    arguments = parser.parse_args(argv)
    return arguments.run(arguments)


if __name__ == "__main__":
    cli.run(main)
