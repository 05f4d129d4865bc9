"""How far an import is, beside its shards: after a kill it goes on behind the last shard that was finished.

A first line says which import it is; then a line for each finished shard: the shard, how many rows were read until
then, what they were, how long the lists are, and what the report counted. It goes when the set is whole."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from editcaption_mega.data.importers.candidates import Candidate, Rejected
from editcaption_mega.data.shards.layout import ShardError, ShardFile
from editcaption_mega.data.shards.writer import JOURNAL_NAME, REJECTED_NAME, WARNINGS_NAME
from editcaption_mega.files import naming, parse_json

from .report import ImportReport


class Journal:
    """Of the import `identity` (whatever its rows depend on, as text; None: of none, and nothing is kept)."""

    def __init__(self, folder: Path, identity: str | None):
        self.folder, self._identity = folder, identity
        self._first = {"import": blake2b((identity or "").encode(), digest_size=16).hexdigest()}
        self._entries: list[dict[str, Any]] = []
        self._rows, self._chain = 0, blake2b(digest_size=16)

    def kept(self, folder: Path) -> Sequence[ShardFile]:
        """The shards that a killed import of the same identity finished; the lists are cut to what they were then."""
        if self._identity is None:
            return ()
        self._entries = list(self._read())
        if not self._entries:
            return ()
        for name, size in self._entries[-1]["lists"].items():
            os.truncate(folder / name, size)
        return [ShardFile(**entry["shard"]) for entry in self._entries]

    def _read(self) -> Iterator[dict[str, Any]]:
        """Its lines, up to one that a kill cut off."""
        try:
            lines = (self.folder / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return
        for number, line in enumerate(lines):
            try:
                entry = parse_json(line)
            except ValueError:
                return
            if number == 0 and entry != self._first:
                return
            if number:
                if not _is_entry(entry) or not line.endswith(b"\n"):
                    return
                yield entry

    def begin(self) -> None:
        """Write what stays of it, before the first row."""
        if self._identity is not None:
            lines = [json.dumps(entry) + "\n" for entry in (self._first, *self._entries)]
            self._write("w", "".join(lines))

    def report(self) -> ImportReport:
        """What was counted until the last kept shard."""
        report = ImportReport()
        if self._entries:
            counted = self._entries[-1]["report"]
            for field in fields(ImportReport):
                value = counted[field.name]
                setattr(report, field.name, Counter(value) if isinstance(value, dict) else value)
        return report

    def rest(self, rows: Iterator[Candidate | Rejected]) -> Iterator[Candidate | Rejected]:
        """The rows behind the kept shards. Raises ShardError if those before are others than they were."""
        count, chain = (self._entries[-1]["rows"], self._entries[-1]["chain"]) if self._entries else (0, "")
        for row in islice(rows, count):
            self.passed(row)
        if count and (self._rows < count or self._chain.hexdigest() != chain):
            raise ShardError(
                f"{self.folder} holds a part of an import whose input has changed since: remove it, and import again"
            )
        yield from rows

    def passed(self, row: Candidate | Rejected) -> None:
        """A row that is dealt with."""
        self._rows += 1
        identity = row.pair.id if isinstance(row, Candidate) else f"{row.id} {row.reason}"
        self._chain.update(f"{row.number} {identity}\n".encode(errors="backslashreplace"))

    def shard(self, shard: ShardFile, report: ImportReport) -> None:
        """A shard is on the disk, with what came before it on the lists."""
        if self._identity is None:
            return
        lists = {name: (self.folder / name).stat().st_size for name in (REJECTED_NAME, WARNINGS_NAME)}
        entry = {"shard": asdict(shard), "rows": self._rows, "chain": self._chain.hexdigest(), "lists": lists}
        self._write("a", json.dumps(entry | {"report": _counted(report)}) + "\n")

    def _write(self, mode: str, text: str) -> None:
        path = self.folder / JOURNAL_NAME
        with naming(path), open(path, mode, encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def _counted(report: ImportReport) -> dict[str, Any]:
    values = {field.name: getattr(report, field.name) for field in fields(report)}
    return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}


def _is_entry(entry: Any) -> bool:
    names = {"shard", "rows", "chain", "lists", "report"}
    return isinstance(entry, dict) and set(entry) == names and isinstance(entry["rows"], int)
