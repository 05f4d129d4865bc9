"""A temporary database: what is put there is there, nothing of it stays in a folder, and a full disk is a sentence."""

import os
from contextlib import suppress

import pytest

from editcaption_mega.data.scratch import open_scratch


def open_files():
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            yield os.readlink(f"/proc/self/fd/{descriptor}")


def test_rows_are_kept_and_no_file_has_a_name():
    database = open_scratch("TABLE pairs (key BLOB PRIMARY KEY, id TEXT) WITHOUT ROWID")
    for i in range(60_000):  # more than its memory holds
        database.execute("INSERT INTO pairs VALUES (?, ?)", (i.to_bytes(400, "little"), f"pair {i}"))
    assert any("/etilqs_" in name and name.endswith("(deleted)") for name in open_files())
    rows = database.execute("SELECT id FROM pairs WHERE key = ?", ((7).to_bytes(400, "little"),))
    assert list(rows) == [("pair 7",)]


def test_a_full_disk_is_a_sentence():
    database = open_scratch("TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID")
    database.execute("PRAGMA max_page_count = 20")
    with pytest.raises(OSError, match="could not grow .* free space in .*SQLITE_TMPDIR"):
        for i in range(10_000):
            database.execute("INSERT INTO ids VALUES (?)", (f"{i:0200d}",))
