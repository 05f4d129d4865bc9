"""The steps of `tools/curate.py`, one file each: `add_parser(commands)` and what the command calls."""
