"""Check every byte of a folder of shards, or make its index anew."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from editcaption_mega.cli import ArgumentError, argument_parser, print_counts
from editcaption_mega.data.shards.check import rebuild_index, verify
from editcaption_mega.data.shards.index import load_index
from editcaption_mega.data.shards.pair_checks import Remark
from editcaption_mega.progress_display import progress

EXAMPLE = """
editcaption validate-shards data/train
editcaption validate-shards data/from_webdataset --rebuild-index
"""


def main(argv: Sequence[str]) -> None:
    parser = argument_parser(
        "Check a folder of shards: sizes and sha256 of every tar and member, json against the schema, every image "
        "decoded, and what make_shards checks of each pair (equal or repeated pictures, refusals, ..). Problems are "
        "printed one a line; exit code 1 if there are any. What make_shards warns of is counted, and listed with "
        "--warnings.",
        EXAMPLE,
    )
    parser.add_argument("directory", metavar="DIR", help="folder of shards")
    parser.add_argument(
        "--rebuild-index", action="store_true", help="first write index.json anew from the tar files, in name order"
    )
    parser.add_argument("--strict", action="store_true", help="exit code 1 for warnings, too")
    parser.add_argument("--warnings", action="store_true", help="print every warning, one a line")
    args = parser.parse_args(argv)

    if not Path(args.directory).is_dir():
        raise ArgumentError(f"{args.directory}: no such folder of shards")
    if args.rebuild_index:
        rebuild_index(args.directory, progress=lambda name: print(f"indexing {name}", file=sys.stderr))
    index = load_index(args.directory)
    total = 1 + len(index.shards) + len(index.samples)
    count = 0
    warnings: Counter[str] = Counter()
    warned: set[str] = set()

    def doubt(identity: str, remark: Remark) -> None:
        warnings[remark.kind] += 1
        warned.add(identity)
        if args.warnings:
            print(f"{identity}: warning: {remark.text}")

    for checked in progress(verify(args.directory, doubt=doubt), total, "checked"):
        for problem in checked.problems:
            count += 1
            print(f"{checked.name}: {problem}")
    print_counts(
        f"{len(warned)} pair(s) with warnings" + ("" if args.warnings else " (--warnings lists them)"), warnings
    )
    if count:
        raise ValueError(f"{args.directory}: {count} problem(s), listed above")
    if warnings and args.strict:
        raise ValueError(f"{args.directory}: {len(warned)} pair(s) with warnings, which --strict does not allow")
    print(f"{args.directory}: {len(index.samples)} pairs whole and sound, fingerprint {index.fingerprint[:16]}")
