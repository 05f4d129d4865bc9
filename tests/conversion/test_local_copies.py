"""Copies on a node's own disk: read instead of the checkpoint's files where they are sound and the ranks are the same,
and never trusted for more."""

import shutil

import pytest
import torch

from editcaption_mega.conversion import DamagedCheckpointError, LocalCopies, StoreReader, StoreWriter, verify_checkpoint
from editcaption_mega.conversion.rules import Box

LAYOUT = [1, 1, 1, 1, 1, 1, 0]


def write(folder, value: float) -> dict:
    """A checkpoint of one tensor -> the digests of its files."""
    writer = StoreWriter(folder, metadata={"layout": LAYOUT})
    writer.add("weights/a", (4,), Box.whole((4,)), torch.full((4,), value))
    writer.finish()
    return writer.digests


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture
def copies(tmp_path):
    return LocalCopies(tmp_path / "disk", tmp_path / "run", LAYOUT)


@pytest.fixture
def checkpoint(tmp_path, copies):
    files = write(tmp_path / "checkpoint", 1.5)
    copies.keep(tmp_path / "checkpoint", files)
    return tmp_path / "checkpoint"


def only(folder):
    (path,) = folder.glob("rank*")
    return path


def test_a_copy_is_read_instead(checkpoint, copies, capsys):
    flip(only(checkpoint))  # what is read is sound, and this is not read
    with pytest.raises(DamagedCheckpointError, match="sha256"):
        verify_checkpoint(checkpoint)
    store = verify_checkpoint(checkpoint, local=copies)
    assert "1 of 1 files of" in capsys.readouterr().out
    assert store.read("weights/a").tolist() == [1.5] * 4
    assert StoreReader(checkpoint, copies).read("weights/a").tolist() == [1.5] * 4


def test_a_damaged_copy_is_removed_and_the_file_itself_read(checkpoint, copies, capsys):
    copy = only(copies.folder)
    flip(copy)
    assert verify_checkpoint(checkpoint, local=copies).read("weights/a").tolist() == [1.5] * 4
    assert f"{copy} is damaged" in capsys.readouterr().out and not copy.exists()
    flip(only(checkpoint))
    with pytest.raises(DamagedCheckpointError, match=str(checkpoint)):
        verify_checkpoint(checkpoint, local=copies)


def test_a_cut_copy_is_none(checkpoint, copies):
    only(copies.folder).write_bytes(b"half")
    assert StoreReader(checkpoint, copies).local_copy(only(checkpoint).name) is None


def test_another_layout_or_rank_reads_the_checkpoint(checkpoint, copies, tmp_path, monkeypatch):
    name = only(checkpoint).name
    assert StoreReader(checkpoint, copies).local_copy(name) == only(copies.folder)
    other = LocalCopies(tmp_path / "disk", tmp_path / "run", [2, *LAYOUT[1:]])
    assert StoreReader(checkpoint, other).local_copy(name) is None
    monkeypatch.setenv("RANK", "1")
    second = LocalCopies(tmp_path / "disk", tmp_path / "run", LAYOUT)
    assert StoreReader(checkpoint, second).read("weights/a").tolist() == [1.5] * 4
    flip(only(checkpoint))  # that of rank 0, which has verified its copy
    with pytest.raises(DamagedCheckpointError, match="sha256"):
        StoreReader(checkpoint, second).read("weights/a")


def test_copies_are_of_one_run_and_of_its_newest_checkpoint(checkpoint, copies, tmp_path, monkeypatch):
    elsewhere = LocalCopies(tmp_path / "disk", tmp_path / "other run", LAYOUT)
    assert StoreReader(checkpoint, elsewhere).local_copy(only(checkpoint).name) is None
    for rank, name in ((1, "rank00001-of-this-node"), (7, "rank00007-gone")):
        (copies.folder / name).write_text(str(rank))
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    files = write(tmp_path / "next", 2.5)
    copies.keep(tmp_path / "next", files)
    names = {path.name for path in copies.folder.iterdir()}
    assert len(names) == 2 and "rank00001-of-this-node" in names
    assert StoreReader(tmp_path / "next", copies).read("weights/a").tolist() == [2.5] * 4
    assert StoreReader(checkpoint, copies).local_copy(only(checkpoint).name) is None
    shutil.rmtree(copies.folder)
    assert StoreReader(tmp_path / "next", copies).read("weights/a").tolist() == [2.5] * 4
