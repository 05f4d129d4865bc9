"""Make a folder of shards from image pairs."""

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from editcaption_mega.cli import ArgumentError, argument_parser, print_counts
from editcaption_mega.data.images.decode import DEFAULT_MAX_PIXELS, LARGEST_MAX_PIXELS
from editcaption_mega.data.importers import FORMATS, ImportOptions
from editcaption_mega.data.importers.ingest import ImportRun, ingest
from editcaption_mega.data.importers.languages import LANGUAGES
from editcaption_mega.data.importers.prepared_rows import most_workers
from editcaption_mega.data.importers.quota import quota_lines
from editcaption_mega.data.importers.table import MAPPED
from editcaption_mega.data.importers.turns import TURNS
from editcaption_mega.data.shards.writer import REJECTED_NAME, SAMPLES_PER_SHARD, WARNINGS_NAME
from editcaption_mega.progress_display import progress
from editcaption_mega.records import CATEGORIES
from editcaption_mega.words import counted

EXAMPLE = """
editcaption shards --format jsonl --input pairs.jsonl --output data/train
editcaption shards --format table --input pairs.csv --map source=before,target=after,instruction=text \\
    --category semantic --output data/mine
editcaption shards --format synthetic --input default --count 1000 --seed 1 --output data/synthetic
"""


def main(argv: Sequence[str]) -> None:
    args = parsed(argv)
    check(args)
    importer = FORMATS[args.format]
    options = ImportOptions(
        args.count, args.seed, args.first_index, args.category,
        columns=args.map, images=args.images, name=args.name, license=args.license, language=args.language,
        turns=args.turns, answers=args.answers,
    )  # fmt: skip
    report = ingest(
        progress(importer.read(args.input, options), importer.count(args.input, options), "rows"),
        args.output,
        require_instruction=args.require_instruction,
        max_pixels=args.max_pixels,
        samples_per_shard=args.samples_per_shard,
        strict=args.strict,
        most_rejected=args.most_rejected,
        run=ImportRun(
            args.workers or most_workers(),
            json.dumps([args.format, os.path.abspath(args.input), dataclasses.asdict(options)], sort_keys=True),
        ),
    )
    print(
        f"{args.output}: {counted(report.accepted, 'pair')} in {report.shards} shard(s), "
        f"fingerprint {report.fingerprint[:16]}"
    )
    for line in quota_lines(report.categories):
        print(f"  {line}")
    if report.re_encoded:
        print(f"{report.re_encoded} image(s) re-encoded as PNG; provenance.images of each pair says why")
    share_of_all = f"{report.rejected} row(s) rejected ({report.rejected_share:.1%} of all)"
    print_counts(f"{share_of_all}, listed in {args.output}/{REJECTED_NAME}", report.reasons)
    print_counts(f"{report.warned} pair(s) with warnings, listed in {args.output}/{WARNINGS_NAME}", report.warnings)


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    parser = argument_parser(
        "Make a folder of shards (tar files and index.json) from image pairs. Rows that can't be used are listed in "
        "OUTPUT/rejected.jsonl with their line number, id and reason, and the work goes on; doubtful ones are accepted "
        "and listed in OUTPUT/warnings.jsonl. After a kill the same command goes on behind the last whole shard.",
        EXAMPLE,
    )
    by_input: dict[str, list[str]] = {}
    for name, importer in FORMATS.items():
        by_input.setdefault(importer.input, []).append(name)
    inputs = "; ".join(f"{', '.join(names)}: {described}" for described, names in by_input.items())
    parser.add_argument("--format", required=True, choices=FORMATS, help="form of the input")
    parser.add_argument("--input", required=True, metavar="PATH", help=inputs)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to make; must be empty or not exist")
    instruction = parser.add_mutually_exclusive_group()
    instruction.add_argument(
        "--require-instruction",
        dest="require_instruction",
        action="store_true",
        default=True,
        help="reject rows without an instruction or a chosen/rejected preference (the default)",
    )
    instruction.add_argument(
        "--allow-missing-instruction",
        dest="require_instruction",
        action="store_false",
        help="accept rows without an instruction, for captioning",
    )
    parser.add_argument(
        "--max-pixels", type=int, default=DEFAULT_MAX_PIXELS, help="largest image (default %(default)s)"
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit code 1 and no set if any row is rejected or has a warning"
    )
    parser.add_argument(
        "--most-rejected",
        metavar="SHARE",
        type=share,
        default=1.0,
        help="exit code 1 and no set if more of the rows are rejected: 5%% or 0.05",
    )
    parser.add_argument(
        "--workers", type=int, help="processes that decode and check pictures (default: one for each core, at most 16)"
    )
    parser.add_argument("--samples-per-shard", type=int, default=SAMPLES_PER_SHARD, help="(default %(default)s)")
    _add_options_of_formats(parser)
    return parser.parse_args(argv)


