"""Texts that models wrote, kept by what they depend on.

    OUTPUT/instructions/MODEL/made/BENCHMARK/all.jsonl                  what was made, line by line as it came
    OUTPUT/instructions/MODEL/made/BENCHMARK/part-000-of-008.jsonl      what a part of a divided run made

A text depends on the pair's id and pictures, and on the settings, which one folder holds one set of. It does not depend
on the ground truth, nor on which pairs were tried before or how the work was divided: so none of them loses it."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from editcaption_mega.files import parse_json
from editcaption_mega.records import Instruction, RecordError

_log = logging.getLogger(__name__)


class MadeTexts:
    """The texts of one model for one benchmark."""

    def __init__(self, output: Path, model: str, benchmark: str):
        self.folder = output / "instructions" / model / "made" / benchmark

    def read(self) -> dict[str, Instruction]:
        """Key of a pair -> what was made for it: an answer where there is one, else the last failure."""
        rows: dict[str, Instruction] = {}
        torn = 0
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                try:
                    made = parse_json(line)
                    key, row = made["key"], Instruction.from_json(made["row"])
                except (ValueError, TypeError, KeyError, RecordError):
                    torn += 1
                    continue
                if key not in rows or not is_definite(rows[key]):
                    rows[key] = row
        if torn:
            _log.warning("%s: %d unfinished lines (of killed runs) were passed over", self.folder, torn)
        return rows

    @contextmanager
    def writing(self, name: str) -> Iterator[Callable[[str, Instruction], None]]:
        """A function that keeps a row under a key: on the disk's way when it returns, so a kill loses nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.jsonl"
        half = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if half:
                os.write(descriptor, b"\n")  # a killed run's half line stays alone

            def keep(key: str, row: Instruction) -> None:
                line = (json.dumps({"key": key, "row": row.to_json()}) + "\n").encode()
                while line:
                    line = line[os.write(descriptor, line) :]

            yield keep
        finally:
            os.close(descriptor)


def is_definite(row: Instruction) -> bool:
    """Whether a later run need not ask again: there is a text, or the model refuses. What failed, was cut off before
    any answer or had none is asked for again."""
    return row.instruction is not None or row.provenance.get("status") == "refused"
