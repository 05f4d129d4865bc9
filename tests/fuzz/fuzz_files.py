"""Readers of files: pictures, tars, index, records, parquet, JSONL, checkpoints, model folders."""

import io
import json
import os
import struct
import tarfile
import zlib
from functools import cache
from pathlib import Path
from random import Random

import pyarrow
import pyarrow.parquet
import small_store
from fuzz_driver import Attempt, Reader
from fuzz_mutate import mutated, mutated_json
from image_bytes import encoded, photo
from PIL import Image

from editcaption_mega.conversion.store import StoreReader
from editcaption_mega.conversion.verify import verify_folder
from editcaption_mega.data.images import image_size, read_picture
from editcaption_mega.data.importers import FORMATS, ImportOptions
from editcaption_mega.data.ingest import ingest
from editcaption_mega.data.pair_checks import Look
from editcaption_mega.data.shards import ShardWriter, open_shards, rebuild_index, verify
from editcaption_mega.data.side_files import SideFiles, weight_index
from editcaption_mega.data.vision import ImageSettings
from editcaption_mega.files import parse_json
from editcaption_mega.model.architecture import Architecture
from editcaption_mega.records import EditPair
from editcaption_mega.training.resume import read_state

RECORD = {
    "schema": 1, "id": "a", "category": "semantic", "edit_type": "add", "instruction": "Add a hat.",
    "chosen": "Add a hat.", "rejected": "Remove it.", "failure_modes": ["detail"], "severity": 0.5,
    "provenance": {"row": 7},
    "changes": {"primary": [{"id": "p1", "text": "a hat", "facts": {"action": "add"}}], "overall": "a hat"},
}  # fmt: skip
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


# ---- pictures --------------------------------------------------------------------------------------------------------