def _add_options_of_formats(parser: argparse.ArgumentParser) -> None:
    """The options that some formats take."""
    parser.add_argument("--count", type=int, help="synthetic: number of pairs (default 64)")
    parser.add_argument("--seed", type=int, help="synthetic: seed of the world (default 0)")
    parser.add_argument("--first-index", type=int, help="synthetic: index of the first pair (default 0)")
    silent = ", ".join(name for name, importer in FORMATS.items() if importer.needs_category)
    parser.add_argument("--category", choices=CATEGORIES, help=f"{silent}: kind of edits, which these sets do not say")
    parser.add_argument(
        "--map",
        type=column_map,
        metavar="NAME=COLUMN,..",
        help=f"table: the columns of {', '.join(MAPPED)}; a|b: b where a is empty; a.b and a[0] are places inside a",
    )
    parser.add_argument(
        "--images", metavar="DIR", help="tables: where paths of pictures begin (default: beside the table)"
    )
    parser.add_argument("--name", help="table: begins the ids, and is in the provenance (default: that of the input)")
    parser.add_argument("--license", help="tables: of all pairs, for their provenance")
    parser.add_argument(
        "--language", choices=LANGUAGES, help="tables: of the texts of a row, take that in English or Chinese script"
    )
    sessions = ", ".join(name for name, importer in FORMATS.items() if importer.takes_turns)
    parser.add_argument(
        "--turns", choices=TURNS, help=f"{sessions}: a pair of each turn (the default), of first and last picture, both"
    )
    benchmarks = ", ".join(name for name, importer in FORMATS.items() if importer.takes_answers)
    parser.add_argument("--answers", metavar="DIR", help=f"{benchmarks}: an editor's pictures, which are the targets")


def column_map(text: str) -> dict[str, str]:
    """`source=input_image,target=edited_image` as a map."""
    places: dict[str, str] = {}
    for part in text.split(","):
        name, equals, place = (word.strip() for word in part.partition("="))
        if not equals or not name or not place:
            raise argparse.ArgumentTypeError(f"{part!r} is not of the form NAME=COLUMN, such as source=input_image")
        if name in places:
            raise argparse.ArgumentTypeError(f"{name} is there twice")
        places[name] = place
    return places


def check(args: argparse.Namespace) -> None:
    """Raises ArgumentError for arguments that do not fit together, before anything is read."""
    importer = FORMATS[args.format]
    tables = {"--map": args.map, "--name": args.name} if not importer.takes_map else {}
    if not importer.takes_category:
        tables |= {"--images": args.images, "--license": args.license, "--language": args.language}
    tables |= {"--turns": args.turns} if not importer.takes_turns else {}
    tables |= {"--answers": args.answers} if not importer.takes_answers else {}
    if given := [option for option, value in tables.items() if value is not None]:
        raise ArgumentError(f"{given[0]} is not for --format {args.format}: leave it out")
    for name, value in (("--images", args.images), ("--answers", args.answers)):
        if value is not None and not Path(value).is_dir():
            raise ArgumentError(f"{name} {value}: no such folder")
    if args.category and not (importer.needs_category or importer.takes_category):
        raise ArgumentError(f"--category is not for --format {args.format}, which says it for each pair: leave it out")
    if (args.count, args.seed, args.first_index) != (None, None, None) and not FORMATS[args.format].takes_options:
        raise ArgumentError(f"--count, --seed and --first-index are not for --format {args.format}: leave them out")
    for name, value in (("--input", args.input), ("--output", args.output)):
        if not value.strip():
            raise ArgumentError(f"{name} is empty: give a path")
    for name, value, least in (
        ("--samples-per-shard", args.samples_per_shard, 1),
        ("--max-pixels", args.max_pixels, 1),
        ("--workers", args.workers, 1),
        ("--count", args.count, 1),
        ("--seed", args.seed, 0),
        ("--first-index", args.first_index, 0),
    ):
        if value is not None and value < least:
            raise ArgumentError(f"{name} is {value}: expected {least} or more")
    if args.max_pixels > LARGEST_MAX_PIXELS:
        raise ArgumentError(f"--max-pixels is {args.max_pixels}: expected at most {LARGEST_MAX_PIXELS}")


def share(text: str) -> float:
    """A share of all rows: "5%" or "0.05"."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share such as 5% or 0.05")
    return value
