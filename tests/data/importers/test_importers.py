import gzip
import io
import json
import os
import struct
import sys

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from editcaption_mega.data import open_shards
from editcaption_mega.data.images.decode import decode_image
from editcaption_mega.data.importers import FORMATS, Candidate, ImportOptions, Rejected
from editcaption_mega.data.importers.candidates import InputError
from editcaption_mega.data.importers.ingest import ingest
from editcaption_mega.data.shards.reader import ShardError, rebuild_index, verify
from editcaption_mega.evaluation.report.page.thumbnails import shrunk
from tests.helpers.image_bytes import encoded, photo, png_header_only

NOTHING = ImportOptions()


def row(identity="a", **more):
    fields = {"id": identity, "category": "semantic", "edit_type": "add", "instruction": "Add a hat"}
    return fields | {"source": "good.png", "target": "other.png"} | more


def without(*names):
    return {name: value for name, value in row("x").items() if name not in names}


@pytest.fixture
def work(tmp_path):
    """Makes a JSONL beside good.png from rows (objects, or raw bytes of a line) and gives its path."""
    (tmp_path / "good.png").write_bytes(encoded(photo()))
    (tmp_path / "other.png").write_bytes(encoded(photo().transpose(Image.Transpose.ROTATE_180)))

    def make(*rows):
        lines = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in rows]
        (tmp_path / "pairs.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        return tmp_path / "pairs.jsonl"

    return make


def read(path, kind="jsonl", options=NOTHING):
    return FORMATS[kind].read(str(path), options)


def rejected_rows(folder):
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]


def test_rows_are_read_with_relative_and_absolute_paths(work, tmp_path):
    path = work(row(), b"", row("b", source=str(tmp_path / "good.png")), b"   ")
    rows = list(read(path))
    assert all(isinstance(item, Candidate) for item in rows) and [item.number for item in rows] == [1, 3]
    assert rows[1].source == rows[0].source == (tmp_path / "good.png").read_bytes()
    assert rows[0].pair.id == "a" and FORMATS["jsonl"].count(str(path), NOTHING) == 2


def test_a_byte_order_mark_is_no_error(work):
    assert isinstance(next(read(work(b"\xef\xbb\xbf" + json.dumps(row()).encode()))), Candidate)


@pytest.mark.parametrize(
    "line, identity, reason",
    [
        (b'{"id": "x", "edit_type": "caf\xe9"}', None, "not UTF-8 .byte 29 of the line.: save the file as UTF-8"),
        (b'{"id": "x", ', None, "not valid JSON"),
        (b"[" * 100_000, None, "not valid JSON"),
        (b"[1, 2]", None, "expected a JSON object, found list"),
        (row("a.b"), "a.b", "id 'a.b' may hold letters, digits.*a dot"),
        (without("id"), None, "field 'id' is missing"),
        (without("source"), "x", "field 'source' is missing: give the path of the source image"),
        (row("x", target=7), "x", "field 'target' is 7"),
        (row("x", category="other"), "x", "field 'category' is 'other'"),
        (row("x", instrution="typo"), "x", "field 'instrution' is not part of the schema"),
        (row("x", chosen="one"), "x", "'chosen' and 'rejected' come together"),
        (row("x", target="missing.png"), "x", "target image '.*missing.png' not found"),
        (row("x", source="."), "x", "source image '.*' can't be read: a folder, expected a file"),
        (row("x", source="a\0b"), "x", "source image '.*' can't be read"),
    ],
)
def test_bad_rows_are_rejected_and_the_work_goes_on(work, line, identity, reason):
    good, bad, after = read(work(row(), line, row("b")))
    assert isinstance(good, Candidate) and isinstance(after, Candidate)
    assert isinstance(bad, Rejected) and (bad.number, bad.id) == (2, identity)
    with pytest.raises(ValueError, match=reason):
        raise ValueError(bad.reason)


