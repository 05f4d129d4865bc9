"""Sets in parquet files, as the hub has them."""

import pyarrow
import pyarrow.parquet
import pytest
from image_bytes import encoded, photo

from editcaption_mega.data.importers import FORMATS, Candidate, ImportOptions, Rejected
from editcaption_mega.data.importers.rows import InputError

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
