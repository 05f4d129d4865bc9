#!/usr/bin/env python
"""Check every byte of a folder of shards, or make its index anew."""

import sys

from editcaption_mega.cli import argument_parser, progress, run
from editcaption_mega.data.shard_check import rebuild_index, verify
from editcaption_mega.data.shard_index import load_index

EXAMPLE = """
python tools/validate_shards.py data/train
python tools/validate_shards.py data/from_webdataset --rebuild-index
"""


def main(argv):
    parser = argument_parser(
        "Check a folder of shards: sizes and sha256 of every tar and member, json against the schema, every image "
        "decoded. Problems are printed one a line; exit code 1 if there are any.",
        EXAMPLE,
    )
    parser.add_argument("directory", metavar="DIR", help="folder of shards")
    parser.add_argument(
        "--rebuild-index", action="store_true", help="first write index.json anew from the tar files, in name order"
    )
    args = parser.parse_args(argv)

    if args.rebuild_index:
        rebuild_index(args.directory, progress=lambda name: print(f"indexing {name}", file=sys.stderr))
    index = load_index(args.directory)
    total = 1 + len(index.shards) + len(index.samples)
    count = 0
    for checked in progress(verify(args.directory), total, "checked"):
        for problem in checked.problems:
            count += 1
            print(f"{checked.name}: {problem}")
    if count:
        raise ValueError(f"{args.directory}: {count} problem(s), listed above")
    print(f"{args.directory}: {len(index.samples)} pairs whole and sound, fingerprint {index.fingerprint[:16]}")


if __name__ == "__main__":
    run(main)
