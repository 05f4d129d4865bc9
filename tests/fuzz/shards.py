"""Tars, index.json and records, and what an import reads: JSONL and parquet."""

import io
import json
import os
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pyarrow
import pyarrow.parquet

from editcaption_mega.data.array_file import write_arrays
from editcaption_mega.data.importers import FORMATS, ImportOptions
from editcaption_mega.data.importers.ingest import ingest
from editcaption_mega.data.shards.index import columns_key, load_index
from editcaption_mega.data.shards.reader import ShardWriter, open_shards, rebuild_index, verify
from editcaption_mega.files import parse_json
from editcaption_mega.records import EditPair
from tests.helpers.image_bytes import encoded, photo
from tests.helpers.old_index import write_old_index

from .driver import Attempt, Reader
from .mutate import mutated, mutated_json
from .pictures import pictures

RECORD = {
    "schema": 1, "id": "a", "category": "semantic", "edit_type": "add", "instruction": "Add a hat.",
    "chosen": "Add a hat.", "rejected": "Remove it.", "failure_modes": ["detail"], "severity": 0.5,
    "provenance": {"row": 7},
    "changes": {"primary": [{"id": "p1", "text": "a hat", "facts": {"action": "add"}}], "overall": "a hat"},
}  # fmt: skip


def _pair(identity: str) -> EditPair:
    return EditPair(id=identity, category="semantic", edit_type="add", instruction=f"Add {identity}.")


@cache
def _members() -> list[tuple[str, bytes]]:
    rows = []
    for number, name in enumerate(("a", "b")):
        record = json.dumps(_pair(name).to_json()).encode()
        rows += [(f"{name}.src.png", encoded(photo(8, 6 + number))), (f"{name}.tgt.jpg", encoded(photo(9, 7), "JPEG"))]
        rows += [(f"{name}.json", record)]
    return rows


