"""Files that are written past the page cache, where there is a way, hold every byte in its place."""

import errno
import fcntl
import mmap
import os

import pytest

from editcaption_mega import disk_file
from editcaption_mega.disk_file import PAGE, DiskFile


def on_pages(content):
    """The same bytes, from the beginning of a page on."""
    room = mmap.mmap(-1, len(content))
    room[:] = content
    return memoryview(room)


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("count", [0, 10, PAGE, 5 * PAGE, 5 * PAGE + 1])
def test_a_file_has_the_bytes(tmp_path, direct, count):
    values = os.urandom(count)
    path = tmp_path / "file"
    path.write_bytes(b"what was there before" * PAGE)
    with DiskFile(path, direct=direct) as file:
        for start in range(0, count, 2 * PAGE):
            file.write(on_pages(values[start : start + 2 * PAGE]))
        file.sync()
    assert path.read_bytes() == values
    os.umask(mask := os.umask(0))
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="this system has no O_DIRECT")
@pytest.mark.parametrize("refused", ["open", "write"])
@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_where_a_file_system_has_no_direct_writes_the_page_cache_is_used(tmp_path, monkeypatch, refused, code):
    real_open, real_write, refusals = os.open, os.write, []

    def refuse():
        refusals.append(refused)
        raise OSError(code, "no direct writes")

    def open_(path, flags, mode=0o777):
        return refuse() if refused == "open" and flags & os.O_DIRECT else real_open(path, flags & ~os.O_DIRECT, mode)

    def write(descriptor, content):
        if refused == "write" and not refusals:
            refuse()
        return real_write(descriptor, content[:1000])  # a part, as a system may

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(disk_file, "SYNC_BYTES", 3 * PAGE)
    synced = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    values = os.urandom(10 * PAGE + 1)
    with DiskFile(tmp_path / "file", direct=True) as file:
        for start in range(0, len(values), PAGE):
            file.write(on_pages(values[start : start + PAGE]))
        assert not fcntl.fcntl(file._descriptor, fcntl.F_GETFL) & os.O_DIRECT
        file.sync()
    assert (tmp_path / "file").read_bytes() == values
    assert len(refusals) == 1 and len(synced) == 3


def test_other_errors_are_raised(tmp_path):
    with pytest.raises(IsADirectoryError):
        DiskFile(tmp_path, direct=True)
    if os.path.exists("/dev/full"):
        with DiskFile(os.path.join("/dev", "full"), direct=False) as file, pytest.raises(OSError) as caught:
            file.write(memoryview(bytes(PAGE)))
        assert caught.value.errno == errno.ENOSPC
