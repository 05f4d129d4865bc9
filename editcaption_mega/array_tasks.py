"""Work that is divided over the tasks of a Slurm array, or the ranks of torchrun: which part a process does."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn


def start_part(script: str, command: list[str], example: str) -> NoReturn:
    """Become `command` with this process's arguments and its part. For a script of launch/; example: its settings."""
    if not sys.argv[1:]:
        print(f"usage: {script} CONFIG [key=value ...]", file=sys.stderr)
        print(f"{script}: error: give a file of settings, such as {example}", file=sys.stderr)
        sys.exit(2)
    root = Path(os.environ.get("EDITCAPTION_ROOT") or Path(sys.argv[0]).resolve().parents[1])
    try:
        own = part(os.environ)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    tool, *words = command
    os.environ["EDITCAPTION_CALLED_AS"] = script  # in --help and errors (`cli.CALLED_AS`)
    line = [sys.executable, str(root / tool), *words, *sys.argv[1:], *own]
    os.execv(line[0], line)


def part(environment: Mapping[str, str]) -> list[str]:
    """This process's part of the work, as tools take it; nothing when there is only one.

    Raises ValueError for an array of which it cannot be told which task is the how-manieth."""
    if environment.get("EDITCAPTION_PART"):
        return ["--part", environment["EDITCAPTION_PART"]]
    number, count = array_part(environment) if "SLURM_ARRAY_TASK_ID" in environment else (0, 1)
    rank, ranks = (int(environment.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    number, count = number * ranks + rank, count * ranks
    return ["--part", f"{number}/{count}"] if count > 1 else []


def array_part(environment: Mapping[str, str]) -> tuple[int, int]:
    """(which task of its array this is, from 0; how many there are). Slurm tells the first and the last number, their
    count and a step, but not the list."""
    told = {name: environment.get(f"SLURM_ARRAY_TASK_{name}") or "" for name in ("ID", "MIN", "MAX", "COUNT", "STEP")}
    given = int(told["STEP"] or 1)
    number, first = int(told["ID"]), int(told["MIN"] or told["ID"])
    last = int(told["MAX"] or first + given * (int(told["COUNT"] or 1) - 1))
    count = int(told["COUNT"] or (last - first) // given + 1)
    step = (last - first) // (count - 1) if count > 1 else 1
    regular = first + step * (count - 1) == last and (number - first) % step == 0
    # Of two tasks the step says nothing (--array 3,5); of more, Slurm's own is that of a series and of no other list.
    if not regular or (count > 2 and told["STEP"] and given != step):
        raise ValueError(
            f"task {number} of an array of {count} numbers from {first} to {last} that are no regular series: write it "
            f"as --array 0-{count - 1}, or set EDITCAPTION_PART=K/{count} (K from 0, another one for each task)"
        )
    return (number - first) // step, count