@cache
def _tar(form: int, members: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content in _members()[:members]:
            info = tarfile.TarInfo(name if form != tarfile.GNU_FORMAT else name.replace("a", "a" * 120, 1))
            info.size, info.mtime = len(content), 1.5 if form == tarfile.PAX_FORMAT else 0
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _header(name: bytes, size: int, kind: bytes) -> bytes:
    block = bytearray(512)
    block[: len(name)], block[100:108], block[156:157], block[257:265] = name, b"0000644\0", kind, b"ustar  \0"
    block[124:136] = b"%011o\0" % size if 0 <= size < 8**11 else (size % 256**12 | 1 << 95).to_bytes(12, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _with_checksums(data: bytes) -> bytes:
    """Header blocks whose checksums agree again, so that damage is not noticed there."""
    data = bytearray(data)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


def _read_folder(folder: Path, attempt: Attempt) -> None:
    if reader := attempt(open_shards, folder):
        with reader:
            for i in range(len(reader)):
                attempt(reader.__getitem__, i)
        attempt(lambda: [list(checked) for checked in verify(folder)])


def _tars(random: Random, folder: Path, attempt: Attempt) -> None:
    path = folder / "x.tar"
    sizes = (0, 5, 511, 1 << 16, (1 << 16) + 1, 6 << 30, 1 << 33, 1 << 60, -1, -512, -(1 << 60))
    if random.random() < 0.2:
        kinds = (b"0", b"\0", b"1", b"2", b"3", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S", b"X", b"\xff")
        names = (b"a.src.png", b"a.json", b"././@LongLink", b"x", b"../../a.src.png", b"/a.json", b"\xff\xfe", b"")
        headers = [
            _header(random.choice(names), random.choice(sizes), random.choice(kinds))
            + random.choice(
                (b"", b"11 size=-1\n".ljust(512, b"\0"), b"19 GNU.sparse.size=9\n".ljust(512, b"\0"), bytes(512))
            )
            for _ in range(random.choice((1, 2, 5, 3000)))
        ]
        path.write_bytes(b"".join(headers))
        os.truncate(path, max(path.stat().st_size, random.choice((0, 2048, 1 << 20, 7 << 30))))
    else:
        form = random.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
        whole = _tar(form, random.choice((3, 6, 6, 5)))
        data = mutated(random, whole, whole)
        path.write_bytes(_with_checksums(data) if random.random() < 0.7 else data)
    attempt(rebuild_index, folder)
    _read_folder(folder, attempt)


@cache
def _set() -> tuple[dict[str, bytes], dict, dict, dict[str, np.ndarray], dict]:
    """The files of a whole set; its index.json, as it is and as earlier versions wrote it; the arrays beside it with
    what they are made from."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "s"
        with ShardWriter(folder) as writer:
            for number, key in enumerate(("a", "b")):
                images = encoded(photo(8, 6 + number)), "png", encoded(photo(9, 7), "JPEG"), "jpg"
                writer.add(_pair(key), *images)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        loaded = load_index(folder)
        arrays = {name: np.array(values) for name, values in loaded.samples.arrays.items()}
        key = columns_key(loaded.fingerprint, loaded.shards)
        old = json.loads((write_old_index(folder) / "index.json").read_bytes())
        return files, json.loads(files["index.json"]), old, arrays, key


def _index(random: Random, folder: Path, attempt: Attempt) -> None:
    files, index, old, arrays, key = _set()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    columns = folder / index["columns"]
    which = random.choice(("old", "json", "bytes", "arrays", "arrays"))
    if which == "old":
        (folder / "index.json").write_bytes(mutated_json(random, old))
    elif which == "json":
        (folder / "index.json").write_bytes(mutated_json(random, index))
    elif which == "bytes":
        columns.write_bytes(mutated(random, files[columns.name], files[columns.name]))
    else:  # with a checksum that is right
        write_arrays(columns, key, {name: _changed(random, values) for name, values in arrays.items()})
    _read_folder(folder, attempt)


def _changed(random: Random, values: np.ndarray) -> np.ndarray:
    values = values.copy()
    if random.random() < 0.8:
        return values
    if random.random() < 0.2:
        dtype = random.choice((np.uint8, np.int32, np.int64, np.float32))
        return random.choice((values[:-1], values[..., :1], values.astype(dtype), values.reshape(-1), values[:0]))
    limits = np.iinfo(values.dtype)
    flat = values.reshape(-1)
    flat[random.randrange(len(flat))] = random.choice((0, 1, 255, limits.min, limits.max, limits.max // 2))
    return values


# ---- records and imports ---------------------------------------------------------------------------------------------


def _records(random: Random, folder: Path, attempt: Attempt) -> None:
    row = attempt(parse_json, mutated_json(random, RECORD))
    if pair := attempt(EditPair.from_json, row, where="row 1"):
        content = json.dumps(pair.to_json(), ensure_ascii=False, allow_nan=False).encode()
        assert EditPair.from_json(parse_json(content)).to_json() == pair.to_json()


def _import(kind: str, path: Path, folder: Path, attempt: Attempt) -> None:
    options = ImportOptions(
        category=None if kind == "jsonl" else "semantic",
        turns="both" if FORMATS[kind].takes_turns else None,
        columns={"source": "before", "target": "after[0]", "instruction": "json.en|text"} if kind == "table" else None,
    )
    attempt(FORMATS[kind].count, str(path), options)
    output = folder / "out"
    if attempt(lambda: ingest(FORMATS[kind].read(str(path), options), output)):
        _read_folder(output, attempt)
    for name in ("rejected.jsonl", "warnings.jsonl"):
        if (output / name).exists():
            for line in (output / name).read_bytes().splitlines():
                json.loads(line)


def _jsonl(random: Random, folder: Path, attempt: Attempt) -> None:
    source = pictures()
    (folder / "a.png").write_bytes(random.choice(source))
    (folder / "b.png").write_bytes(mutated(random, random.choice(source), random.choice(source)))
    (folder / "c.png").write_bytes(encoded(photo(20, 20)))
    lines = []
    for number in range(random.choice((1, 2, 5))):
        row = RECORD | {"id": f"r{number}", "source": "a.png", "target": random.choice(("b.png", "c.png", "a.png"))}
        lines.append(mutated_json(random, row) if random.random() < 0.8 else json.dumps(row).encode())
    data = random.choice((b"\n", b"\r\n", b"\n\n", b"")).join(lines)
    (folder / "x.jsonl").write_bytes(mutated(random, data, data) if random.random() < 0.2 else data)
    _import("jsonl", folder / "x.jsonl", folder, attempt)


@cache
def _parquet_files() -> list[bytes]:
    made = []
    cell = {"bytes": encoded(photo(20, 20)), "path": "a.png"}
    other = {"bytes": encoded(photo(20, 21)), "path": None}
    row = {"img_id": "12", "turn_index": 1, "source_img": cell, "target_img": other, "instruction": "Make it blue."}
    rows = [row | {"instruction": f"Make it {n}.", "turn_index": n if n % 3 else None} for n in range(7)]
    for compression in ("none", "snappy", "zstd", "gzip", "brotli", "lz4"):
        for dictionary in (True, False):
            out = io.BytesIO()
            options = {"row_group_size": 3, "use_dictionary": dictionary, "write_page_checksum": compression == "zstd"}
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out, compression=compression, **options)
            made.append(out.getvalue())
    return made


def _parquet(random: Random, folder: Path, attempt: Attempt) -> None:
    files = _parquet_files()
    data = bytearray(random.choice(files))
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    if random.random() < 0.5:  # the pages; the rest stays readable
        data[:footer] = mutated(random, bytes(data[:footer]))[:footer].ljust(footer, b"\0")
    elif random.random() < 0.5:  # the thrift of the footer
        data[footer:-8] = mutated(random, bytes(data[footer:-8]))[: len(data) - 8 - footer].ljust(
            len(data) - 8 - footer, b"\0"
        )
    else:
        data = mutated(random, bytes(data), random.choice(files))
    (folder / "x.parquet").write_bytes(data)
    _import("magicbrush", folder / "x.parquet", folder, attempt)


def _tables(random: Random, folder: Path, attempt: Attempt) -> None:
    """Tables of the other kinds, with paths or with the pictures inside."""
    picture, other = random.choice(pictures()), random.choice(pictures())
    (folder / "a.png").write_bytes(picture)
    row = {
        "before": "a.png",
        "after": ["a.png"],
        "text": "Add a hat, left.",
        "json": {"en": ["", "Make it blue."], "n": 3},
    }
    kind = random.choice(("csv", "tsv", "json", "jsonl", "arrow", "tar"))
    out = io.BytesIO()
    if kind == "arrow":
        cells = row | {"before": {"bytes": picture, "path": None}, "after": [{"bytes": other, "path": "x"}]}
        table = pyarrow.Table.from_pylist([cells, cells])
        with pyarrow.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    elif kind == "tar":
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, data in (("0.before", picture), ("0.after[0]", other), ("0.json", b'{"en": "Add a hat."}')):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    elif kind in ("csv", "tsv"):
        comma = "," if kind == "csv" else "\t"
        out.write(f'before{comma}after[0]{comma}text\na.png{comma}a.png{comma}"Add, a hat."\n'.encode() * 3)
    else:
        lines = [json.dumps(row), json.dumps(row | {"before": 7})]
        out.write(("\n".join(lines) if kind == "jsonl" else f'{{"data": [{",".join(lines)}]}}').encode())
    data = mutated(random, out.getvalue(), out.getvalue())
    (folder / f"x.{kind}").write_bytes(_with_checksums(data) if kind == "tar" and random.random() < 0.7 else data)
    _import("table", folder / f"x.{kind}", folder, attempt)


def _folders(random: Random, folder: Path, attempt: Attempt) -> None:
    """Sets that are folders with a list of their own: InstructPix2Pix's seeds, and what `datasets` saves."""
    picture, other = random.choice(pictures()), random.choice(pictures())
    (folder / "set/a").mkdir(parents=True)
    (folder / "set/a/1_0.jpg").write_bytes(picture)
    (folder / "set/a/1_1.jpg").write_bytes(other)
    files = {
        "set/a/prompt.json": {"edit": "Make it blue.", "input": "a cup", "output": "a blue cup"},
        "set/seeds.json": [["a", ["1", 1]], ["b", [2]]],
    }
    if random.random() < 0.5:
        files = {"set/state.json": {"_data_files": [{"filename": "x.arrow"}], "_split": "train"}}
        files |= {"set/dataset_dict.json": {"splits": ["."]}} if random.random() < 0.3 else {}
        out, row = io.BytesIO(), {"original_image": {"bytes": picture, "path": None}, "edit_prompt": "Make it blue."}
        table = pyarrow.Table.from_pylist([row | {"edited_image": {"bytes": other, "path": None}}])
        with pyarrow.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
        (folder / "set/x.arrow").write_bytes(out.getvalue())
    damaged = random.choice(list(files))
    for name, content in files.items():
        data = json.dumps(content).encode()
        (folder / name).write_bytes(mutated_json(random, content) if name == damaged else data)
    _import("instructpix2pix", folder / "set", folder, attempt)


def _sessions(random: Random, folder: Path, attempt: Attempt) -> None:
    """Rows of several turns."""
    for name, data in zip("abc", random.choices(pictures(), k=3), strict=True):
        (folder / f"{name}.png").write_bytes(data)
    files = [{"id": "edit_turn1", "url": "b.png"}, {"id": "final_image", "url": "c.png"}]
    row = {"local_input_image": "a.png", "files": files, "metadata_edit_turn_prompts": ["Make it blue.", "把它变红"]}
    (folder / "x.jsonl").write_bytes(mutated_json(random, row) + b"\n" + json.dumps(row).encode())
    _import("pico-banana-multi-turn", folder / "x.jsonl", folder, attempt)


SHARD_READERS = [
    Reader("tars", _tars, 3),
    Reader("index", _index, 2),
    Reader("records", _records, 2),
    Reader("jsonl", _jsonl, 2),
    Reader("parquet", _parquet, 2),
    Reader("tables", _tables, 2),
    Reader("set folders", _folders, 1),
    Reader("sessions", _sessions, 1),
]
