"""`tools/curate.py` called in this process."""

import importlib.util

from editcaption_mega import cli
from tests.helpers import ROOT


def curate(*arguments: object) -> int:
    """The exit code of the command; what it prints is printed."""
    spec = importlib.util.spec_from_file_location("curate_tool", ROOT / "tools/curate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        return cli.exit_code(module.main, [str(argument) for argument in arguments])
    except SystemExit as ending:  # of argparse
        return int(ending.code)
