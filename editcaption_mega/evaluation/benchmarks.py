"""A benchmark as the other parts of the evaluation see it: pairs with pictures and, mostly, their ground truth.

Every benchmark is a folder of shards (`editcaption shards` makes one of any format) and, where not all of it is
meant, a list of ids. Results are joined to it by id and by nothing else."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from editcaption_mega.data import open_shards
from editcaption_mega.records import Changes, EditPair


@dataclass(frozen=True)
class BenchmarkPair:
    """One pair of a benchmark: its record and its pictures as encoded bytes."""

    pair: EditPair
    source: bytes
    target: bytes


def truth_of(pair: EditPair) -> Changes:
    """Raises ValueError for a pair without ground truth."""
    if pair.changes is None:
        raise ValueError(f"pair {pair.id} has no ground truth ('changes'): build one for the set first")
    return pair.changes


class Benchmark:
    """Pairs in a fixed order under one name. Iterating reads one pair's pictures at a time.

    ids: those that are meant, in order (default: all of the shards). truth: ground truth by id that replaces the
    shards' own. Raises ValueError for an id that the shards lack or that stands there twice, and for truth that does
    not fit."""

    def __init__(
        self,
        name: str,
        shards: str | Path,
        ids: Sequence[str] | None = None,
        truth: Mapping[str, Changes] | None = None,
    ):
        self.name, self.shards, self.reader = name, Path(shards), open_shards(shards)
        self.stem = name  # of the files that hold its results
        positions = {pair_id: i for i, pair_id in enumerate(self.reader.ids)}
        self.ids: list[str] = list(self.reader.ids if ids is None else ids)
        self.whole_ids = self.ids  # and where these are the `first`, those of the whole
        missing = [pair_id for pair_id in self.ids if pair_id not in positions]
        if missing:
            raise ValueError(
                f"benchmark {name}: {len(missing)} of {len(self.ids)} listed ids are not in {shards} (first: "
                f"{missing[0]}); make the shards from the same release as the list"
            )
        _refuse_twice(self.ids, f"benchmark {name}: the list of ids")
        self._positions = [positions[pair_id] for pair_id in self.ids]
        if truth is not None:
            self.check_join(truth, "the ground truth")
        self.truth = None if truth is None else dict(truth)
        self._keys: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[BenchmarkPair]:
        return (self.item(i) for i in range(len(self)))

    def item(self, i: int) -> BenchmarkPair:
        sample = self.reader[self._positions[i]]
        return BenchmarkPair(self._with_truth(sample.pair), sample.source_bytes, sample.target_bytes)

    def first(self, count: int) -> "Benchmark":
        """The first pairs alone; their results have files of their own."""
        ids = self.ids[:count]
        truth = None if self.truth is None else {pair_id: self.truth[pair_id] for pair_id in ids}
        first = Benchmark(self.name, self.shards, ids, truth)
        first.stem, first.whole_ids = f"{self.name}.first-{count}", self.whole_ids
        return first

    @property
    def left_out(self) -> set[str]:
        """The ids of the whole that are not among the `first`."""
        return set(self.whole_ids) - set(self.ids)

    def position(self, i: int) -> int:
        """Where pair i stands in the shards."""
        return self._positions[i]

    def pair(self, i: int) -> EditPair:
        """The record alone; no picture is read."""
        return self._with_truth(self.reader.pair(self._positions[i]))

    def _with_truth(self, pair: EditPair) -> EditPair:
        return pair if self.truth is None else pair.model_copy(update={"changes": self.truth[pair.id]})

    def key(self, i: int) -> str:
        """What a text about pair i depends on: its id and its pictures, and neither the ground truth nor which other
        pairs are in the list."""
        if i not in self._keys:
            sample = self.item(i)
            digests = (hashlib.sha256(data).hexdigest() for data in (sample.source, sample.target))
            self._keys[i] = hashlib.sha256("\n".join((self.ids[i], *digests)).encode()).hexdigest()[:32]
        return self._keys[i]

    def pairs(self) -> list[EditPair]:
        return [self.pair(i) for i in range(len(self))]

    @property
    def fingerprint(self) -> str:
        """Changes when a picture, a record (so the ground truth too) or the list of ids changes."""
        truth = None if self.truth is None else {k: v.model_dump(exclude_none=True) for k, v in self.truth.items()}
        content = json.dumps([self.reader.fingerprint, self.ids, truth], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def check_join(self, ids: Iterable[str], where: str) -> None:
        """Results must be of exactly these pairs, each once. Raises ValueError that names what is not."""
        found = list(ids)
        _refuse_twice(found, where)
        missing, extra = sorted(set(self.ids) - set(found)), sorted(set(found) - set(self.ids))
        if missing or extra:
            told = [f"{len(missing)} of {len(self)} ids are missing ({_some(missing)})"] if missing else []
            told += [f"{len(extra)} are unknown ({_some(extra)})"] if extra else []
            raise ValueError(
                f"{where} does not fit benchmark {self.name}: {', '.join(told)}. Ids must be those of the benchmark, "
                "letter by letter; results of another release or another list cannot be joined"
            )


def read_ids(path: str | Path) -> list[str]:
    """A list of ids: one a line; blank lines and those that begin with # are not ids. Raises ValueError without any."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"list of ids {path} does not exist: expected a file with one id a line")
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    ids = [line for line in lines if line and not line.startswith("#")]
    if not ids:
        raise ValueError(f"list of ids {path} is empty: expected one id a line")
    return ids


def _refuse_twice(ids: Sequence[str], where: str) -> None:
    twice = sorted(one for one, count in Counter(ids).items() if count > 1)
    if twice:
        raise ValueError(f"{where} holds {len(twice)} ids more than once ({_some(twice)}): each may be there once")


def _some(ids: Collection[str]) -> str:
    shown = ", ".join(sorted(ids)[:3])
    return shown if len(ids) <= 3 else f"{shown}, .."
