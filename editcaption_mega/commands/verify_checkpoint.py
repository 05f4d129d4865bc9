"""Check every byte of a checkpoint, or of all checkpoints of a run, against the checksums that were written with it."""

from collections.abc import Sequence
from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.progress_display import progress

EXAMPLE = """
editcaption verify-checkpoint runs/sft/checkpoints/step_00000500
editcaption verify-checkpoint runs/sft
"""


def main(argv: Sequence[str]) -> None:
    parser = cli.argument_parser(
        "Compare every file of a checkpoint (or of all checkpoints of a run folder) with its checksum. What differs is "
        "printed one file a line; exit code 1 if anything does.",
        EXAMPLE,
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="checkpoint or run folder")
    arguments = parser.parse_args(argv)
    from editcaption_mega.conversion.verify import verify_folder

    checked, problems = verify_folder(arguments.directory, progress)
    for problem in problems:
        print(problem)
    if problems:
        raise ValueError(f"{arguments.directory}: {len(problems)} problem(s) in {checked}, listed above")
    print(f"{arguments.directory}: {checked}: every file as its checksum says")
