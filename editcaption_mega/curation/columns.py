"""What a step says of each pair of a set of shards: a side file of columns, joined to the shards by id.

    NAME.jsonl                          a first line that says of what, then one line per pair (or per sample of a pair)
                                        in the shards' order; there when all lines are
    NAME.made/all/lines.jsonl           what was made, line by line as it came
    NAME.made/part-000-of-008/..        what a part of a divided run made

A killed run goes on with the same command, parts may be divided otherwise the next time, and the part that ends last
puts all together. Nothing here holds the lines in memory: a place in a file is 9 bytes per line, so ten million pairs
are joined, filtered and merged in one process.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from editcaption_mega.evaluation.generate import Part
from editcaption_mega.files import parse_json, replacing, write_atomically
from editcaption_mega.lock import FolderLock
from editcaption_mega.settings import SettingsError

from .kept_pairs import SURVIVAL, sets_before

_log = logging.getLogger(__name__)

FORMAT = "columns 1"
_NOWHERE = -1
_AS_KEPT = re.compile(rb'\{"at": \d+, "sample": \d+, "again": (?:true|false), "row": (\{.*\})\}\n?')


class PairSet(Protocol):
    """What columns are about: a `ShardReader`, or another sequence of pairs with ids and a fingerprint."""

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def fingerprint(self) -> str: ...


def made_folder(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".jsonl") + ".made")


class ColumnWork:
    """Lines that are being made, of one step with one set of settings; hold it with `with`.

        with ColumnWork(path, reader, "caption", settings, part=part) as work:
            for at, sample in work.missing():
                work.keep(at, {"instruction": ..}, sample=sample)
        whole = work.merge()

    settings: all that a line depends on besides its pair, as JSON; another run of the file must have the same.
    samples: lines per pair. Raises SettingsError for a file of other settings or another set; lock.HeldError where
    another process makes this part."""

    def __init__(
        self,
        path: Path,
        pairs: PairSet,
        step: str,
        settings: dict[str, Any],
        *,
        samples: int = 1,
        part: Part | None = None,
    ):
        if path.suffix != ".jsonl":
            raise SettingsError(f"{path}: a file of columns ends in .jsonl; give {path}.jsonl")
        self.path, self.pairs, self.samples, self.part = path, pairs, samples, part or Part()
        self.head = {"format": FORMAT, "step": step, "of": pairs.fingerprint, "samples": samples, "settings": settings}
        self._folder = made_folder(path)
        _refuse_other(self.head, self._kept_head(), path)
        self._lock = FolderLock(self._folder / self.part.name, f"making {step}", patience=0)
        self._out: int | None = None

    @property
    def part_folder(self) -> Path:
        """Of this part: its lines, and what else it makes on the way."""
        return self._folder / self.part.name

    def __enter__(self) -> "ColumnWork":
        self._lock.acquire()
        try:
            self._note_head()
            self._places = _Places.read(self._folder, len(self.pairs.ids), self.samples, self.pairs.ids)
            mine = self._folder / self.part.name / "lines.jsonl"
            half = mine.is_file() and not _ends_whole(mine)
            self._out = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            if half:
                os.write(self._out, b"\n")  # the half line of a killed run stays alone
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._out is not None:
            os.close(self._out)
            self._out = None
        self._lock.release()

    def missing(self) -> Iterator[tuple[int, int]]:
        """(place in the shards, sample) of what this part has still to make: no line, or one to be made again."""
        final = self._places.final
        for at in range(self.part.number, len(self.pairs.ids), self.part.count):
            for sample in range(self.samples):
                if not final[at * self.samples + sample]:
                    yield at, sample

    def lacks(self, at: int, sample: int = 0) -> bool:
        """Whether that line was still to be made when this run began: for a step that goes through all pairs."""
        return not self._places.final[at * self.samples + sample]

    @property
    def missing_count(self) -> int:
        final = self._places.final.reshape(-1, self.samples)[self.part.number :: self.part.count]
        return int((~final).sum())

    def keep(self, at: int, columns: dict[str, Any], *, sample: int = 0, again: bool = False) -> None:
        """Keep the line of a pair: it is with the system when this returns, so that a kill loses nothing.

        again: whether it says why there is none yet, so that the next run makes it again. Raises ValueError for what
        has no JSON form, as NaN and Infinity have none."""
        assert self._out is not None, "inside the with block"
        self._lock.check()
        row = {"id": self.pairs.ids[at]} | ({"sample": sample} if self.samples > 1 else {}) | columns
        content = _json_line({"at": at, "sample": sample, "again": again, "row": row})
        while content:
            content = content[os.write(self._out, content) :]

    def merge(self) -> bool:
        """Write NAME.jsonl if every line is there, whatever part made it -> whether it was."""
        places = _Places.read(self._folder, len(self.pairs.ids), self.samples, self.pairs.ids)
        if not places.whole:
            return False
        with ExitStack() as stack:
            files = [stack.enter_context(open(path, "rb")) for path in places.paths]
            with replacing(self.path, "wb") as out:
                out.write(_json_line(self.head))
                for line in places.lines(files):
                    out.write(_row_of(line))
        return True

    def _kept_head(self) -> Any:
        with suppress(FileNotFoundError):
            return parse_json((self._folder / "head.json").read_bytes())
        return None

    def _note_head(self) -> None:
        if self._kept_head() is None:
            write_atomically(self._folder / "head.json", _json_line(self.head))
        _refuse_other(self.head, self._kept_head(), self.path)  # another part may have been faster


@dataclass
class _Places:
    """Where the line of each (pair, sample) stands in the files that parts have made: a final one, else the last."""

    paths: list[Path]
    file: np.ndarray  # [lines] int16, -1: nowhere
    offset: np.ndarray  # [lines] int64
    final: np.ndarray  # [lines] bool

    @classmethod
    def read(cls, folder: Path, pairs: int, samples: int, ids: Sequence[str]) -> "_Places":
        count = pairs * samples
        places = cls(
            sorted(folder.glob("*/lines.jsonl")), np.full(count, _NOWHERE, np.int16), np.zeros(count, np.int64),
            np.zeros(count, bool),
        )  # fmt: skip
        torn = 0
        for number, path in enumerate(places.paths):
            offset = 0
            with open(path, "rb") as file:
                for content in file:
                    torn += not places._note(number, offset, content, samples, ids)
                    offset += len(content)
        if torn:
            _log.warning("%s: %d unfinished lines (of killed runs) were passed over", folder, torn)
        return places

    def _note(self, number: int, offset: int, content: bytes, samples: int, ids: Sequence[str]) -> bool:
        try:
            line = parse_json(content)
            at, sample, again = line["at"], line["sample"], line["again"]
            if not (0 <= at < len(ids) and 0 <= sample < samples and line["row"]["id"] == ids[at]):
                return False
        except (ValueError, TypeError, KeyError):
            return content == b"\n"
        place = at * samples + sample
        if not self.final[place]:
            self.file[place], self.offset[place], self.final[place] = number, offset, not again
        return True

    @property
    def whole(self) -> bool:
        return bool((self.file != _NOWHERE).all())

    def lines(self, files: Sequence[BinaryIO]) -> Iterator[bytes]:
        for number, offset in zip(self.file, self.offset, strict=True):
            file = files[number]
            file.seek(offset)
            yield file.readline()


def _row_of(line: bytes) -> bytes:
    """The line of a pair, from one that `_Places.read` has read: as `keep` wrote it, or another program the same."""
    kept = _AS_KEPT.fullmatch(line)
    return kept[1] + b"\n" if kept else _json_line(parse_json(line)["row"])


class ColumnFile:
    """A whole file of columns, read line by line. Of `pairs` that a filter kept of the set that the file is about, it
    gives the lines; they say what they said of the pairs before the filter.

    Raises SettingsError (a ValueError) for a file that is none, and, where `pairs` is given, for one of another set of
    shards."""

    def __init__(self, path: str | Path, pairs: PairSet | None = None):
        self.path = Path(path)
        if self.path.is_dir():
            raise SettingsError(f"{path} is a folder: expected a file of columns, NAME.jsonl")
        if not self.path.is_file():
            made = made_folder(self.path)
            unfinished = f"; {made} is there, so run its step again to its end" if made.is_dir() else ""
            raise SettingsError(f"{path} does not exist: expected a file of columns{unfinished}")
        with open(self.path, "rb") as file:
            first = file.readline()
        try:
            head = parse_json(first)
        except ValueError:
            head = None
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise SettingsError(f"{path} is no file of columns: its first line has no format {FORMAT!r}")
        self.head: dict[str, Any] = head
        self.samples: int = head["samples"]
        self._pairs = pairs
        self._is_of_more = pairs is not None and head["of"] != pairs.fingerprint
        if pairs is not None and self._is_of_more and head["of"] not in sets_before(pairs):
            raise SettingsError(
                f"{path} is about another set of shards (fingerprint {head['of'][:12]}, these have "
                f"{pairs.fingerprint[:12]}): make it again from these; where `curate filter` drew these from that set, "
                f"it says so in FOLDER{SURVIVAL}, which has to lie beside their folder"
            )

    @property
    def step(self) -> str:
        return str(self.head["step"])

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """The lines of each pair in the shards' order: one, or as many as there are samples.

        Raises ValueError for lines that are not those of the pairs, and, where they are known, for a file that ends
        before the last one or goes on behind it."""
        ids: Iterator[str | None] = iter(self._pairs.ids) if self._pairs is not None else repeat(None)
        with open(self.path, "rb") as file:
            file.readline()
            if self._is_of_more and self._pairs is not None:
                yield from self._lines_of_kept(file, self._pairs.ids)
                return
            for number, content in enumerate(_in_groups(file, self.samples)):
                line = 2 + number * self.samples
                pair_id = next(ids, "")
                if pair_id == "":
                    raise ValueError(f"{self.path}, line {line}: the last pair is before it: the file was changed")
                yield self._lines_of(pair_id, content, line)
        if self._pairs is not None and (left := next(ids, None)) is not None:
            raise ValueError(f"{self.path} ends before pair {left}: it was cut; make it again")

    def _lines_of_kept(self, file: BinaryIO, ids: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        """Of each of these pairs, which a filter left in their order: all other lines are passed over."""
        groups = enumerate(_in_groups(file, self.samples))
        for pair_id in ids:
            for number, content in groups:
                rows = self._lines_of(None, content, 2 + number * self.samples)
                if rows[0].get("id") == pair_id:
                    yield self._lines_of(pair_id, content, 2 + number * self.samples)
                    break
            else:
                raise ValueError(f"{self.path} ends before pair {pair_id}: it was cut, or changed; make it again")

    def _lines_of(self, pair_id: str | None, content: Sequence[bytes], line: int) -> list[dict[str, Any]]:
        try:
            rows = [parse_json(one) for one in content]
        except ValueError as error:
            raise ValueError(f"{self.path}, line {line}: {error}: the file was changed or cut; make it again") from None
        named = [row.get("id") if isinstance(row, dict) else None for row in rows]
        if len(rows) < self.samples or any(pair_id not in (None, name) for name in named):
            raise ValueError(
                f"{self.path}, line {line}: expected {self.samples} lines of pair {pair_id}, found {named[0]}: the "
                "file was changed or cut; make it again"
            )
        return rows


def joined(pairs: PairSet, files: Sequence[ColumnFile]) -> Iterator[tuple[int, list[list[dict[str, Any]]]]]:
    """(place in the shards, the lines of each file) of every pair. Raises ValueError for a file of other pairs."""
    streams = [iter(ColumnFile(file.path, pairs)) for file in files]
    for at in range(len(pairs.ids)):
        yield at, [next(stream) for stream in streams]
    for stream in streams:
        next(stream, None)  # nothing is behind the last pair, or it says so


def _in_groups(file: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    for line in file:
        group.append(line)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _refuse_other(head: dict[str, Any], kept: Any, path: Path) -> None:
    if kept is None or kept == head:
        return
    old = kept if isinstance(kept, dict) else {}
    different = [name for name in head if name != "settings" and old.get(name) != head[name]]
    settings = old.get("settings")
    known = settings if isinstance(settings, dict) else {}
    different += [name for name in head["settings"] if known.get(name) != head["settings"][name]]
    raise SettingsError(
        f"{made_folder(path)} holds lines made otherwise ({', '.join(different) or 'fewer settings'} differ): choose "
        "another output, or move that folder away"
    )


def _ends_whole(path: Path) -> bool:
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


_encoded = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _json_line(value: Any) -> bytes:
    return _encoded(value).encode() + b"\n"
