"""Sets in parquet files, as the hub has them, and as other writers leave them."""

import datetime
import decimal
import json

import pyarrow
import pyarrow.parquet
import pytest

from editcaption_mega.data import open_shards
from editcaption_mega.data.importers import FORMATS, Candidate, ImportOptions, Rejected
from editcaption_mega.data.importers.candidates import InputError
from editcaption_mega.data.importers.ingest import ingest
from tests.helpers.image_bytes import encoded, photo

PICTURE = {"bytes": encoded(photo()), "path": None}


def bytemorph(**change):
    row = {
        "edit_type": "camera_zoom", "image_id": "17", "src_img": PICTURE, "tgt_img": PICTURE,
        "edit_prompt": "zoom", "edit_prompt_rewrite_instruction": "Zoom the camera in.",
        "src_img_caption": "a dog", "tgt_img_caption": "a dog, near",
    }  # fmt: skip
    return row | change


def hq_edit(**change):
    row = {"input": "a dog", "input_image": PICTURE, "edit": "Add a hat.", "inverse_edit": "Remove the hat.",
           "output": "a dog in a hat", "output_image": PICTURE}  # fmt: skip
    return row | change


def written(folder, *files):
    for number, rows in enumerate(files):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"part-{number}.parquet")
    return str(folder)


def read(path, kind, **options):
    return list(FORMATS[kind].read(path, ImportOptions(**options)))


def test_bytemorph_rows_are_numbered_over_all_files(tmp_path):
    path = written(tmp_path, [bytemorph(), bytemorph()], [bytemorph(edit_prompt_rewrite_instruction="")])
    rows = read(path, "bytemorph")
    assert [row.pair.id for row in rows] == ["bytemorph-000001", "bytemorph-000002", "bytemorph-000003"]
    assert FORMATS["bytemorph"].count(path, ImportOptions()) == 3
    first, last = rows[0], rows[2]
    assert (first.pair.category, first.pair.edit_type) == ("structural", "camera_zoom")
    assert first.pair.instruction == "Zoom the camera in." and last.pair.instruction == "zoom"
    assert first.pair.provenance["image_id"] == "17" and first.source == PICTURE["bytes"]


def test_hq_edit_must_be_told_its_category(tmp_path):
    path = written(tmp_path, [hq_edit()])
    (row,) = read(path, "hq-edit", category="semantic")
    assert (row.pair.category, row.pair.instruction) == ("semantic", "Add a hat.")
    assert row.pair.provenance["inverse_edit"] == "Remove the hat."
    with pytest.raises(InputError, match="give --category"):
        read(path, "hq-edit")


def test_a_row_without_a_picture_is_a_reason_and_the_others_go_on(tmp_path):
    rows = read(written(tmp_path, [bytemorph(), bytemorph(tgt_img={"bytes": b"", "path": "x.png"})]), "bytemorph")
    assert isinstance(rows[0], Candidate)
    assert rows[1] == Rejected(2, "bytemorph-000002", "column 'tgt_img' holds no picture")


def test_files_that_are_no_such_set_are_told(tmp_path):
    with pytest.raises(InputError, match="found none"):
        read(str(tmp_path), "hq-edit", category="semantic")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(InputError, match="not a readable parquet file"):
        read(str(tmp_path), "bytemorph")
    (tmp_path / "x.parquet").unlink()
    with pytest.raises(InputError, match="has no column edit_type, src_img, tgt_img: expected those of bytemorph"):
        read(written(tmp_path, [hq_edit()]), "bytemorph")


def magicbrush(**change):
    row = {"img_id": "12", "turn_index": 1, "source_img": PICTURE, "target_img": PICTURE, "mask_img": PICTURE,
           "instruction": "Make it blue."}  # fmt: skip
    return row | change


