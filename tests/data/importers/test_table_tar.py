"""WebDataset tars as they occur: joined, cut off, damaged within, compressed."""

import gzip
import io
import tarfile

import pytest

from editcaption_mega.data.importers.table_cells import Lost
from editcaption_mega.data.importers.table_tar import tar_rows


def tar(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


FIRST = tar(("a.jpg", b"one"), ("a.json", b'{"n": 1}'))
SECOND = tar(("a.jpg", b"two"), ("a.json", b'{"n": 2}'), ("b.txt", b"three"))


def rows(tmp_path, data):
    (tmp_path / "x.tar").write_bytes(data)
    found = tar_rows(tmp_path / "x.tar")
    return [row if isinstance(row, Lost) else {name: row[name] for name in row.names} for row in found]


def test_tars_that_were_joined_are_read_to_the_end(tmp_path):
    found = rows(tmp_path, FIRST + SECOND + bytes(4096) + FIRST)
    assert [row.get("jpg") for row in found] == [b"one", b"two", None, b"one"]
    assert [row.get("json") for row in found] == [{"n": 1}, {"n": 2}, None, {"n": 1}]
    assert found[2]["txt"] == "three"


@pytest.mark.parametrize("where", [1536, 2048 + 512])
def test_a_damaged_header_is_told_and_not_taken_for_the_end(tmp_path, where):
    data = bytearray(SECOND)
    data[where - 1536 + 1024 : where - 1536 + 1034] = b"\xff" * 10
    found = rows(tmp_path, bytes(data))
    assert isinstance(found[-1], Lost) and "the rest of x.tar can't be read: a damaged header" in found[-1].reason


def test_a_tar_that_is_cut_off_or_claims_too_much_is_told(tmp_path):
    for cut in (700, 1400):
        found = rows(tmp_path, SECOND[:cut])
        assert isinstance(found[-1], Lost) and "can't be read" in found[-1].reason, cut
    info = tarfile.TarInfo("a.jpg")
    info.size = 1 << 40
    found = rows(tmp_path, info.tobuf() + bytes(512))
    assert "larger than any picture" in found[-1].reason


def test_a_name_that_is_there_twice_ends_a_tar_with_a_sentence(tmp_path):
    (lost,) = rows(tmp_path, tar(("a.jpg", b"1"), ("a.jpg", b"2")))
    assert "duplicate file name" in lost.reason and "None" not in lost.reason


def test_a_compressed_tar_is_read_as_well(tmp_path):
    assert [row["jpg"] for row in rows(tmp_path, gzip.compress(FIRST))] == [b"one"]


def test_an_empty_tar_has_no_rows(tmp_path):
    assert rows(tmp_path, tar()) == []
