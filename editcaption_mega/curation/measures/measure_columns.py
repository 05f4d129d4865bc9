"""The measures of a whole set as columns, by processes in parallel; a killed run goes on."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import batched
from pathlib import Path
from typing import Any

from editcaption_mega.curation.columns import ColumnFile, ColumnWork
from editcaption_mega.data.images.decode import ImageError, decode_image
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.evaluation.generate import Part
from editcaption_mega.process_pool import ProcessPool, cores
from editcaption_mega.progress import Progress, no_progress

from . import picture_changes
from .embeddings import Embedder, embedding_columns

VERSION = 1  # of the measures: raised when the same pictures may give other numbers
PAIRS_PER_TASK = 8
_CAPTIONS = ("source_caption", "target_caption")
_shards: ShardReader | None = None  # of a worker


def measure_pairs(
    shards: ShardReader, output: Path, *, workers: int = 0, part: Part | None = None, progress: Progress = no_progress
) -> bool:
    """The columns of `measure_pictures` for every pair of a part; `reason` where a picture cannot be read -> whether
    the whole file is written now.

    workers: processes; 0: one for each core; 1: none but this one."""
    settings = {"version": VERSION, "side": picture_changes.SIDE, "tolerance": picture_changes.TOLERANCE}
    workers = workers or cores()
    with ColumnWork(output, shards, "measure", settings, part=part) as work:
        tasks = batched((at for at, _ in work.missing()), PAIRS_PER_TASK)
        rows = _here(shards, tasks) if workers == 1 else _in_processes(shards, tasks, workers)
        for at, columns in progress(rows, work.missing_count, "measured"):
            work.keep(at, columns)
        return work.merge()


def embed_pairs(
    shards: ShardReader,
    output: Path,
    model: Path,
    *,
    instructions: Path | None = None,
    captions: Path | None = None,
    batch_size: int = 16,
    part: Part | None = None,
    progress: Progress = no_progress,
) -> bool:
    """The columns of `embedding_columns`, as `measure_pairs`.

    instructions: a file of columns with `instruction`, of one sample, instead of the set's own; captions: one with
    `source_caption` and `target_caption`, for `directional`. Raises ValueError for another kind of model or file."""
    embedder = Embedder(model)
    texts, described = (_whole(path, shards) for path in (instructions, captions))
    settings = {"version": VERSION, "model": _digest(model)} | {
        name: None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in (("instructions", instructions), ("captions", captions))
    }
    with ColumnWork(output, shards, "embed", settings, part=part) as work:

        def rows() -> Iterator[tuple[int, dict[str, Any]]]:
            said, both = _Cursor(texts), _Cursor(described)
            for batch in batched((at for at, _ in work.missing()), batch_size):
                read = [(at, _decoded(shards, at)) for at in batch]
                sound = [(at, pictures) for at, pictures in read if not isinstance(pictures, str)]
                yield from ((at, {"reason": pictures}) for at, pictures in read if isinstance(pictures, str))
                if not sound:
                    continue
                lines = [(said.at(at), both.at(at)) for at, _ in sound]
                own = [
                    line.get("instruction") if texts else _own_text(shards, at)
                    for (at, _), (line, _) in zip(sound, lines, strict=True)
                ]
                pairs = [(line.get(_CAPTIONS[0]), line.get(_CAPTIONS[1])) for _, line in lines]
                columns = embedding_columns(
                    embedder, [p[0] for _, p in sound], [p[1] for _, p in sound], own,
                    [(a, b) if a and b else None for a, b in pairs],
                )  # fmt: skip
                yield from zip((at for at, _ in sound), columns, strict=True)

        for at, columns in progress(rows(), work.missing_count, "embedded"):
            work.keep(at, columns)
        return work.merge()


class _Cursor:
    """The first line of each pair, read in order; {} without a file."""

    def __init__(self, file: ColumnFile | None):
        self._lines = None if file is None else enumerate(file)

    def at(self, place: int) -> dict[str, Any]:
        if self._lines is not None:
            for at, rows in self._lines:
                if at == place:
                    return rows[0]
        return {}


def _whole(path: Path | None, shards: ShardReader) -> ColumnFile | None:
    if path is None:
        return None
    file = ColumnFile(path, shards)
    if file.samples != 1:
        raise ValueError(f"{path} has {file.samples} samples of each pair: give a file of one")
    return file


def _own_text(shards: ShardReader, at: int) -> str | None:
    pair = shards.pair(at)
    return pair.instruction or pair.chosen


def _decoded(shards: ShardReader, at: int) -> Any:
    """Both pictures, or why not."""
    try:
        return [decode_image(shards.picture(at, side), where=f"the {side}") for side in ("source", "target")]
    except ImageError as error:
        return str(error)


def _here(shards: ShardReader, tasks: Iterator[Sequence[int]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for task in tasks:
        yield from _measured(shards, task)


def _measured(shards: ShardReader, places: Sequence[int]) -> list[tuple[int, dict[str, Any]]]:
    rows: list[tuple[int, dict[str, Any]]] = []
    for at in places:
        try:
            rows.append(
                (at, picture_changes.measure_pictures(shards.picture(at, "source"), shards.picture(at, "target")))
            )
        except ImageError as error:
            rows.append((at, {"reason": str(error)}))
    return rows


def _in_processes(
    shards: ShardReader, tasks: Iterator[Sequence[int]], workers: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    with ProcessPool(workers, "measures pictures", start=_start, arguments=(shards,)) as pool:
        for _, rows in pool.in_order(_task, tasks):
            yield from rows


def _start(shards: ShardReader) -> None:
    import torch

    global _shards
    _shards = shards
    torch.set_num_threads(1)


def _task(places: Sequence[int]) -> list[tuple[int, dict[str, Any]]]:
    assert _shards is not None, "the worker was started with them"
    return _measured(_shards, places)


def _digest(folder: Path) -> str:
    """Of all that an embedding depends on."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with open(path, "rb") as file:
                digest.update(f"{path.name}:".encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
