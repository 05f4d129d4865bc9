"""A benchmark as the other parts of the evaluation see it: pairs with pictures and, mostly, their ground truth.

Every benchmark is a folder of shards (`tools/make_shards.py` makes one of any format) and, where not all of it is
meant, a list of ids. Results are joined to it by id and by nothing else."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from editcaption_mega.data import open_shards
from editcaption_mega.records import EditPair


@dataclass(frozen=True)
class Item:
    """One pair of a benchmark: its record and its pictures as encoded bytes."""

    pair: EditPair
    source: bytes
    target: bytes


class Benchmark:
    """Pairs in a fixed order under one name. Iterating reads one pair's pictures at a time.

    Raises ValueError for an id of `ids` that the shards lack or that stands there twice."""

    def __init__(self, name: str, shards: str | Path, ids: Sequence[str] | None = None):
        self.name, self.reader = name, open_shards(shards)
        positions = {pair_id: i for i, pair_id in enumerate(self.reader.ids)}
        self.ids: list[str] = list(self.reader.ids if ids is None else ids)
        missing = [pair_id for pair_id in self.ids if pair_id not in positions]
        if missing:
            raise ValueError(
                f"benchmark {name}: {len(missing)} of {len(self.ids)} listed ids are not in {shards} (first: "
                f"{missing[0]}); make the shards from the same release as the list"
            )
        _refuse_twice(self.ids, f"benchmark {name}: the list of ids")
        self._positions = [positions[pair_id] for pair_id in self.ids]

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Item]:
        return (self.item(i) for i in range(len(self)))

    def item(self, i: int) -> Item:
        sample = self.reader[self._positions[i]]
        return Item(sample.pair, sample.source_bytes, sample.target_bytes)

    def pair(self, i: int) -> EditPair:
        """The record alone; no picture is read."""
        return self.reader.pair(self._positions[i])

    def pairs(self) -> list[EditPair]:
        return [self.pair(i) for i in range(len(self))]

    @property
    def fingerprint(self) -> str:
        """Changes when a picture, a record (so the ground truth too) or the list of ids changes."""
        content = json.dumps([self.reader.fingerprint, self.ids])
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


def _refuse_twice(ids: Sequence[str], where: str) -> None:
    seen: set[str] = set()
    twice = sorted({one for one in ids if one in seen or seen.add(one)})
    if twice:
        raise ValueError(f"{where} holds {len(twice)} ids more than once ({_some(twice)}): each may be there once")


def _some(ids: Collection[str]) -> str:
    shown = ", ".join(sorted(ids)[:3])
    return shown if len(ids) <= 3 else f"{shown}, .."
