"""Shards whose instructions are the captions of a file."""

import hashlib
from pathlib import Path

from editcaption_mega.curation.columns import ColumnFile, joined
from editcaption_mega.data.images.formats import extension
from editcaption_mega.data.shards.index import INDEX_NAME
from editcaption_mega.data.shards.reader import ShardReader, ShardWriter, open_shards
from editcaption_mega.progress import Progress


def write_captioned(reader: ShardReader, captions: Path, output: Path, progress: Progress) -> tuple[int, int]:
    """Write the pairs that have a caption, with their first one as `instruction` -> (pairs written, left out).

    provenance.caption says what made it: the settings of the file, its digest, the sample, the version that the server
    said it served, and the instruction that was there before. Raises ValueError for a file of other shards, and
    ShardError for a folder that is used."""
    file = ColumnFile(captions, reader)
    made_by = {**file.head["settings"], "file": _digest(captions)}
    written = 0
    with ShardWriter(output) as writer:
        for at, (rows,) in progress(joined(reader, [file]), len(reader), "shards"):
            row = next((row for row in rows if "instruction" in row), None)
            if row is None:
                continue
            sample = reader[at]
            about = made_by | {"served": row["served"], "status": row["status"], "sample": row.get("sample", 0)}
            if sample.pair.instruction is not None:
                about["replaces"] = sample.pair.instruction
            pair = sample.pair.model_copy(
                update={
                    "instruction": row["instruction"],
                    "provenance": {**sample.pair.provenance, "caption": about},
                }
            )
            source, target = sample.source_bytes, sample.target_bytes
            writer.add(pair, source, extension(source), target, extension(target))
            written += 1
        if not written:
            raise ValueError(f"{captions}: no pair has an instruction, so there are no shards to write")
    return written, len(reader) - written


def is_written(captions: Path, output: Path) -> bool:
    """Whether the folder holds what `write_captioned` made of this very file."""
    if not (output / INDEX_NAME).is_file():
        return False
    with open_shards(output) as made:
        about = made.pair(0).provenance.get("caption")
    return isinstance(about, dict) and about.get("file") == _digest(captions)


def _digest(path: Path) -> str:
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