@pytest.mark.parametrize(
    ("change", "instruction"),
    [
        ({}, "Zoom the camera in."),
        ({"edit_prompt_rewrite_instruction": None}, "zoom"),
        ({"edit_prompt_rewrite_instruction": "  \t "}, "zoom"),
        ({"edit_prompt_rewrite_instruction": None, "edit_prompt": None}, None),
        ({"edit_prompt_rewrite_instruction": "", "edit_prompt": "  "}, None),
    ],
)
def test_a_blank_instruction_falls_back_to_the_next_column(tmp_path, change, instruction):
    _, row = read(written(tmp_path, [bytemorph(), bytemorph(**change)]), "bytemorph")
    assert row.pair.instruction == instruction


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"edit_type": None}, "column 'edit_type' is empty"),
        ({"edit_type": " "}, "field 'edit_type' is ' ': it is empty; give a text or leave the field out"),
        ({"src_img": None}, "column 'src_img' holds no picture"),
        (
            {"src_img": {"bytes": None, "path": "a.png"}},
            "column 'src_img' holds no picture, only the path 'a.png': embed the pictures",
        ),
    ],
)
def test_a_null_is_a_reason_and_no_text(tmp_path, change, reason):
    rows = read(written(tmp_path, [bytemorph(), bytemorph(**change), bytemorph()]), "bytemorph")
    assert rows[1] == Rejected(2, "bytemorph-000002", reason)
    assert isinstance(rows[0], Candidate) and isinstance(rows[2], Candidate)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        (float("nan"), "holds nan, which JSON has no number for"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (datetime.datetime(2024, 1, 2, 3, 4), "2024-01-02T03:04:00"),
        (datetime.time(3, 4), "03:04:00"),
        (datetime.timedelta(seconds=90), 90.0),
        (decimal.Decimal("1.50"), "1.50"),
        (b"\x01\xff", "01ff"),
        (b"x" * 1000, "1000 bytes that are no text"),
        ([1, None, 2], [1, None, 2]),
        ({"a": [datetime.date(2024, 1, 2)]}, {"a": ["2024-01-02"]}),
        (True, True),
    ],
)
def test_a_kept_column_of_any_type_is_kept_as_json_or_its_loss_is_noted(tmp_path, value, kept):
    (row,) = read(written(tmp_path, [magicbrush(turn_index=value)]), "magicbrush", category="semantic")
    provenance = row.pair.provenance
    assert provenance["img_id"] == "12" and json.loads(json.dumps(provenance, allow_nan=False)) == provenance
    assert provenance.get("turn_index", provenance.get("dropped", {}).get("turn_index")) == kept


def test_cells_that_have_no_python_value_cost_their_column_or_their_row_alone(tmp_path):
    bad = pyarrow.array([b"\xff\xfe", b"good"], pyarrow.binary()).cast(pyarrow.string(), safe=False)
    far = pyarrow.array([1 << 58, 0], pyarrow.timestamp("ms"))
    good = pyarrow.array(["Make it blue.", "Make it red."])
    pictures = pyarrow.array([PICTURE["bytes"]] * 2, pyarrow.large_binary())
    for name, instruction, img_id in (("text", bad, good), ("kept", good, far)):
        columns = {"source_img": pictures, "target_img": pictures, "instruction": instruction, "img_id": img_id}
        (tmp_path / name).mkdir()
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / name / "x.parquet")
    first, second = read(str(tmp_path / "text"), "magicbrush", category="semantic")
    assert "column 'instruction' can't be read" in first.reason and second.pair.instruction == "good"
    first, second = read(str(tmp_path / "kept"), "magicbrush", category="semantic")
    assert "can't be read" in first.pair.provenance["dropped"]["img_id"]
    assert second.pair.provenance["img_id"] == "1970-01-01T00:00:00"


def test_columns_of_one_name_and_folders_named_like_files(tmp_path):
    table = pyarrow.Table.from_pylist([magicbrush()])
    (tmp_path / "set.parquet").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "set.parquet" / "part-0.parquet")
    assert len(read(str(tmp_path), "magicbrush", category="semantic")) == 1
    twice = table.append_column("instruction", pyarrow.array(["Make it red."]))
    pyarrow.parquet.write_table(twice, tmp_path / "two.parquet")
    with pytest.raises(InputError, match="two.parquet has two columns instruction: rename one of each"):
        read(str(tmp_path), "magicbrush", category="semantic")


def test_a_damaged_row_group_is_rejected_rows_and_the_others_go_on(tmp_path):
    other = encoded(photo(40, 31))
    rows = [
        magicbrush(instruction=f"Paint it in colour {i}.", target_img={"bytes": other, "path": None}) for i in range(12)
    ]
    path = tmp_path / "x.parquet"
    options = {"row_group_size": 4, "use_dictionary": False, "compression": "zstd"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    group = pyarrow.parquet.ParquetFile(path).metadata.row_group(1)
    offsets = [group.column(i).data_page_offset for i in range(group.num_columns)]
    content = bytearray(path.read_bytes())
    for offset in offsets:
        content[offset : offset + 40] = bytes(40)
    path.write_bytes(content)
    read_rows = read(str(path), "magicbrush", category="semantic")
    lost = [row for row in read_rows if isinstance(row, Rejected)]
    assert [row.number for row in read_rows] == [1, 2, 3, 4, 5, 9, 10, 11, 12]
    assert [(row.number, row.count) for row in lost] == [(5, 4)]
    assert lost[0].reason.startswith("4 row(s) of x.parquet can't be read (row group 1 is damaged: ")
    report = ingest(iter(read_rows), tmp_path / "out")
    assert (report.accepted, report.rejected, report.rejected_share) == (8, 4, 1 / 3)
    assert open_shards(tmp_path / "out").ids[4] == "magicbrush-000009"