@cache
def pictures() -> list[bytes]:
    """Small ones of every format, in the modes and with the extras that it has."""
    frames = {"save_all": True, "append_images": [photo(40, 30), photo(40, 30, "L")]}
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {
        "JPEG": [{}, {"progressive": True}, {"exif": exif}, {"quality": 30, "icc_profile": b"x" * 200}],
        "PNG": [{}, {"exif": exif}, {"icc_profile": b"x" * 200}, frames],
        "WEBP": [{}, {"lossless": True}, {"exif": exif}, frames],
        "GIF": [{}, frames],
        "BMP": [{}],
        "TIFF": [{}, frames, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {"compression": "jpeg"}],
    }
    modes = {
        "JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "L", "RGBA", "LA", "P", "1", "I;16"), "WEBP": ("RGB", "RGBA"),
        "GIF": ("P", "L"), "BMP": ("RGB", "P", "1"), "TIFF": ("RGB", "RGBA", "CMYK", "I;16", "F", "1", "YCbCr"),
    }  # fmt: skip
    made = []
    for kind in _FORMATS:
        for mode in modes[kind]:
            for extra in options[kind]:
                image = photo(40, 30).convert("I" if mode == "I;16" else mode)
                try:
                    made.append(encoded(image.convert(mode), kind, **extra))
                except (OSError, ValueError, KeyError):
                    continue  # this format has no such mode
    return made


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, depth: int, colour: int, extra: bytes = b"", packed: bytes | None = None) -> bytes:
    if packed is None:
        bits = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * depth
        packed = zlib.compress(bytes((1 + (width * bits + 7) // 8) * height), 9)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    palette = _chunk(b"PLTE", bytes(3)) if colour == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + palette
        + extra
        + _chunk(b"IDAT", packed)
        + _chunk(b"IEND", b"")
    )


@cache
def _zeros(megabytes: int) -> bytes:
    packing = zlib.compressobj(9)
    return b"".join(packing.compress(bytes(1 << 20)) for _ in range(megabytes)) + packing.flush()


def picture_bomb(random: Random) -> bytes:
    """A small file that claims much: pixels, pages, frames, passes, text."""
    large = random.choice([(7000, 7000), (9000, 5500), (50_000_000, 1), (1, 50_000_000), (65_535, 700)])
    match random.randrange(9):
        case 0:
            depth, colour = random.choice([(8, 6), (16, 0), (16, 2), (16, 6), (8, 4), (8, 3), (1, 0)])
            extra = _chunk(b"tRNS", b"\x40" * (1 if colour == 3 else 6)) if colour in (0, 2, 3) else b""
            return _png(*random.choice([(5000, 4000), (7000, 7000)]), depth, colour, extra)
        case 1:
            return _png(*random.choice([large, (100_000, 100_000), (2**31 - 1, 2**31 - 1), (0, 5)]), 8, 2, packed=b"")
        case 2:
            kind = random.choice([b"zTXt", b"iTXt", b"iCCP"])
            start = b"a\0\1\0\0\0" if kind == b"iTXt" else b"a\0\0"
            return _png(8, 8, 8, 2, _chunk(kind, start + _zeros(random.choice((1, 2, 200)))) * random.choice((1, 70)))
        case 3:
            return _png(8, 8, 8, 2, packed=_zeros(200))
        case 4:
            one = encoded(photo(1, 1), "GIF")
            start = one.index(b"\x2c\0\0\0\0")
            return one[:start] + one[start:-1] * random.choice((1000, 200_000)) + b";"
        case 5:
            tiff = bytearray(encoded(photo(1, 1), "TIFF"))
            first = struct.unpack_from("<I", tiff, 4)[0]
            fields = struct.unpack_from("<H", tiff, first)[0]
            page, at = bytes(tiff[first : first + 2 + 12 * fields]), first
            for _ in range(random.choice((100, 20_000))):
                struct.pack_into("<I", tiff, at + 2 + 12 * fields, len(tiff))
                at = len(tiff)
                tiff += page + bytes(4)
            return bytes(tiff)
        case 6:
            jpeg = encoded(photo(64, 64), "JPEG", progressive=random.random() < 0.7)
            size = max(jpeg.find(b"\xff\xc2"), jpeg.find(b"\xff\xc0")) + 5
            last = jpeg.rindex(b"\xff\xda")
            height, width = random.choice([(7000, 7000), (65_500, 760), (65_535, 65_535)])
            sized = jpeg[:size] + struct.pack(">HH", height, width) + jpeg[size + 4 : last]
            return sized + jpeg[last:-2] * random.choice((1, 30, 90, 2000)) + b"\xff\xd9"
        case 7:
            gif = bytearray(encoded(photo(4, 4), "GIF"))
            gif[6:10] = struct.pack("<HH", *random.choice([(65_535, 65_535), (7000, 7000), (0, 0)]))
            return bytes(gif)
        case _:
            bmp = bytearray(encoded(photo(4, 4), "BMP"))
            bmp[18:26] = struct.pack(
                "<ii", *random.choice([(7000, 7000), (-7000, 7000), (7000, -7000), (2**31 - 1, 9)])
            )
            return bytes(bmp)


def _pictures(random: Random, folder: Path, attempt: Attempt) -> None:
    source = pictures()
    data = (
        picture_bomb(random)
        if random.random() < 0.05
        else mutated(random, random.choice(source), random.choice(source))
    )
    attempt(image_size, data)
    if picture := attempt(read_picture, data):
        attempt(Look.of, picture.rgb)
        baked = picture.baked()
        assert attempt(read_picture, baked.data).notes == [], "what is stored needs no second repair"


# ---- shards ----------------------------------------------------------------------------------------------------------


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
def _set() -> tuple[dict, bytes]:
    """The index and the tar of a whole set."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        with ShardWriter(Path(folder) / "s") as writer:
            for number, name in enumerate(("a", "b")):
                images = encoded(photo(8, 6 + number)), "png", encoded(photo(9, 7), "JPEG"), "jpg"
                writer.add(_pair(name), *images)
        index = json.loads((Path(folder) / "s/index.json").read_bytes())
        return index, (Path(folder) / "s" / index["shards"][0]["name"]).read_bytes()


def _index(random: Random, folder: Path, attempt: Attempt) -> None:
    index, tar = _set()
    (folder / index["shards"][0]["name"]).write_bytes(tar)
    (folder / "index.json").write_bytes(mutated_json(random, index))
    _read_folder(folder, attempt)


# ---- records and imports ---------------------------------------------------------------------------------------------


def _records(random: Random, folder: Path, attempt: Attempt) -> None:
    row = attempt(parse_json, mutated_json(random, RECORD))
    if pair := attempt(EditPair.from_json, row, where="row 1"):
        content = json.dumps(pair.to_json(), ensure_ascii=False, allow_nan=False).encode()
        assert EditPair.from_json(parse_json(content)).to_json() == pair.to_json()


def _import(kind: str, path: Path, folder: Path, attempt: Attempt) -> None:
    options = ImportOptions(category="semantic" if kind == "magicbrush" else None)
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


# ---- checkpoints and model folders -----------------------------------------------------------------------------------


@cache
def _checkpoint() -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        written = small_store.write(Path(folder) / "step_00000003")
        return {str(path.relative_to(written)): path.read_bytes() for path in written.rglob("*") if path.is_file()}


def _checkpoints(random: Random, folder: Path, attempt: Attempt) -> None:
    step = folder / "step_00000003"
    files = dict(_checkpoint())
    manifest = json.loads(files["tensors.json"])
    match random.randrange(4):
        case 0:  # of another content, with a checksum that fits
            del manifest["sha256"]
            try:
                changed = json.loads(mutated_json(random, manifest))
                files["tensors.json"] = small_store.with_own_digest(changed)
            except (ValueError, TypeError):
                files["tensors.json"] = mutated_json(random, manifest)
        case 1:  # of the form without checksums
            del manifest["sha256"]
            sizes = {name: file["bytes"] for name, file in manifest["files"].items() if name.endswith(".safetensors")}
            files["tensors.json"] = mutated_json(random, {**manifest, "format": 1, "files": sizes})
        case 2:
            state = mutated_json(random, json.loads(files["state.json"]))
            files["state.json"] = state
        case _:
            name = random.choice(sorted(files))
            files[name] = mutated(random, files[name], files["state.json"])
    for name, content in files.items():
        (step / name).parent.mkdir(parents=True, exist_ok=True)
        (step / name).write_bytes(content)
    attempt(read_state, step, verify=random.random() < 0.5)
    attempt(verify_folder, folder / "step_00000003")
    if store := attempt(StoreReader, step):
        for key in list(store.tensors):
            attempt(store.read, key)


def _config() -> dict[str, dict]:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    text = {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-6,
        "rope_parameters": rope, "num_experts": 4,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True, "hidden_act": "silu",
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 64, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1], "hidden_act": "gelu_pytorch_tanh",
    }  # fmt: skip
    picture = {
        "patch_size": 16,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return {
        "config.json": {
            "model_type": "qwen3_vl_moe", "text_config": text, "vision_config": vision, "image_token_id": 500,
            "vision_start_token_id": 502, "vision_end_token_id": 503, "tie_word_embeddings": False,
        },
        "preprocessor_config.json": picture,
        "processor_config.json": {"image_processor": picture, "chat_template": "{{ messages }}"},
        "chat_template.json": {"chat_template": "{{ messages }}"},
        "tokenizer_config.json": {"chat_template": [{"name": "default", "template": "{{ messages }}"}]},
        "generation_config.json": {"eos_token_id": [1, 2]},
        "model.safetensors.index.json": {"metadata": {"total_size": 8}, "weight_map": {"a": "model.safetensors"}},
    }  # fmt: skip


def _configs(random: Random, folder: Path, attempt: Attempt) -> None:
    files = _config()
    if random.random() < 0.5:
        del files["config.json"]["text_config"]["rope_parameters"]
        text = files["config.json"]["text_config"]
        text |= {"rope_theta": 5e6, "rope_scaling": {"mrope_section": [6, 5, 5], "mrope_interleaved": True}}
    target = random.choice([*files, "config.json", "config.json"])
    for name, value in files.items():
        (folder / name).write_bytes(mutated_json(random, value) if name == target else json.dumps(value).encode())
    (folder / "model.safetensors").write_bytes(b"")
    attempt(Architecture.from_folder, folder)
    attempt(ImageSettings.from_folder, folder, min_pixels=1024, max_pixels=10**6)
    attempt(weight_index, folder)
    if side := attempt(SideFiles.read, folder):
        attempt(side.chat_templates)
        attempt(side.end_ids)
        attempt(side.image_processor)


FILE_READERS = [
    Reader("pictures", _pictures, 5),
    Reader("tars", _tars, 3),
    Reader("index", _index, 2),
    Reader("records", _records, 2),
    Reader("jsonl", _jsonl, 2),
    Reader("parquet", _parquet, 2),
    Reader("checkpoints", _checkpoints, 2),
    Reader("configs", _configs, 2),
]
