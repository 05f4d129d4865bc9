"""A temporary database on the disk, for what is remembered of very many pairs: memory stays as it is."""

import sqlite3
from typing import Any

_MEMORY_KIB = 8 << 10


class Scratch(sqlite3.Connection):
    """Of one process, gone with it. Nothing of it is ever read again, so nothing waits for the disk."""

    def execute(self, statement: str, values: Any = (), /) -> sqlite3.Cursor:
        """Raises OSError where the disk is full."""
        try:
            return super().execute(statement, values)
        except sqlite3.OperationalError as error:
            raise OSError(
                f"a temporary database could not grow ({error}): free space in the folder for temporary files, or name "
                "another with SQLITE_TMPDIR"
            ) from None


def open_scratch(*tables: str) -> Scratch:
    """With tables, each as SQL's CREATE TABLE has it behind the name's place: "looks (hash BLOB, ..)"."""
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False, factory=Scratch)
    for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_MEMORY_KIB}"):
        database.execute(f"PRAGMA {pragma}")
    for table in tables:
        database.execute(f"CREATE TABLE {table} WITHOUT ROWID")
    database.execute("BEGIN")  # and no end: what does not fit into memory goes to the disk as it comes
    return database
