"""The full check of a folder of shards, and the index made anew from the tar files alone."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from editcaption_mega.data.images.decode import LARGEST_MAX_PIXELS
from editcaption_mega.data.shard_processes import over_samples
from editcaption_mega.data.text.prompt import load_tokenizer
from editcaption_mega.data.text.tokens import TextEncoder
from editcaption_mega.records import shown

from .index import INDEX_NAME, Index, load_index, size_problem, write_index
from .index_columns import ColumnsBuilder
from .layout import MEMBERS, ShardError, ShardFile
from .pair_checks import PairChecks, Remark, refused_first
from .sample_check import SampleCheck, SampleReading, check_sample
from .tar import member_extents, read_tar
from .text_arrays import repeated

_CHUNK = 1 << 20


class CheckedFile(NamedTuple):
    """One step of `verify`: what was looked at (index, a tar, or a sample by id) and the problems found, in words."""

    name: str
    problems: list[str]


def verify(
    directory: str | os.PathLike[str],
    *,
    max_pixels: int = LARGEST_MAX_PIXELS,
    doubt: Callable[[str, Remark], None] = lambda identity, remark: None,
    tokenizer: Path | None = None,
    learn: Callable[[SampleCheck], None] = lambda sample: None,
    workers: int = 1,
) -> Iterator[CheckedFile]:
    """Check everything that can be checked, one `CheckedFile` at a time: the index, each tar, each sample.

    Tars: size and sha256. Samples: what `check_sample` says of each, and repeats among them (pair_checks): what an
    import would refuse is a problem, what it would warn of is given to `doubt` with the sample's id. `learn` is given
    each sample's check, with token counts if there is a tokenizer's folder; a tar that is missing is a problem of its
    own and not of its samples. workers: processes that read samples; 0:
    one for each core. Damage is yielded, not raised; only an index that can't be read raises ShardError. There are
    `1 + len(index.shards) + len(index.samples)` steps."""
    directory = Path(directory)
    index = load_index(directory)
    yield CheckedFile(INDEX_NAME, list(_index_problems(directory, index)))
    members: list[list[tuple[str, int, int]]] = [[] for _ in index.shards]
    for sample in index.samples:
        of_sample = (getattr(sample, part) for part in MEMBERS)
        members[sample.shard] += ((member.name, member.offset, member.bytes) for member in of_sample)
    missing = set()  # tars, of whose samples there is nothing more to say
    for number, (shard, listed) in enumerate(zip(index.shards, members, strict=True)):
        problems = list(_shard_problems(directory, shard, Counter(listed)))
        if problems and not (directory / shard.name).is_file():
            missing.add(number)
            problems = [f"{problem} ({shard.samples:,} of {len(index.samples):,} pairs)" for problem in problems]
        yield CheckedFile(shard.name, problems)
    checks = PairChecks()
    with closing(_CheckedFolder(directory, max_pixels, tokenizer)) as folder:
        for place, checked in over_samples(folder, _check, workers):
            if index.samples[place].shard in missing:
                yield CheckedFile(checked.id, [])
                continue
            learn(checked)
            repeats = [] if checked.look is None else checks.repeats(checked.look)
            remarks = refused_first([*checked.remarks, *repeats])
            if checked.look is not None and not any(remark.refused for remark in remarks):
                checks.keep(checked.look)
            for remark in remarks:
                if not remark.refused:
                    doubt(checked.id, remark)
            refused = [remark.text for remark in remarks if remark.refused]
            yield CheckedFile(checked.id, [*checked.problems, *refused])


def rebuild_index(directory: str | os.PathLike[str], *, progress: Callable[[str], None] | None = None) -> Index:
    """Write `index.json` (replacing one that is there) from the `*.tar` files of a folder, in the order of their names.

    For folders written by plain webdataset in the same layout, or moved about by hand. Every member is read;
    `progress` is called with each tar's name. Raises ShardError for the first tar that is damaged or truncated, member
    outside the layout, incomplete sample or repeated id; ImageError, RecordError for content; the old index then stays.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ShardError(f"{directory}: no such folder of shards")
    paths = sorted(directory.glob("*.tar"))
    if not paths:
        raise ShardError(f"{directory}: no *.tar files to index: make the folder with editcaption shards")
    shards, samples, ids = [], ColumnsBuilder(), set()
    for number, path in enumerate(paths):
        if progress:
            progress(path.name)
        in_tar = read_tar(path, number)
        for sample in in_tar:
            if sample.id in ids:
                raise ShardError(f"{path}: id {sample.id!r} is already in the set: ids must be unique")
            ids.add(sample.id)
            samples.add(sample)
        shards.append(ShardFile(path.name, path.stat().st_size, _file_sha256(path), len(in_tar)))
    if not len(samples):
        raise ShardError(f"{directory}: the tar files hold no samples")
    return write_index(directory, shards, samples)


