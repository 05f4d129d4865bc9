"""The samples of a job: which of its folders', under which ids, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from editcaption_mega.data.shards.shard_columns import ShardColumns, state_of
from editcaption_mega.settings import DataSettings, SettingsError

from .cut import Cut
from .mixed_order import MixedOrder
from .order import Order, SampleOrder


@dataclass(frozen=True)
class JobSamples:
    """What decides about them; a pure function of the folders' content and of these.

    id_prefixes: what stands before the ids of each folder; none: they are as they are. shares: of the folders in the
    stream, in whole numbers; none: the folders are one set. cut: those on one side of it; none: all. max_samples: the
    first so many of the order; 0: all."""

    folders: Sequence[str | Path]
    id_prefixes: Sequence[str] = ()
    shares: Sequence[int] = ()
    max_samples: int = 0
    seed: int = 0
    shuffle: bool = True
    cut: Cut | None = None

    @classmethod
    def of(cls, data: DataSettings, seed: int) -> "JobSamples":
        """Those that are trained on."""
        cut = Cut(data.held_out_share, data.held_out_seed, held_out=False) if data.held_out_share else None
        return cls(data.shards, data.id_prefixes, data.shares, data.max_samples, seed, data.shuffle, cut)

    @classmethod
    def held_out(cls, data: DataSettings) -> "JobSamples | None":
        """Those that are held out, if any."""
        if data.held_out:
            return cls(data.held_out)
        cut = Cut(data.held_out_share, data.held_out_seed, held_out=True)
        return cls(data.shards, data.id_prefixes, cut=cut) if data.held_out_share else None

    @property
    def directories(self) -> list[Path]:
        return list(map(Path, self.folders))

    def key(self) -> dict[str, Any]:
        """What `read` depends on, in a form for JSON. Raises OSError for a folder without an index."""
        key: dict[str, Any] = {"format": 2, "folders": state_of(self.directories)}
        if any(self.id_prefixes):
            key["id_prefixes"] = list(self.id_prefixes)
        if self.cut is not None:
            key["cut"] = self.cut.key()
        if self.max_samples:
            key["first"] = [self.max_samples, list(self.shares), self.seed, self.shuffle]
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
            return SampleOrder(len(columns.ids), self.seed, shuffle=self.shuffle)
        for folder, size in zip(self.folders, columns.sizes, strict=True):
            if not size:  # a folder has some
                raise SettingsError(
                    f"data.shards: {folder} has no sample {self._missing}, or leave the folder and its weight out"
                )
        return MixedOrder(columns.sizes, self.shares, self.seed, shuffle=self.shuffle)

    @property
    def _missing(self) -> str:
        if self.max_samples:
            return f"among the first data.max_samples={self.max_samples}: raise that"
        return f"but those of data.held_out_share={self.cut.share if self.cut else 0}: lower that"
