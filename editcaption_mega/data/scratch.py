"""A temporary database on the disk, for what is remembered of very many pairs: memory stays as it is."""

import sqlite3
from typing import Any

_MEMORY_KIB = 16 << 10


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


def open_scratch(*made: str) -> Scratch:
    """With tables and indices, each as SQL has it behind CREATE: "TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID".

    Long rows belong into a table with row ids, which grows at its end, with an index of a short key beside it: a page
    in the middle that is not in memory is read and written again for each row."""
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False, factory=Scratch)
    for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_MEMORY_KIB}"):
        database.execute(f"PRAGMA {pragma}")
    for each in made:
        database.execute(f"CREATE {each}")
    database.execute("BEGIN")  # and no end: what does not fit into memory goes to the disk as it comes
    return database
