"""The steps of `editcaption curate`, one file each: `add_parser(commands)` and what the command calls."""
