"""Thousands of damaged and hostile inputs on every reader: `make fuzz`, or `python -m tests.fuzz --inputs 2000`.

A line for each reader and one for all; exit code 1 if there is any fault. Each fault is printed with what makes it
again: `--only READER:NUMBER --seed SEED`.
"""

import argparse
import sys
import time

from .driver import Tally, fuzz
from .readers import READERS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [reader.name for reader in READERS]
    parser.add_argument("--inputs", type=int, default=20_000, help="over all readers (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--readers", default=",".join(names), help="(default: all)")
    parser.add_argument("--only", metavar="READER:NUMBER", help="one input")
    args = parser.parse_args()
    wanted, number = args.readers.split(","), None
    if args.only:
        name, _, digits = args.only.partition(":")
        wanted, number = [name], int(digits)
    readers = [reader for reader in READERS if reader.name in wanted]
    if len(readers) != len(wanted):
        parser.error(f"--readers: expected some of {', '.join(names)}")
    began = time.monotonic()
    tallies = fuzz(readers, args.inputs, args.seed, args.workers, lambda line: print(line, flush=True), number)
    for name, tally in tallies.items():
        print(tally.line(name))
    total = Tally(
        sum(tally.inputs for tally in tallies.values()),
        sum(tally.refused for tally in tallies.values()),
        max(tally.seconds for tally in tallies.values()),
        max(tally.bytes for tally in tallies.values()),
        [fault for tally in tallies.values() for fault in tally.faults],
    )
    print(f"{total.line('all readers')} (seed {args.seed}, {time.monotonic() - began:.0f} s)")
    return 1 if total.faults else 0


if __name__ == "__main__":
    sys.exit(main())