def _index_problems(directory: Path, index: Index) -> Iterator[str]:
    if index.fingerprint != index.samples.fingerprint():
        yield "the fingerprint doesn't match the samples listed: the index was edited; rebuild it"
    if rows := repeated(index.samples.ids):
        yield f"id {index.samples.ids[rows[0]]!r} occurs twice"
    counts = Counter(index.samples.shard.tolist())
    for number, shard in enumerate(index.shards):
        if counts[number] != shard.samples:
            yield f"{shard.name} holds {shard.samples} samples, but {counts[number]} are listed"
    listed = {shard.name for shard in index.shards}
    for path in sorted(directory.glob("*.tar")):
        if path.name not in listed:
            yield f"{path.name} is not in the index: webdataset would read it, open_shards wouldn't; rebuild the index"


def _shard_problems(directory: Path, shard: ShardFile, listed: Counter[tuple[str, int, int]]) -> Iterator[str]:
    if problem := size_problem(directory, shard):
        yield problem
    elif _file_sha256(directory / shard.name) != shard.sha256:
        yield "sha256 differs from the index: the file was damaged or changed"
    else:
        try:
            in_tar = member_extents(directory / shard.name)
        except ShardError as error:
            yield str(error)
            return
        differing = sorted({name for name, _, _ in (in_tar - listed) + (listed - in_tar)})
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            names = ", ".join(map(shown, differing[:3])) + more
            yield f"the index does not list the members as the tar holds them ({names}): it was edited; rebuild it"


class _CheckedFolder:
    """The samples of a folder, to be sent to processes, each of which opens it by itself. tokenizer: a folder, whose
    token counts of the texts are wanted."""

    def __init__(self, directory: Path, max_pixels: int, tokenizer: Path | None = None):
        self.directory, self.max_pixels, self.tokenizer = directory, max_pixels, tokenizer
        self._open()

    def _open(self) -> None:
        self.index = load_index(self.directory, check=False)
        self.encoder = None if self.tokenizer is None else TextEncoder(load_tokenizer(self.tokenizer))
        self._shard, self._descriptor = -1, -1

    def __len__(self) -> int:
        return len(self.index.samples)

    def __getstate__(self) -> tuple[Path, int, Path | None]:
        return self.directory, self.max_pixels, self.tokenizer

    def __setstate__(self, state: tuple[Path, int, Path | None]) -> None:
        self.directory, self.max_pixels, self.tokenizer = state
        self._open()

    def descriptor(self, shard: int) -> int:
        """Of the tar; -1 where it is missing. The one before is closed."""
        if shard != self._shard:
            self.close()
            path = self.directory / self.index.shards[shard].name
            self._shard, self._descriptor = shard, os.open(path, os.O_RDONLY) if path.is_file() else -1
        return self._descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._shard, self._descriptor = -1, -1


def _check(folder: _CheckedFolder, i: int) -> SampleCheck:
    sample = folder.index.samples[i]
    tar, descriptor = folder.index.shards[sample.shard].name, folder.descriptor(sample.shard)
    return check_sample(sample, SampleReading(tar, descriptor, folder.max_pixels, folder.encoder))


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