@pytest.mark.parametrize(
    "name, make, reason",
    [
        ("empty.png", lambda: b"", "target image: empty, 0 bytes"),
        ("cut.jpg", lambda: encoded(photo(200, 200), "JPEG")[:5000], "target image: truncated or damaged image"),
        ("page.jpg", lambda: b"<html>", "target image: not an image in a format that is read here but a web page"),
        ("large.png", lambda: png_header_only(20_000, 2600), "target image: 20000 x 2600 is over the limit"),
        ("bomb.png", lambda: png_header_only(20_000, 20_000), "target image: 400000000 pixels are over the limit"),
    ],
)
def test_bad_images_are_rejected_by_name(work, tmp_path, name, make, reason):
    (tmp_path / name).write_bytes(make())
    report = ingest(read(work(row(), row("bad-one", target=name))), tmp_path / "out")
    assert (report.accepted, report.rejected) == (1, 1)
    (bad,) = rejected_rows(tmp_path / "out")
    assert bad["line"] == 2 and bad["id"] == "bad-one" and bad["reason"].startswith(reason)
    assert open_shards(tmp_path / "out").ids == ["a"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ((json.dumps(row()) + "\n").encode("utf-16"), "the file looks like UTF-16, as Excel and PowerShell write it"),
        (
            json.dumps([row(), row("b")]).encode(),
            "found list: give each row its own line, without the brackets of a list",
        ),
        (json.dumps([row()], indent=2).encode(), "the file looks like JSON over several lines"),
        (json.dumps(row(), indent=2).encode(), "the file looks like JSON over several lines"),
        (
            b"id,source,target\na,good.png,other.png\n",
            "the file looks like CSV; this format has one JSON object a line",
        ),
        (b"id;source;target\n", "the file looks like CSV"),
        (b"id\tsource\ttarget\n", "the file looks like CSV"),
        (gzip.compress(b"{}", mtime=0), "^not UTF-8 .byte 1 of the line.: the file is gzip; unpack it with gunzip$"),
        (b"\0" * 100, "the file is nothing but zero bytes; copy it again"),
        (b'{"id": "a"}{"id": "b"}', "several objects on one line; put each on a line of its own"),
        (b'{"id": "a"},\n', "take the comma off the end of the line"),
        (b'{"id": "a",\n "category": "semantic"}\n', "the object goes on in the next line; put each on a line"),
        (b'{"id": "a"}\r{"id": "b"}\r', "the lines end as on old Macs"),
        (b"{'id': 'a'}", "the line looks like a Python dict; write it with json.dumps"),
        (b"// pairs\n", "JSON has no comments; take the line out"),
        (row(source="file:///tmp/a.png"), "it is a file address, expected a path"),
        (row(source="~/a.png"), "write the home folder in full"),
        (row(source="data:image/png;base64,iVBORw0KGgo" + "A" * 5000), "it is the picture itself in base64"),
        (b'{"id": "a", "input_image": "a.png", "prompt": "x"}', "fields here: 'id', 'input_image', 'prompt'"),
        (b'{"source": "good.png", "target": "other.png"}', "field 'id' is missing, as are 'category' and 'edit_type'"),
        (row(source="images\\a.png"), r"write '/' instead of '\\' in paths"),
        (row(source="https://example.org/a.png"), "it is an address, expected a path; download the pictures first"),
        (row(instruction=""), "field 'instruction' is '': it is empty; give a text or leave the field out"),
        (row(severity="P0"), "expected a number from 0 .slight. to 1 .worst.; P0, P1 and P2 are words of people's"),
        (row(7), "field 'id' is 7: expected a text, in quotes"),
        (row("\ud83d"), "a text holds half a character"),
        (row(provenance={"a": "\ude00"}), "a text holds half a character"),
        (json.dumps(row(provenance={"score": float("nan")})).encode(), "NaN is not a JSON number"),
        (b'{"id": "a", "id": "b"}', "key 'id' occurs twice in one object"),
        (row(provenance={"n": 10**5000}) | {"id": 1}, "a number of thousands of digits|thousands"),
        (row(provenance={"a": "x" * (4 << 20)}), "the line has more than 4194304 bytes: no pair has"),
        (row(source="pipe.png"), "source image '.*pipe.png' can't be read: a pipe or device"),
        (row(source="/dev/zero"), "source image '/dev/zero' can't be read: a pipe or device"),
        (row(source="hole.png"), "6442450944 bytes, more than the 536870912 that a picture may have"),
    ],
)
def test_the_reason_says_what_the_row_is_and_the_mend(work, tmp_path, content, reason):
    os.mkfifo(tmp_path / "pipe.png")
    with open(tmp_path / "hole.png", "wb") as file:
        file.truncate(6 << 30)
    sys.set_int_max_str_digits(0)
    try:
        path = work(content, row("good"))
    finally:
        sys.set_int_max_str_digits(4300)
    bad, *_, good = read(path)
    assert isinstance(bad, Rejected) and isinstance(good, Candidate)
    with pytest.raises(ValueError, match=reason):
        raise ValueError(bad.reason)
    assert ingest([bad, good], tmp_path / "out").accepted == 1
    assert json.loads((tmp_path / "out" / "rejected.jsonl").read_text(encoding="utf-8"))["line"] == 1


