"""Which pairs of some sets are there twice, and as what."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.progress import Progress, no_progress

from .differences import COPY, Difference, coarse, cropped_differences, difference, maybe_cropped
from .look_hashes import LookHashes, look_hashes, of_mirrored
from .neighbors import Places, distinct, neighbors
from .picture_marks import LIGHT, SetMarks

KINDS = ("the same files", "the same pixels", "re-encoded or resized", "mirrored", "cropped")
_FILES, _PIXELS, _COPY, _MIRRORED, _CROPPED = range(len(KINDS))
EMBEDDED = "alike for the model"  # the kind of what embeddings find
_VIEWS = {_COPY: "copies", _MIRRORED: "mirrored copies", _CROPPED: "cropped copies"}
_AT_ONCE = 1 << 14  # candidates whose thumbnails are in memory
# What means of 16 parts may differ by: no more than the limit of all allows for one; of crops, what one may shift.
_COARSE, _COARSE_CROPPED = 4 * COPY.light, 40


@dataclass(frozen=True)
class SearchedSet:
    """is_evaluation: what is measured on it tells nothing of pairs that are trained on."""

    name: str
    shards: ShardReader
    marks: SetMarks
    is_evaluation: bool = False


class Duplicate(NamedTuple):
    """A pair (set, place) that is another one, earlier in its set or in another set. kind: of KINDS; swapped: source
    for target; difference: root mean square of luma of the thumbnails, of 255. sides: whether source and target are
    alike; one of them alone for a pair that only shares a picture."""

    kind: str
    set: int
    place: int
    other_set: int
    other_place: int
    swapped: bool
    difference: float
    sides: tuple[bool, bool] = (True, True)


@dataclass(frozen=True)
class Duplicates:
    """pairs: each at most once per other set, with what it is most like there. shared: pairs of an evaluation set with
    a picture of another set's, and another edit. unchanged: (set, place) of pairs whose source is their target, pixel
    for pixel. left_out: look-ups that met more pictures of one look than are compared."""

    pairs: list[Duplicate]
    shared: list[Duplicate]
    unchanged: list[tuple[int, int]]
    left_out: int

    def of_evaluation(self, sets: Sequence[SearchedSet]) -> list[Duplicate]:
        """Pairs of an evaluation set that are in another set."""
        return [
            d
            for d in self.pairs
            if d.set != d.other_set and (sets[d.set].is_evaluation or sets[d.other_set].is_evaluation)
        ]


class _Matches(NamedTuple):
    """Of M: pairs a, b, as places in all sets together; kind; swapped; difference; alike [M, 2]: which sides of a."""

    a: Places
    b: Places
    kind: Places
    swapped: NDArray[np.bool_]
    difference: NDArray[np.float32]
    alike: NDArray[np.bool_]


def find_duplicates(sets: Sequence[SearchedSet], progress: Progress = no_progress, *, bits: int = 0) -> Duplicates:
    """Within each set and across all. Memory: about 250 bytes a pair and what is found; thumbnails stay in their files.

    bits: of a band (`neighbors.band_bits`), where it should not follow from the sizes."""
    search = _Search(sets)
    parts, left_out = [search.exact(0), search.exact(1)], 0
    for kind in progress(_VIEWS, len(_VIEWS), "looks compared"):
        matches, more = search.near(kind, bits)
        parts += matches
        left_out += more
    matches = _Matches(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    whole = matches.alike.all(1)
    pairs = list(search.best(_where(matches, whole)))
    twice = {(d.set, d.place, d.other_set) for d in pairs}
    of_evaluation = search.is_evaluation[search.set_of(matches.a)] != search.is_evaluation[search.set_of(matches.b)]
    shared = [
        d for d in search.best(_where(matches, ~whole & of_evaluation)) if (d.set, d.place, d.other_set) not in twice
    ]
    unchanged = [
        (k, int(i)) for k, s in enumerate(sets) for i in np.flatnonzero(s.marks.pixels[:, 0] == s.marks.pixels[:, 1])
    ]
    return Duplicates(pairs, shared, unchanged, left_out)


class _Search:
    """All sets as one, the evaluation sets last: what is found is said of the later pair."""

    def __init__(self, sets: Sequence[SearchedSet]):
        self.order = sorted(range(len(sets)), key=lambda k: sets[k].is_evaluation)
        self.sets = [sets[k] for k in self.order]
        self.ends = np.cumsum([len(s.marks) for s in self.sets])
        self.is_evaluation = np.array([s.is_evaluation for s in self.sets])
        self.hashes = self._hashes()
        self.coarse = np.concatenate([coarse(_light(s.marks)) for s in self.sets])

    def set_of(self, pairs: Places) -> Places:
        return np.searchsorted(self.ends, pairs, "right")

    def thumbnails(self, pairs: Places, side: Places) -> NDArray[np.uint8]:
        """[M, BYTES] of pairs [M] and their sides [M]."""
        of_set = self.set_of(pairs)
        out = np.empty((len(pairs), self.sets[0].marks.thumbnails.shape[2]), np.uint8)
        for k, s in enumerate(self.sets):
            mine = np.flatnonzero(of_set == k)
            out[mine] = s.marks.thumbnails[pairs[mine] - (self.ends[k] - len(s.marks)), side[mine]]
        return out

    def exact(self, swapped: int) -> _Matches:
        """Pairs with both pictures of an earlier pair, pixel for pixel: for each set the first."""
        pixels = np.concatenate([s.marks.pixels for s in self.sets])
        files = np.concatenate([s.marks.file for s in self.sets])
        keys = _mixed(pixels)
        wanted = _mixed(pixels[:, ::-1]) if swapped else keys
        a, b = [], []
        for k, end in enumerate(self.ends):
            start = end - len(self.sets[k].marks)
            values, first = np.unique(keys[start:end], return_index=True)
            at = np.searchsorted(values, wanted).clip(max=len(values) - 1)
            mine = np.flatnonzero(values[at] == wanted)
            other = start + first[at[mine]]
            earlier = other != mine
            a.append(mine[earlier])
            b.append(other[earlier])
        mine, other = np.concatenate(a), np.concatenate(b)
        same_files = (files[mine] == (files[other][:, ::-1] if swapped else files[other])).all(1)
        return _Matches(
            mine, other, np.where(same_files, _FILES, _PIXELS), np.full(len(mine), bool(swapped)),
            np.zeros(len(mine), np.float32), np.ones((len(mine), 2), np.bool_),
        )  # fmt: skip

    def near(self, kind: int, bits: int) -> tuple[list[_Matches], int]:
        """Pairs with a picture that looks like one of another pair."""
        hashes = self.hashes
        queries = hashes if kind == _COPY else of_mirrored(hashes) if kind == _MIRRORED else self._hashes(cropped=True)
        near = neighbors(queries, hashes.bits, bits)
        a, b, swapped = near.query // 2, near.other // 2, near.query % 2 != near.other % 2
        if kind != _CROPPED:  # both say the same of one another
            a, b = np.maximum(a, b), np.minimum(a, b)
        near_by = a != b
        near_by[near_by] = self._may_be(kind, a[near_by], b[near_by], swapped[near_by])
        count = int(self.ends[-1])
        candidates = distinct((a * count + b)[near_by] * 2 + swapped[near_by])
        swapped, both = candidates % 2 == 1, candidates // 2
        parts = []
        for start in range(0, len(both), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            parts.append(self._compared(kind, both[part] // count, both[part] % count, swapped[part]))
        return parts, near.left_out

    def _may_be(self, kind: int, a: Places, b: Places, swapped: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """[M]: whether the means of 16 parts of the pictures are near enough; of both pictures, but for pairs of which
        one alone is of an evaluation set: there a single picture counts, too."""
        limit = _COARSE_CROPPED if kind == _CROPPED else _COARSE
        may_be = np.zeros((2, len(a)), np.bool_)
        for start in range(0, len(a), _AT_ONCE * 16):
            part = slice(start, start + _AT_ONCE * 16)
            for side in (0, 1):
                mine, theirs = self.coarse[2 * a[part] + side], self.coarse[2 * b[part] + (side ^ swapped[part])]
                mine = mine[..., ::-1] if kind == _MIRRORED else mine
                may_be[side, part] = np.abs(mine - theirs).max((1, 2)) <= limit
        if not self.is_evaluation.any():
            return may_be.all(0)
        across = self.is_evaluation[self.set_of(a)] != self.is_evaluation[self.set_of(b)]
        return np.where(across, may_be.any(0), may_be.all(0))

    def _compared(self, kind: int, a: Places, b: Places, swapped: NDArray[np.bool_]) -> _Matches:
        mine = [self.thumbnails(a, np.full(len(a), side)) for side in (0, 1)]
        theirs = [self.thumbnails(b, side ^ swapped) for side in (0, 1)]
        if kind == _CROPPED:
            maybe = maybe_cropped(mine[0], theirs[0]) & maybe_cropped(mine[1], theirs[1])
            a, b, swapped = a[maybe], b[maybe], swapped[maybe]
            cut = [cropped_differences(x[maybe], y[maybe]) for x, y in zip(mine, theirs, strict=True)]
            light, alike = _best_crop(*cut)
        else:
            both = [difference(x, y, kind == _MIRRORED) for x, y in zip(mine, theirs, strict=True)]
            alike = np.stack([d.within for d in both], 1)
            light = np.where(alike.all(1), np.maximum(both[0].light, both[1].light), _of_alike(both))
        return _where(_Matches(a, b, np.full(len(a), kind), swapped, light, alike), alike.any(1))

    def best(self, matches: _Matches) -> Iterator[Duplicate]:
        """For each pair and other set what it is most like, said of the later pair."""
        later, earlier = np.maximum(matches.a, matches.b), np.minimum(matches.a, matches.b)
        # Where several are as good (an edit that mirrors is swapped when it is mirrored) the simplest is said.
        rank = np.where(matches.kind <= _PIXELS, -1.0, matches.difference) + 1.0 * matches.swapped
        rank = rank + np.where(matches.kind >= _MIRRORED, 0.5, 0.0)
        set_a, set_b = self.set_of(later), self.set_of(earlier)
        order = np.lexsort((earlier, rank, set_b, later))
        key = later[order] * len(self.sets) + set_b[order]
        for m in order[np.flatnonzero(np.diff(key, prepend=-1))].tolist():
            yield Duplicate(
                KINDS[matches.kind[m]],
                self.order[set_a[m]], self._place(later[m], set_a[m]),
                self.order[set_b[m]], self._place(earlier[m], set_b[m]),
                bool(matches.swapped[m]), float(matches.difference[m]), tuple(matches.alike[m].tolist()),
            )  # fmt: skip

    def _place(self, pair: Any, of_set: Any) -> int:
        return int(pair - (self.ends[of_set] - len(self.sets[of_set].marks)))

    def _hashes(self, cropped: bool = False) -> LookHashes:
        """Of picture 2 i + side of pair i."""
        parts = [look_hashes(_light(s.marks), cropped) for s in self.sets]
        return LookHashes(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _best_crop(source: list[Difference], target: list[Difference]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Of the places of the cut, the same for both pictures, that where they differ least."""
    light = np.stack([np.maximum(s.light, t.light) for s, t in zip(source, target, strict=True)])
    both = np.stack([s.within & t.within for s, t in zip(source, target, strict=True)])
    place = np.where(both.any(0), np.where(both, light, np.inf).argmin(0), light.argmin(0))
    alike = np.stack([both.any(0), both.any(0)], 1)
    return light[place, np.arange(light.shape[1])], alike


def _of_alike(both: Sequence[Difference]) -> NDArray[np.float32]:
    """Of the picture that is alike, where one is."""
    source, target = both
    return np.where(source.within, source.light, target.light)


def _light(marks: SetMarks) -> NDArray[np.uint8]:
    count, _, size = marks.thumbnails.shape
    return marks.thumbnails.reshape(2 * count, size)[:, : LIGHT * LIGHT].reshape(-1, LIGHT, LIGHT)


def _mixed(both: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each pair of numbers, in their order; others collide as rarely as 64 bits do."""
    with np.errstate(over="ignore"):
        mixed: NDArray[np.int64] = both[:, 0] * np.int64(0x9E3779B97F4A7C15 - (1 << 64)) + both[:, 1]
    return mixed


def _where(matches: _Matches, mask: NDArray[np.bool_]) -> _Matches:
    rows: Any = (values[mask] for values in matches)
    return _Matches(*rows)
