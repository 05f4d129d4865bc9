"""Write one HTML file to look through shards: pictures, texts, ground truth and provenance, without any model."""

from collections.abc import Sequence
from pathlib import Path

from editcaption_mega.cli import argument_parser, check_output_file, positive
from editcaption_mega.progress_display import progress
from editcaption_mega.settings import before_work
from editcaption_mega.words import counted

EXAMPLE = """
editcaption browse data/train --output train.html
editcaption browse data/train data/extra --limit 300 --output both.html
"""


def main(argv: Sequence[str]) -> None:
    parser = argument_parser(__doc__, EXAMPLE)
    parser.add_argument("shards", nargs="+", metavar="DIR", help="folders of shards (editcaption shards)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.html", help="replaced where it is there")
    parser.add_argument("--limit", type=positive, default=1000, metavar="N", help="pairs of each folder (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="which pairs, where there are more (default 0)")
    args = parser.parse_args(argv)
    check_output_file("--output", args.output)
    from editcaption_mega.evaluation.report.page.browse import open_sets, write_browser

    with before_work():
        sets = open_sets(args.shards, args.limit, args.seed)
    write_browser(args.output, sets, progress)
    for shown in sets:
        print(f"{shown.benchmark.name}: {len(shown.benchmark):,} of {counted(shown.total, 'pair')}")
    print(f"{args.output}: {args.output.stat().st_size / 2**20:.1f} MiB, open it in any browser")