def test_bytes_of_a_path_that_are_no_text_do_not_end_the_import(work, tmp_path):
    bad = Rejected(7, "a", "source image '/data/\udcff.png' not found")
    ingest([bad, *read(work(row()))], tmp_path / "out")
    assert json.loads((tmp_path / "out" / "rejected.jsonl").read_text(encoding="utf-8"))["reason"] == bad.reason


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(InputError, match="a folder, expected a file"):
        list(read(tmp_path))


def test_what_was_imported_above_the_default_limit_is_read_everywhere(work, tmp_path):
    image = Image.new("L", (20_000, 2_600), 7)
    (tmp_path / "large.png").write_bytes(encoded(image))
    image.paste(99, (0, 0, 9_000, 2_600))
    (tmp_path / "large.jpg").write_bytes(encoded(image, "JPEG"))
    path = work(row(), row("large", source="large.png", target="large.jpg"))
    assert ingest(read(path), tmp_path / "default").accepted == 1
    assert ingest(read(path), tmp_path / "out", max_pixels=60_000_000).accepted == 2
    sample = open_shards(tmp_path / "out")[1]
    assert sample.source_size == (20_000, 2_600) == decode_image(sample.source_bytes).size
    assert [problem for checked in verify(tmp_path / "out") for problem in checked.problems] == []
    (tmp_path / "out" / "index.json").unlink()
    rebuild_index(tmp_path / "out")
    assert shrunk(sample.target_bytes, 10_000)[1]


def oversized_text():
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type app1", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    return encoded(photo(), pnginfo=info)


@pytest.mark.parametrize(
    "name, make, note",
    [
        ("cmyk.jpg", lambda: encoded(photo(mode="CMYK"), "JPEG"), "mode CMYK converted to 8-bit RGB"),
        ("deep.png", lambda: encoded(Image.fromarray(np.full((4, 4), 999, np.uint16))), "mode I;16 converted"),
        ("text.png", oversized_text, "unreadable metadata left out (zTXt)"),
        ("clear.png", lambda: encoded(photo(mode="RGBA")), "transparency (mode RGBA) composited on white"),
    ],
)
def test_unusual_images_are_baked_and_provenance_says_so(work, tmp_path, name, make, note):
    (tmp_path / name).write_bytes(make())
    report = ingest(read(work(row(source=name, provenance={"licence": "CC0"}))), tmp_path / "out")
    sample = open_shards(tmp_path / "out")[0]
    images = sample.pair.provenance["images"]
    assert report.re_encoded == 1 and sample.pair.provenance["licence"] == "CC0"
    assert list(images) == ["source"] and images["source"]["notes"][0].startswith(note)
    assert len(images["source"]["original_sha256"]) == 64
    assert Image.open(io.BytesIO(sample.source_bytes)).mode == "RGB"
    assert np.array_equal(Image.open(io.BytesIO(sample.source_bytes)), decode_image(make()))


def test_usual_images_keep_their_bytes(work, tmp_path):
    wide = encoded(Image.new("L", (8_000, 40)), "JPEG")
    palette = encoded(photo().quantize(8))
    (tmp_path / "wide.jpg").write_bytes(wide)
    (tmp_path / "palette.png").write_bytes(palette)
    ingest(read(work(row(source="wide.jpg", target="palette.png"))), tmp_path / "out")
    sample = open_shards(tmp_path / "out")[0]
    assert (sample.source_bytes, sample.target_bytes) == (wide, palette)
    assert sample.source_size == (8_000, 40) and sample.pair.provenance == {}


def test_exif_rotation_is_baked_in(work, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photo(40, 30), "JPEG", exif=exif)
    (tmp_path / "turned.jpg").write_bytes(data)
    ingest(read(work(row(source="turned.jpg"))), tmp_path / "out")
    sample = open_shards(tmp_path / "out")[0]
    assert sample.source_size == (30, 40)
    stored = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(Image.open(io.BytesIO(sample.source_bytes)), np.rot90(stored, -1))
    assert sample.pair.provenance["images"]["source"]["notes"] == ["EXIF orientation 6 applied", "re-encoded as PNG"]


