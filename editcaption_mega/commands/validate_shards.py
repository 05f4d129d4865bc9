"""Check every byte of a folder of shards, or make its index anew."""

import sys
from argparse import ArgumentParser, Namespace
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from editcaption_mega.cli import ArgumentError, argument_parser, check_output_file, check_used, positive, print_counts
from editcaption_mega.data.importers.quota import quota_lines
from editcaption_mega.data.shards.check import rebuild_index, verify
from editcaption_mega.data.shards.index import INDEX_NAME, load_index
from editcaption_mega.data.shards.pair_checks import Remark
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import before_work
from editcaption_mega.words import counted

if TYPE_CHECKING:
    from editcaption_mega.data.shards.sample_check import SampleCheck

EXAMPLE = """
editcaption validate-shards data/train
editcaption validate-shards data/train --tokenizer models/Qwen3-VL-2B --contact-sheet train.html
editcaption validate-shards data/from_webdataset --rebuild-index
"""


def main(argv: Sequence[str]) -> None:
    parser = _parser()
    args = parser.parse_args(argv)
    check_used(parser, args, "--contact-sheet", "--pairs", "--seed")
    _check(args)
    if args.rebuild_index:
        rebuild_index(args.directory, progress=lambda name: print(f"indexing {name}", file=sys.stderr))
    index = load_index(args.directory)
    total = 1 + len(index.shards) + len(index.samples)
    said = _Said(args.warnings)
    steps = verify(
        args.directory, doubt=said.doubt, tokenizer=args.tokenizer, learn=said.learn, workers=args.workers or 0
    )
    for checked in progress(steps, total, "checked"):
        for problem in checked.problems:
            said.problems[checked.name].append(problem)
            print(f"{checked.name}: {problem}")
    title = f"{len(said.warnings)} pair(s) with warnings" + ("" if args.warnings else " (--warnings lists them)")
    print_counts(title, said.kinds)
    for line in [*quota_lines(said.categories), *said.token_lines()]:
        print(f"  {line}")
    if args.contact_sheet:
        _write_contact_sheet(args, said)
    if count := sum(map(len, said.problems.values())):
        raise ValueError(f"{args.directory}: {count} problem(s), listed above")
    if said.warnings and args.strict:
        raise ValueError(f"{args.directory}: {len(said.warnings)} pair(s) with warnings, which --strict does not allow")
    if args.to_energon:
        from editcaption_mega.data.shards.energon import META, write_energon

        written = write_energon(Path(args.directory))
        print(f"{args.directory}/{META}: Megatron-Energon reads the folder as a CrudeWebdataset ({len(written)} files)")
    print(
        f"{args.directory}: {counted(len(index.samples), 'pair')} whole and sound, fingerprint {index.fingerprint[:16]}"
    )


class _Said:
    """What a check has said so far. printed: whether warnings are, one a line."""

    def __init__(self, printed: bool):
        self.printed = printed
        self.problems: dict[str, list[str]] = defaultdict(list)
        self.warnings: dict[str, list[str]] = defaultdict(list)
        self.kinds: Counter[str] = Counter()
        self.categories: Counter[str] = Counter()
        self.tokens: dict[str, Counter[int]] = defaultdict(Counter)  # text -> length -> pairs
        self.longest: dict[str, tuple[int, str]] = {}

    def doubt(self, identity: str, remark: Remark) -> None:
        self.kinds[remark.kind] += 1
        self.warnings[identity].append(remark.text)
        if self.printed:
            print(f"{identity}: warning: {remark.text}")

    def learn(self, sample: "SampleCheck") -> None:
        if sample.category is not None:
            self.categories[sample.category] += 1
        for name, count in sample.tokens.items():
            self.tokens[name][count] += 1
            self.longest[name] = max(self.longest.get(name, (-1, "")), (count, sample.id))

    def lengths(self) -> list[tuple[str, int, float, int, str]]:
        """(text, pairs, mean, longest, its id), in tokens."""
        rows = []
        for name, counts in self.tokens.items():
            pairs = counts.total()
            mean = sum(length * times for length, times in counts.items()) / pairs
            rows.append((name, pairs, mean, *self.longest[name]))
        return rows

    def token_lines(self) -> list[str]:
        return [
            f"{name}: {mean:.1f} tokens in the mean over {counted(pairs, 'pair')}, {most:,} at most ({longest})"
            for name, pairs, mean, most, longest in self.lengths()
        ]


def _write_contact_sheet(args: Namespace, said: _Said) -> None:
    from editcaption_mega.curation.sheets.contact_sheet import ContactSheet, write_contact_sheet
    from editcaption_mega.data.shards.reader import ShardError, open_shards

    try:
        shards = open_shards(args.directory)
    except ShardError as error:
        print(f"note: no contact sheet, as the folder cannot be opened: {error}")
        return
    sheet = ContactSheet(shards, said.problems, said.warnings, said.categories, said.lengths())
    write_contact_sheet(args.contact_sheet, sheet, args.pairs, args.seed)
    print(f"{args.contact_sheet}: a contact sheet, open it in any browser")


def _parser() -> ArgumentParser:
    parser = argument_parser(
        "Check a folder of shards, by processes: sizes and sha256 of every tar and member, json against the schema, "
        "every image decoded, and what make_shards checks of each pair (equal or repeated pictures, refusals, ..); and "
        "count categories against the paper's shares. Problems are printed one a line; exit code 1 if there are any. "
        "What make_shards warns of is counted, and listed with --warnings. Copies that are mirrored, cropped or in "
        "other sets: editcaption duplicates.",
        EXAMPLE,
    )
    parser.add_argument("directory", metavar="DIR", help="folder of shards")
    parser.add_argument(
        "--rebuild-index", action="store_true", help="first write index.json anew from the tar files, in name order"
    )
    parser.add_argument("--strict", action="store_true", help="exit code 1 for warnings, too")
    parser.add_argument("--warnings", action="store_true", help="print every warning, one a line")
    parser.add_argument("--workers", type=positive, metavar="N", help="processes (default: one for each core)")
    parser.add_argument("--tokenizer", type=Path, metavar="MODEL", help="folder of a model: count tokens of the texts")
    parser.add_argument(
        "--contact-sheet", type=Path, metavar="FILE.html", help="write a page of pairs, those with problems first"
    )
    parser.add_argument("--pairs", type=positive, default=200, metavar="N", help="on the contact sheet (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="which of the pairs without problems (default 0)")
    parser.add_argument(
        "--to-energon",
        action="store_true",
        help="of a sound folder, write what Megatron-Energon reads beside the tars: .nv-meta/ and *.tar.idx",
    )
    return parser


def _check(args: Namespace) -> None:
    """Raises ArgumentError or SettingsError, before anything is read."""
    if not Path(args.directory).is_dir():
        raise ArgumentError(f"{args.directory}: no such folder of shards")
    check_output_file("--contact-sheet", args.contact_sheet)
    if not args.rebuild_index and not (Path(args.directory) / INDEX_NAME).is_file():
        with before_work():
            load_index(args.directory)  # which says what there is instead
    if args.tokenizer is not None:
        from editcaption_mega.data.text.prompt import load_tokenizer

        with before_work():
            load_tokenizer(args.tokenizer)
