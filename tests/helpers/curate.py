"""`tools/curate.py` called in this process."""

from editcaption_mega import cli
from editcaption_mega.commands import curate as command


def curate(*arguments: object) -> int:
    """The exit code of the command; what it prints is printed."""
    try:
        return cli.exit_code(command.main, [str(argument) for argument in arguments])
    except SystemExit as ending:  # of argparse
        return int(ending.code)
