"""The metadata by which Megatron-Energon reads a folder of shards as a crude WebDataset: `.nv-meta/` and the indexes
of the tars, in the form that `energon prepare` of version 7 writes (its flavors/webdataset/prepare.py and indexing.py).

The tars stay as they are. A sample's parts are called as the members after the first dot: `src.jpg`, `tgt.png`, `json`.
"""

import json
import sqlite3
import struct
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import yaml

from editcaption_mega.files import PARTIAL, naming, rename_whole, write_atomically

from .index import load_index
from .layout import ShardError

META = ".nv-meta"
_VERSION = "7.4.1"  # whose layout this is
_TABLES = """
CREATE TABLE samples (tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE, sample_index INTEGER NOT NULL,
    byte_offset INTEGER, byte_size INTEGER);
CREATE TABLE sample_parts (tar_file_id INTEGER, sample_index INTEGER, part_name TEXT, content_byte_offset INTEGER,
    content_byte_size INTEGER);
"""
_INDEXES = """
CREATE INDEX idx_samples_by_tar_and_idx ON samples(tar_file_id, sample_index);
CREATE INDEX idx_sample_parts_seq ON sample_parts(tar_file_id, sample_index, content_byte_offset);
CREATE INDEX idx_sample_parts_full ON sample_parts(tar_file_id, sample_index, part_name, content_byte_offset,
    content_byte_size);
"""


class _Sample(NamedTuple):
    """One of a tar: where its first header begins, and (name, offset, bytes) of its parts."""

    key: str
    offset: int
    parts: list[tuple[str, int, int]]


def write_energon(directory: Path) -> list[Path]:
    """Write the metadata of a folder whose tars are as its index says -> what was written. All samples are of the split
    `train`. Raises ShardError for a tar whose samples do not each stand in one piece, OSError."""
    index = load_index(directory)
    meta = directory / META
    meta.mkdir(exist_ok=True)
    names = [shard.name for shard in index.shards]
    database, written = meta / f"index.sqlite{PARTIAL}", []
    database.unlink(missing_ok=True)
    with closing(sqlite3.connect(database)) as tables:
        tables.executescript(_TABLES)
        for number, name in enumerate(names):
            written.append(_index_tar(directory / name, number, tables))
        tables.executescript(_INDEXES)
        tables.commit()
    rename_whole(database, meta / "index.sqlite")
    counts = {shard.name: shard.samples for shard in index.shards}
    files = {
        # Equal content has an equal id: what Energon has remembered of it stays true.
        "index.uuid": str(uuid.uuid5(uuid.NAMESPACE_OID, index.fingerprint)),
        ".info.json": json.dumps({"energon_version": _VERSION, "shard_counts": counts}, indent=2),
        "split.yaml": yaml.safe_dump(
            {"split_parts": {"train": names, "val": [], "test": []}, "exclude": []}, sort_keys=False
        ),
        "dataset.yaml": yaml.safe_dump(
            {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}, sort_keys=False
        ),
    }
    for name, text in files.items():
        write_atomically(meta / name, text)
    return [*written, meta / "index.sqlite", *(meta / name for name in files)]


def _index_tar(path: Path, number: int, tables: sqlite3.Connection) -> Path:
    """Add the samples of a tar to the tables, and write where each begins beside it: NAME.tar.idx, 8 bytes each, and
    the end of the last."""
    index = path.with_suffix(".tar.idx")
    partial = index.with_name(index.name + PARTIAL)
    with naming(partial), open(partial, "wb") as file:
        samples = list(_samples(path))
        ends = [sample.offset for sample in samples[1:]]
        ends.append(_end(path))
        for place, (sample, end) in enumerate(zip(samples, ends, strict=True)):
            row = (number, sample.key, place, sample.offset, end - sample.offset)
            try:
                tables.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", row)
            except sqlite3.IntegrityError:
                raise ShardError(
                    f"{path}: sample {sample.key!r} does not stand in one piece, as Energon needs it: unpack the tar "
                    "and pack it in the order of its names"
                ) from None
            parts = [(number, place, *part) for part in sample.parts]
            tables.executemany("INSERT INTO sample_parts VALUES (?, ?, ?, ?, ?)", parts)
            file.write(struct.pack("<Q", sample.offset))
        file.write(struct.pack("<Q", ends[-1]))
    rename_whole(partial, index)
    return index


def _samples(path: Path) -> Iterator[_Sample]:
    sample: _Sample | None = None
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if not member.isreg():
                continue
            folder, _, name = member.name.rpartition("/")
            key, _, part = name.partition(".")
            key = f"{folder}/{key}" if folder else key
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = _Sample(key, member.offset, [])
            sample.parts.append((part, member.offset_data, member.size))
    if sample is not None:
        yield sample


def _end(path: Path) -> int:
    """Where the last member ends, and its padding."""
    with tarfile.open(path, "r:") as tar:
        tar.getmembers()
        return tar.offset
