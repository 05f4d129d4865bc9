"""The forms: each takes pairs one by one and writes them into a folder.

    jsonl              pairs.jsonl and pictures/; `make_shards --format jsonl` reads it back
    parquet            data/train-00000.parquet in the picture form of Hugging Face `datasets`, under the column names
                       that diffusers' instruct-pix2pix trainer reads (input_image, edit_prompt, edited_image), with
                       the whole record beside them; `make_shards --format exported` reads it back
    webdataset         shards, as everywhere in this project; plain `webdataset` reads them too
    instruct-pix2pix   seeds.json and a folder per pair with prompt.json, SEED_0.jpg and SEED_1.jpg (Brooks et al. 2023)

Pictures keep their bytes; only instruct-pix2pix, whose names end in .jpg, has others as JPEG, and says how many.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from editcaption_mega.data.images.decode import decode_image
from editcaption_mega.data.images.formats import extension
from editcaption_mega.data.shards.reader import ShardSample
from editcaption_mega.data.shards.writer import ShardWriter

JPEG_QUALITY = 95
_PAIRS_PER_FOLDER = 1000  # more files make folders slow on network file systems
_ROWS_PER_GROUP = 64  # pictures in memory
_BYTES_PER_FILE = 500 << 20


class ExportForm(Protocol):
    """Where pairs go, one at a time."""

    def add(self, sample: ShardSample, text: str | None) -> None:
        """text: what is to be trained on, the instruction or the chosen answer."""
        ...

    def close(self) -> None: ...

    @property
    def remarks(self) -> list[str]:
        """What was done to pairs, in sentences, for the card."""
        ...


class JsonlForm:
    remarks: list[str] = []

    def __init__(self, folder: Path):
        self._folder, self._count = folder, 0
        self._lines = open(folder / "pairs.jsonl", "w", encoding="utf-8")  # noqa: SIM115 (closed by close)

    def add(self, sample: ShardSample, text: str | None) -> None:
        part = f"pictures/{self._count // _PAIRS_PER_FOLDER:06d}"
        (self._folder / part).mkdir(parents=True, exist_ok=True)
        row = sample.pair.to_json()
        for side, data in (("source", sample.source_bytes), ("target", sample.target_bytes)):
            row[side] = f"{part}/{sample.pair.id}.{side}.{extension(data)}"
            (self._folder / row[side]).write_bytes(data)
        self._lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._count += 1

    def close(self) -> None:
        self._lines.close()


class ParquetForm:
    remarks: list[str] = []

    def __init__(self, folder: Path):
        import pyarrow

        self._folder = folder / "data"
        self._folder.mkdir()
        picture = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        types = {name: picture if name.endswith("_image") else pyarrow.string() for name in PARQUET_COLUMNS}
        described = {name: {"_type": "Image"} if name.endswith("_image") else _TEXT for name in PARQUET_COLUMNS}
        metadata = {"huggingface": json.dumps({"info": {"features": described}})}
        self._schema = pyarrow.schema(list(types.items()), metadata=metadata)
        self._rows: list[dict[str, Any]] = []
        self._files = self._bytes = 0
        self._writer: Any = None

    def add(self, sample: ShardSample, text: str | None) -> None:
        pair = sample.pair
        row: dict[str, Any] = {"id": pair.id, "edit_prompt": text, "category": pair.category}
        row |= {"edit_type": pair.edit_type, "record": json.dumps(pair.to_json(), ensure_ascii=False)}
        for name, data in (("input_image", sample.source_bytes), ("edited_image", sample.target_bytes)):
            row[name] = {"bytes": data, "path": f"{pair.id}.{name}.{extension(data)}"}
            self._bytes += len(data)
        self._rows.append(row)
        if len(self._rows) == _ROWS_PER_GROUP:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow
        from pyarrow import parquet

        if self._writer is None:
            self._writer = parquet.ParquetWriter(self._folder / f"train-{self._files:05d}.parquet", self._schema)
            self._files += 1
        self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []
        if self._bytes >= _BYTES_PER_FILE:
            self._end_file()

    def _end_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._bytes = None, 0

    def close(self) -> None:
        if self._rows:
            self._write_group()
        self._end_file()


_TEXT = {"dtype": "string", "_type": "Value"}
PARQUET_COLUMNS = ("id", "input_image", "edit_prompt", "edited_image", "category", "edit_type", "record")


class WebDatasetForm:
    remarks: list[str] = []

    def __init__(self, folder: Path):
        self._writer = ShardWriter(folder)

    def add(self, sample: ShardSample, text: str | None) -> None:
        source, target = sample.source_bytes, sample.target_bytes
        self._writer.add(sample.pair, source, extension(source), target, extension(target))

    def close(self) -> None:
        self._writer.close()


class InstructPix2PixForm:
    def __init__(self, folder: Path):
        self._folder, self._seeds, self._encoded = folder, list[tuple[str, list[str]]](), 0

    def add(self, sample: ShardSample, text: str | None) -> None:
        if text is None:
            raise ValueError(
                f"pair {sample.pair.id} has no instruction, which this form is about: filter such pairs out, or use "
                "another form"
            )
        name = f"{len(self._seeds) // _PAIRS_PER_FOLDER:06d}/{sample.pair.id}"
        folder, seed = self._folder / name, "0"
        folder.mkdir(parents=True)
        captions = sample.pair.provenance
        prompt = {"edit": text, "input": _text(captions, "input"), "output": _text(captions, "output")}
        (folder / "prompt.json").write_text(json.dumps(prompt, ensure_ascii=False), encoding="utf-8")
        (folder / "record.json").write_text(json.dumps(sample.pair.to_json(), ensure_ascii=False), encoding="utf-8")
        for number, data in enumerate((sample.source_bytes, sample.target_bytes)):
            (folder / f"{seed}_{number}.jpg").write_bytes(self._jpeg(data))
        self._seeds.append((name, [seed]))

    def _jpeg(self, data: bytes) -> bytes:
        if extension(data) == "jpg":
            return data
        self._encoded += 1
        out = io.BytesIO()
        decode_image(data).save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        return out.getvalue()

    def close(self) -> None:
        (self._folder / "seeds.json").write_text(json.dumps(self._seeds), encoding="utf-8")

    @property
    def remarks(self) -> list[str]:
        if not self._encoded:
            return []
        return [f"{self._encoded:,} pictures were encoded as JPEG (quality {JPEG_QUALITY}), which this form asks for"]


def _text(values: dict[str, Any], name: str) -> str:
    """Captions of the two pictures, where the set has some."""
    value = values.get(name)
    return value if isinstance(value, str) else ""


FORMS: dict[str, Callable[[Path], ExportForm]] = {
    "jsonl": JsonlForm,
    "parquet": ParquetForm,
    "webdataset": WebDatasetForm,
    "instruct-pix2pix": InstructPix2PixForm,
}
