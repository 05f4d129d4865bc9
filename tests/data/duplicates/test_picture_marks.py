"""What is kept of the pictures of a folder: made once, in parallel, and again only where the folder changes."""

import pytest

from editcaption_mega.data.duplicates import picture_marks as room
from editcaption_mega.data.duplicates.picture_marks import BYTES, NAME, marks_of, picture_thumbnail
from editcaption_mega.data.images.decode import decode_image, encode_png
from editcaption_mega.data.images.pixel_digest import pixel_digest
from editcaption_mega.data.shards.reader import ShardError, ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, render_pair


def write(folder, count, first=0):
    with ShardWriter(folder) as writer:
        for index in range(first, first + count):
            rendered = render_pair(WorldSettings(), 3, index)
            writer.add(rendered.pair, encode_png(rendered.source), "png", encode_png(rendered.target), "png")
    return folder


def test_marks_are_those_of_the_pictures_in_any_number_of_processes(tmp_path):
    folder = write(tmp_path / "set", 40)
    shards, marks = marks_of(folder, workers=2)
    assert marks.thumbnails.shape == (40, 2, BYTES) and len(shards) == len(marks) == 40
    for at, side in ((0, "source"), (39, "target")):
        image = decode_image(shards.picture(at, side))
        assert marks.thumbnails[at, int(side == "target")].tobytes() == picture_thumbnail(image)
        digest = pixel_digest(image)[:8]
        assert marks.pixels[at, int(side == "target")] == int.from_bytes(digest, "little", signed=True)
    (folder / NAME).unlink()
    _, alone = marks_of(folder, workers=1)
    assert all((a == b).all() for a, b in zip(vars(marks).values(), vars(alone).values(), strict=True))


def test_pictures_are_read_once_per_fingerprint(tmp_path, monkeypatch):
    folder = write(tmp_path / "set", 3)
    _, before = marks_of(folder, workers=1)
    monkeypatch.setattr(room, "pair_marks", lambda *_: pytest.fail("pictures are read again"))
    shards, again = marks_of(folder, workers=1)
    assert (again.file == before.file).all() and len(shards) == 3
    monkeypatch.undo()
    other = write(tmp_path / "other", 3, first=5)
    (folder / NAME).rename(other / NAME)  # that of another fingerprint
    _, marks = marks_of(other, workers=1)
    assert not (marks.file == before.file).any()


def test_a_damaged_file_of_marks_is_made_again(tmp_path):
    folder = write(tmp_path / "set", 3)
    marks_of(folder, workers=1)
    whole = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    marks_of(folder, workers=1)
    assert (folder / NAME).read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_searched_and_said(tmp_path, monkeypatch):
    folder, notes = write(tmp_path / "set", 2), []

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, "write_arrays", full)
    _, marks = marks_of(folder, workers=1, notes=notes)
    assert len(marks) == 2 and "No space left on device" in notes[0] and "reads all pictures again" in notes[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_picture_that_cannot_be_read_is_named(tmp_path, workers):
    folder = write(tmp_path / "set", 20)
    tar = folder / "shard-000000.tar"
    content = bytearray(tar.read_bytes())
    at = content.index(b"IDAT", len(content) // 2) + 8
    content[at : at + 40] = bytes(40)
    tar.write_bytes(content)
    with pytest.raises(ShardError, match=r"(source|target) of .*validate-shards"):
        marks_of(folder, workers=workers)
    assert not (folder / NAME).exists()
