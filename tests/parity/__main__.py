"""Measure every layout against transformers and write the table: `make parity`, or `python -m tests.parity`."""

import argparse
import tempfile
from pathlib import Path

from .matrix import measure, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="file for the table; without it the table is printed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        text = table(measure(Path(work)))
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