def test_rows_without_instruction(work, tmp_path):
    preference = without("instruction") | {"id": "dpo", "chosen": "Add a hat", "rejected": "Remove it"}
    path = work(row(), without("instruction"), preference)
    report = ingest(read(path), tmp_path / "out")
    assert open_shards(tmp_path / "out").ids == ["a", "dpo"] and report.rejected == 1
    assert rejected_rows(tmp_path / "out")[0]["reason"].startswith("no 'instruction'")
    ingest(read(path), tmp_path / "all", require_instruction=False)
    assert open_shards(tmp_path / "all").ids == ["a", "x", "dpo"] and rejected_rows(tmp_path / "all") == []


def test_duplicate_ids_keep_the_first(work, tmp_path):
    report = ingest(read(work(row(), row("b", instruction="Add a tie"), row(instruction="Another"))), tmp_path / "out")
    assert report.accepted == 2 and open_shards(tmp_path / "out")[0].pair.instruction == "Add a hat"
    expected = {"line": 3, "id": "a", "reason": "id 'a' is already in the set: ids must be unique"}
    assert rejected_rows(tmp_path / "out") == [expected]


def test_nothing_accepted_leaves_only_the_reasons_and_a_second_try_works(work, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ShardError, match="none of the 2 rows was accepted.*2 x no 'instruction'"):
        ingest(read(work(without("instruction"), without("instruction"))), out)
    assert [path.name for path in out.iterdir()] == ["rejected.jsonl"] and len(rejected_rows(out)) == 2
    ingest(read(work(row())), out)
    assert len(open_shards(out)) == 1 and rejected_rows(out) == []
    with pytest.raises(ShardError, match="not empty"):
        ingest(read(work(row())), out)
    with pytest.raises(ShardError, match="the input holds no rows"):
        ingest(read(work(b"")), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_missing_input(tmp_path):
    for kind in FORMATS:
        with pytest.raises(InputError, match="nowhere: no such file"):
            list(read(tmp_path / "nowhere", kind))


def test_synthetic_pairs(tmp_path):
    options = ImportOptions(count=6, seed=3, first_index=10)
    ingest(read("default", "synthetic", options), tmp_path / "out")
    reader = open_shards(tmp_path / "out")
    assert len(reader) == 6 == len(set(reader.ids)) and all(sample.pair.instruction for sample in reader)
    assert not [problem for checked in verify(tmp_path / "out") for problem in checked.problems]
    ingest(read("default", "synthetic", ImportOptions(count=3, seed=3, first_index=12)), tmp_path / "part")
    part = open_shards(tmp_path / "part")
    assert [part[i] for i in range(3)] == [reader[i] for i in range(2, 5)]
    (tmp_path / "world.yaml").write_text("canvas_size: 60\nedit_types: [add]\n")
    for item in read(tmp_path / "world.yaml", "synthetic", ImportOptions(count=2)):
        assert struct.unpack(">II", item.source[16:24]) == (60, 60) and item.pair.edit_type == "add"


@pytest.mark.parametrize(
    "text, message",
    [
        ("canvas: 3", "unknown setting 'canvas': the synthetic world has canvas_size"),
        ("canvas_size: 7", "world.yaml: canvas_size is 7"),
        ("- 1", "expected settings as 'name: value', found list"),
        ("{", "not valid YAML or JSON"),
    ],
)
def test_bad_world_settings(tmp_path, text, message):
    (tmp_path / "world.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        list(read(tmp_path / "world.yaml", "synthetic"))


def test_the_real_pairs(real_pairs_jsonl, tmp_path):
    report = ingest(read(real_pairs_jsonl), tmp_path / "out")
    assert (report.accepted, report.rejected, report.re_encoded) == (21, 5, 0)
    assert not [problem for checked in verify(tmp_path / "out") for problem in checked.problems]
    by_id = {json.loads(line)["id"]: json.loads(line) for line in real_pairs_jsonl.read_text().splitlines()}
    for sample in open_shards(tmp_path / "out"):
        with open(by_id[sample.pair.id]["source"], "rb") as file:
            assert sample.source_bytes == file.read()
        assert decode_image(sample.target_bytes).size == sample.target_size
    assert ingest(read(real_pairs_jsonl), tmp_path / "all", require_instruction=False).accepted == 26
