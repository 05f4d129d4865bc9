"""The samples of a job: which of its folders', under which ids, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from editcaption_mega.data.shards.mirrors import ShardCache
from editcaption_mega.data.shards.shard_columns import ShardColumns, state_of
from editcaption_mega.settings import DataSettings, SettingsError

from .block_order import order_of
from .cut import Cut
from .mixed_order import MixedOrder
from .order import Order


@dataclass(frozen=True)
class JobSamples:
    """What decides about them; a pure function of the folders' content and of these.

    id_prefixes: what stands before the ids of each folder; none: they are as they are. shares: of the folders in the
    stream, in whole numbers; none: the folders are one set. cut: those on one side of it; none: all. max_samples: the
    first so many of the order; 0: all. shuffle_block: as `order_of` takes it. cache: for folders at an address."""

    folders: Sequence[str | Path]
    id_prefixes: Sequence[str] = ()
    shares: Sequence[int] = ()
    max_samples: int = 0
    seed: int = 0
    shuffle: bool = True
    shuffle_block: int = 0
    cut: Cut | None = None
    cache: ShardCache = field(default_factory=ShardCache.default)

    @classmethod
    def of(cls, data: DataSettings, seed: int) -> "JobSamples":
        """Those that are trained on."""
        cut = Cut(data.held_out_share, data.held_out_seed, held_out=False) if data.held_out_share else None
        return cls(
            data.shards, data.id_prefixes, data.shares, data.max_samples, seed, data.shuffle, data.shuffle_block, cut,
            cache=_cache_of(data),
        )  # fmt: skip

    @classmethod
    def held_out(cls, data: DataSettings) -> "JobSamples | None":
        """Those that are held out, if any."""
        if data.held_out:
            return cls(data.held_out, cache=_cache_of(data))
        cut = Cut(data.held_out_share, data.held_out_seed, held_out=True)
        return cls(data.shards, data.id_prefixes, cut=cut, cache=_cache_of(data)) if data.held_out_share else None

    @property
    def directories(self) -> list[Path]:
        return list(map(self.cache.local, self.folders))

    def update(self) -> None:
        """Have the indices of folders at an address on this machine. Raises ShardError."""
        for folder in self.folders:
            self.cache.update(folder)

    def key(self) -> dict[str, Any]:
        """What `read` depends on, in a form for JSON. Raises OSError for a folder without an index."""
        key: dict[str, Any] = {"format": 2, "folders": state_of(self.directories)}
        if any(self.id_prefixes):
            key["id_prefixes"] = list(self.id_prefixes)
        if self.cut is not None:
            key["cut"] = self.cut.key()
        if self.max_samples:
            key["first"] = [self.max_samples, list(self.shares), self.seed, self.shuffle]
            if self.shuffle_block:
                key["first"].append(self.shuffle_block)
        return key

    def read(self) -> ShardColumns:
        """Raises ShardError as `open_shards`, and SettingsError where a cut leaves nothing to train on."""
        columns = ShardColumns.read(self.directories, self.id_prefixes)
        if self.cut is not None:
            columns = self.cut.of(columns)
        if not self.max_samples or (self.max_samples >= len(columns.ids) and not self.shares):
            return columns
        order = self.order(columns)
        rows = np.unique([order.at(position) for position in range(self.max_samples)])
        return columns.take(rows) if len(rows) < len(columns.ids) else columns

    def order(self, columns: ShardColumns) -> Order:
        """The endless stream of these samples. Raises SettingsError for a folder that has a share and no sample."""
        if not self.shares:
            return order_of(len(columns.ids), self.seed, shuffle=self.shuffle, block=self.shuffle_block)
        for folder, size in zip(self.folders, columns.sizes, strict=True):
            if not size:  # a folder has some
                raise SettingsError(
                    f"data.shards: {folder} has no sample {self._missing}, or leave the folder and its weight out"
                )
        return MixedOrder(columns.sizes, self.shares, self.seed, shuffle=self.shuffle, block=self.shuffle_block)

    @property
    def _missing(self) -> str:
        if self.max_samples:
            return f"among the first data.max_samples={self.max_samples}: raise that"
        return f"but those of data.held_out_share={self.cut.share if self.cut else 0}: lower that"


def _cache_of(data: DataSettings) -> ShardCache:
    default = ShardCache.default()
    return ShardCache(Path(data.cache) if data.cache else default.folder, round(data.cache_gib * 2**30))
