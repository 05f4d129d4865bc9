"""Find pairs that are there twice, in a set or across sets: nothing that is evaluated on may be trained on."""

from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editcaption_mega import cli
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import before_work

if TYPE_CHECKING:
    from editcaption_mega.data.duplicates.duplicate_search import Duplicates, SearchedSet

EXAMPLE = """
editcaption duplicates data/train
editcaption duplicates data/train data/pool data/preference --evaluation data/bench --page twice.html --rows twice.jsonl
"""


def main(argv: Sequence[str]) -> None:
    parser = _parser()
    args = parser.parse_args(argv)
    for option, other in (
        ("--page", "--limit"),
        ("--embeddings", "--similarity"),
        ("--evaluation", "--allow-evaluation"),
    ):
        cli.check_used(parser, args, option, other)
    _check(args)
    from editcaption_mega.curation.sheets.duplicates_page import write_duplicate_rows, write_duplicates_page
    from editcaption_mega.data.duplicates.duplicate_search import find_duplicates

    notes: list[str] = []
    sets = _marked(args, notes)
    duplicates = find_duplicates(sets, progress)
    if args.embeddings:
        from editcaption_mega.curation.measures.embedded_duplicates import with_embedded

        duplicates = with_embedded(duplicates, sets, args.embeddings, args.similarity, progress)
    if args.rows:
        write_duplicate_rows(args.rows, sets, duplicates)
    if args.page:
        write_duplicates_page(args.page, sets, duplicates, args.limit)
    for note in notes:
        print(f"note: {note}")
    _print(sets, duplicates)
    if not args.allow_evaluation:
        _refuse_evaluation(sets, duplicates)
    if args.strict and (duplicates.pairs or duplicates.unchanged):
        raise ValueError(f"{len(duplicates.pairs):,} pair(s) are there twice, which --strict does not allow")
    total = sum(len(s.marks) for s in sets)
    print(f"{total:,} pairs compared: {len(duplicates.pairs):,} are there twice")


def _marked(args: Namespace, notes: list[str]) -> "list[SearchedSet]":
    """Raises ShardError with the code of an argument for a folder that is none of shards, before pictures are read."""
    from editcaption_mega.data.duplicates.duplicate_search import SearchedSet
    from editcaption_mega.data.duplicates.picture_marks import marks_of
    from editcaption_mega.data.shards.reader import open_shards

    named = [(folder, False) for folder in args.shards] + [(folder, True) for folder in args.evaluation]
    with before_work():
        for folder, _ in named:
            open_shards(folder).close()
    options: Any = {"workers": args.workers or 0, "progress": progress, "notes": notes}
    return [SearchedSet(str(folder), *marks_of(folder, **options), last) for folder, last in named]


def _print(sets: "Sequence[SearchedSet]", duplicates: "Duplicates") -> None:
    from editcaption_mega.curation.sheets.duplicates_page import named_kind

    if duplicates.left_out:
        print(
            f"note: {duplicates.left_out:,} look-ups met more pictures of one look (plain ones, or many edits of one "
            "picture) than are compared with one another: copies among those may be missing here"
        )
    counts = Counter((d.set, d.other_set, named_kind(d)) for d in [*duplicates.pairs, *duplicates.shared])
    for (mine, other, kind), count in sorted(counts.items(), key=lambda item: (item[0][:2], -item[1])):
        where = "in it twice" if mine == other else f"also in {sets[other].name}"
        print(f"{sets[mine].name}: {count:,} pair(s) {where}: {kind}")
    if duplicates.unchanged:
        print(f"{len(duplicates.unchanged):,} pair(s) whose source and target are the same picture")


def _refuse_evaluation(sets: "Sequence[SearchedSet]", duplicates: "Duplicates") -> None:
    """Raises ValueError where a pair of an evaluation set is in another set."""
    from editcaption_mega.curation.sheets.duplicates_page import named_kind

    if touched := duplicates.of_evaluation(sets):
        d = touched[0]
        mine, other = sets[d.set], sets[d.other_set]
        more = f", as are {len(touched) - 1:,} more" if len(touched) > 1 else ""
        raise ValueError(
            f"pair {mine.shards.ids[d.place]} of {mine.name} is pair {other.shards.ids[d.other_place]} of {other.name} "
            f"({named_kind(d)}){more}: what is measured on pairs that are trained on tells nothing; take them out of "
            "one of the sets (--rows lists them), or allow it with --allow-evaluation"
        )


def _parser() -> ArgumentParser:
    parser = cli.argument_parser(
        "Find pairs that are there twice, within each folder of shards and across all: the same files, the same "
        "pixels, re-encoded or resized, mirrored, cropped (5 % of a side), swapped; and pairs whose source is their "
        "target. Exit code 1 if a pair of an --evaluation set is in another set. What is known of each picture is kept "
        "beside the shards (duplicates.safetensors), so a second search takes seconds.",
        EXAMPLE,
    )
    parser.add_argument(
        "shards", nargs="+", type=Path, metavar="DIR", help="folders of shards: training, pool, preference pairs"
    )
    parser.add_argument(
        "--evaluation", nargs="+", default=[], type=Path, metavar="DIR", help="folders that are measured on"
    )
    parser.add_argument("--page", type=Path, metavar="FILE.html", help="write a page with the pictures side by side")
    parser.add_argument("--rows", type=Path, metavar="FILE.jsonl", help="write a line of JSON for each")
    parser.add_argument("--limit", type=cli.positive, default=100, metavar="N", help="of each kind on the page (100)")
    parser.add_argument("--workers", type=cli.positive, metavar="N", help="processes (default: one for each core)")
    parser.add_argument(
        "--embeddings",
        type=Path,
        metavar="MODEL",
        help="also compare embeddings: Hugging Face folder of a CLIP, SigLIP, DINO or other vision model",
    )
    parser.add_argument(
        "--similarity", type=cli.between(0, 1), default=0.97, metavar="COSINE", help="from which on (default 0.97)"
    )
    parser.add_argument("--allow-evaluation", action="store_true", help="exit code 0 even then")
    parser.add_argument("--strict", action="store_true", help="exit code 1 for any pair that is there twice")
    return parser


def _check(args: Namespace) -> None:
    """Raises ArgumentError, before anything is read."""
    for folder in [*args.shards, *args.evaluation]:
        if not folder.is_dir():
            raise cli.ArgumentError(f"{folder}: no such folder of shards")
    resolved = [folder.resolve() for folder in [*args.shards, *args.evaluation]]
    for place, folder in enumerate(resolved):
        if folder in resolved[:place]:
            raise cli.ArgumentError(f"{folder} is named twice: every pair of it would be there twice; name it once")
    cli.check_output_file("--page", args.page)
    cli.check_output_file("--rows", args.rows)
    cli.check_named_folder("--embeddings", args.embeddings)
