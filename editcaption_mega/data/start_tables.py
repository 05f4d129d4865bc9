"""What a job finds out about its data at its first start, as arrays of its folder that later starts map.

Ranks share the finding out, and no rank holds what it does not look at: a start costs each rank about the same for a
thousand samples as for millions.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from editcaption_mega import platform
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.data.shards.shard_columns import MappedFrom, ShardColumns

from .array_file import is_made_from, map_arrays, write_arrays

TABLES = "tables"  # the folder, in that of the run
HELD_OUT_TABLES = "held_out"  # the same of its held-out pairs, in that

Arrays = dict[str, np.ndarray]


def table(
    path: Path | None, key: Mapping[str, Any], make: Callable[[], Arrays], *, shared: Path | None = None
) -> Arrays:
    """The arrays that the file has of `key`, else those that `make` returns alike on all ranks, which it has from then
    on. Collective, as `make` may be. path: None where there is no folder for it. shared: a file of the same for all
    jobs, taken where it is there, and made where its folder can be written. Raises OSError."""
    file = path
    if file is None or not platform.from_rank_zero(lambda: is_made_from(file, key)):
        arrays = _shared(shared, key, make)
        if file is None:
            return arrays
        with platform.together():
            if platform.is_rank_zero():
                write_arrays(file, key, arrays)
        del arrays
    with platform.together():
        return map_arrays(file, key)


def _shared(file: Path | None, key: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
    if file is None:
        return make()
    if not platform.from_rank_zero(lambda: is_made_from(file, key)):
        arrays = make()
        if platform.is_rank_zero():
            with suppress(OSError):  # a folder that nobody may write: each job makes its own
                write_arrays(file, key, arrays, alone=False)
        return arrays
    with platform.together():
        return map_arrays(file, key)


class SamplesOfFolders(Protocol):
    """Which samples of some folders a job has (`batching.job_samples`)."""

    @property
    def directories(self) -> list[Path]: ...

    def update(self) -> None:
        """Have on this machine what the others need of folders elsewhere. Raises ShardError."""
        ...

    def key(self) -> dict[str, Any]:
        """What `read` depends on, in a form for JSON. Raises OSError for a folder without an index."""
        ...

    def read(self) -> ShardColumns: ...


class JobShards:
    """The samples of a job, mapped by all ranks. One folder is mapped from its own index, which one rank has checked;
    a choice of several is made by one rank at the first start, and kept as a table. Collective.

    Raises ShardError and SettingsError, alike on every rank, as `samples.read`."""

    def __init__(self, samples: SamplesOfFolders, tables: Path):
        with platform.together():
            samples.update()
        self._samples, self._directories, self._path = samples, samples.directories, tables / "index.safetensors"
        self._key, source, arrays = platform.from_rank_zero(self._look)
        if source is not None:
            with platform.together():
                columns = source.columns(self._directories)
        else:
            columns = ShardColumns.from_arrays(self._directories, arrays)
        self.reader = ShardReader(self._directories, columns)

    def keep(self) -> None:
        """Keep what was found out for later starts, in the folder that is the job's by now. Collective."""
        if self.reader.columns.source is None:
            arrays = table(self._path, self._key, self.reader.columns.to_arrays)
            kept = MappedFrom(self._key, self._path)
            self.reader.use(ShardColumns.from_arrays(self._directories, arrays, kept))

    def _look(self) -> tuple[dict[str, Any], MappedFrom | None, Arrays]:
        """Rank 0: the key, what the columns can be mapped from, and otherwise their arrays."""
        try:
            key = self._samples.key()
        except OSError:  # reading says why
            key = {}
        if key and is_made_from(self._path, key):
            kept = MappedFrom(key, self._path)
            kept.columns(self._directories).check_files()
            return key, kept, {}
        columns = self._samples.read()
        return key, columns.source, {} if columns.source else columns.to_arrays()
