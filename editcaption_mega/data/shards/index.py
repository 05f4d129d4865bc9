"""The index of a folder of shards: `index.json` says which tars there are, and an array file beside it which samples
they hold, so that it is opened in no time and shared by all processes of a machine."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editcaption_mega.data.array_file import is_made_from, map_arrays, write_blocks
from editcaption_mega.files import parse_json, plain_file, replacing
from editcaption_mega.records import shown

from . import index_json
from .index_columns import ColumnsBuilder, IndexColumns
from .layout import HOW_TO_MAKE, ShardError, ShardFile
from .text_arrays import repeated

INDEX_NAME = "index.json"
INDEX_SCHEMA = 2
COLUMNS_GLOB = "index-*.safetensors"

_LARGEST_INDEX = 512 << 20  # bytes: nearly a million samples, as schema 1 has them


@dataclass(frozen=True)
class Index:
    """What the index of a folder says: the shards, the samples in their order, and the fingerprint of the content."""

    shards: list[ShardFile]
    samples: IndexColumns
    fingerprint: str


def write_index(directory: Path, shards: list[ShardFile], samples: IndexColumns | ColumnsBuilder) -> Index:
    """Write the index: what was there stays whole until all of the new one is on the disk. Raises OSError."""
    fingerprint = samples.fingerprint()
    key = columns_key(fingerprint, shards)
    name = f"index-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]}.safetensors"
    write_blocks(directory / name, key, samples.kinds(), samples.blocks)
    with replacing(directory / INDEX_NAME) as file:
        file.write(f'{{"schema": {INDEX_SCHEMA}, "fingerprint": "{fingerprint}",\n')
        file.write(f'"samples": {len(samples)}, "columns": "{name}",\n"shards": [\n')
        file.write(",\n".join(json.dumps(index_json.fields(shard)) for shard in shards))
        file.write("\n]}\n")
    for path in directory.glob(COLUMNS_GLOB):
        if path.name != name:
            path.unlink(missing_ok=True)
    return Index(shards, IndexColumns(map_arrays(directory / name, key)), fingerprint)


def load_index(directory: str | os.PathLike[str], *, check: bool = True) -> Index:
    """Read the index of a folder, of this schema or the one before. Raises ShardError where it is missing, damaged or
    of another schema. check: whether each sample's entry is looked at, as some process of a job must."""
    directory = Path(directory)
    path, content = directory / INDEX_NAME, _content(directory)
    schema = content.get("schema")
    try:
        shards, fingerprint = index_json.shards_of(content), index_json.content_fingerprint(content)
        if schema == 1:
            columns = IndexColumns.of(index_json.samples_of(content, shards))
        else:
            columns = _mapped(directory, *index_json.columns_of(content), columns_key(fingerprint, shards), check)
        if problem := check and columns.problem(shards):
            raise ValueError(problem)
        if twice := schema == 1 and repeated(columns.ids):
            raise ValueError(f"sample {shown(columns.ids[twice[0]])} is listed twice")
    except ShardError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ShardError(f"{path}: damaged ({type(error).__name__}: {error}): {HOW_TO_MAKE}") from None
    if not len(columns):
        raise ShardError(f"{path}: the index lists no samples: {HOW_TO_MAKE}")
    return Index(shards, columns, fingerprint)


def columns_key(fingerprint: str, shards: Sequence[ShardFile]) -> dict[str, Any]:
    """What the file of the samples is made from."""
    digest = hashlib.sha256(json.dumps([index_json.fields(shard) for shard in shards]).encode())
    return {"format": 1, "fingerprint": fingerprint, "shards": digest.hexdigest()}


def size_problem(directory: Path, shard: ShardFile) -> str | None:
    """One sentence where the tar file is missing or of another size than the index says; None where it agrees."""
    path = directory / shard.name
    try:
        size = plain_file(path).stat().st_size
    except FileNotFoundError:
        return f"{path}: missing, though {INDEX_NAME} lists it: copy it again or make the folder anew"
    except OSError as error:
        return f"{path}: {error.strerror}: copy it again or make the folder anew"
    if size != shard.bytes:
        return (
            f"{path}: {size} bytes, {INDEX_NAME} says {shard.bytes}: the tar is truncated or was changed; copy it "
            "again or make the folder anew"
        )
    return None


def _content(directory: Path) -> dict[str, Any]:
    """The object in index.json, of a schema that is read. Raises ShardError."""
    path = directory / INDEX_NAME
    if not directory.is_dir():
        raise ShardError(f"{directory}: no such folder of shards")
    try:
        size = plain_file(path).stat().st_size
        if size > _LARGEST_INDEX:
            raise ShardError(
                f"{path}: {size} bytes, more than the {_LARGEST_INDEX} that an index may have: {HOW_TO_MAKE}"
            )
        content: dict[str, Any] = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise ShardError(f"{directory}: no {INDEX_NAME}: {HOW_TO_MAKE}") from None
    except ShardError:
        raise
    except ValueError as error:
        reason = str(error) if str(error).startswith("not valid JSON") else f"not valid JSON ({error})"
        raise ShardError(f"{path}: {reason}: {HOW_TO_MAKE}") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or not 1 <= schema <= INDEX_SCHEMA:
        raise ShardError(
            f"{path}: index schema is {shown(schema)}, this version reads 1 and {INDEX_SCHEMA}: run "
            "editcaption validate-shards --rebuild-index on the folder"
        )
    return content


def _mapped(directory: Path, name: str, count: int, key: dict[str, Any], check: bool) -> IndexColumns:
    """The samples that are in a file. Raises ShardError, KeyError, ValueError."""
    path = directory / name
    if not path.is_file():
        raise ShardError(f"{path}: missing, though {INDEX_NAME} names it: copy it too, or {HOW_TO_MAKE}")
    if check and not is_made_from(path, key):
        raise ShardError(f"{path}: damaged, or of another {INDEX_NAME} than the one beside it: {HOW_TO_MAKE}")
    columns = IndexColumns(map_arrays(path, key))
    if len(columns) != count:
        raise ValueError(f"{name} holds {len(columns)} samples, expected {count}")
    return columns
