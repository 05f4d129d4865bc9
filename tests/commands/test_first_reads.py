"""What is read beside imports: the first files, and nothing that keeps a command from going on."""

import gc
import os
import threading

import pytest

from editcaption_mega.commands import first_reads as module
from editcaption_mega.commands.first_reads import first_reads


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system has no posix_fadvise")
def test_the_first_bytes_of_the_files_are_asked_for(tmp_path, monkeypatch):
    sizes = {"a": 2500, "b": 0, "c": 1500, "d": 10_000, "e": 5}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    asked = []

    def advise(descriptor, start, length, advice):
        assert advice == os.POSIX_FADV_WILLNEED
        asked.append((os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")), start, length))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(module, "_STEP", 1000)
    monkeypatch.setattr(module, "MOST_BYTES", 7000)
    module._read_ahead([tmp_path / "missing", tmp_path, *(tmp_path / name for name in sizes)])
    assert asked == [
        ("a", 0, 1000), ("a", 1000, 1000), ("a", 2000, 1000), ("c", 0, 1000), ("c", 1000, 1000),
        ("d", 0, 1000), ("d", 1000, 1000),
    ]  # fmt: skip


def test_a_block_goes_on_at_once_and_collects_no_garbage(tmp_path, monkeypatch):
    began, go_on = threading.Event(), threading.Event()

    def slow(files):
        began.set()
        go_on.wait(60)

    monkeypatch.setattr(module, "_read_ahead", slow)
    try:
        assert gc.isenabled()
        with pytest.raises(ImportError), first_reads([tmp_path / "a"]):
            assert not gc.isenabled() and began.wait(60)
            raise ImportError
        assert gc.isenabled()
    finally:
        go_on.set()
