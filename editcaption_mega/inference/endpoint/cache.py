"""What endpoints answered, kept: replies by key in SQLite, and a log with one line per attempt.

Both are safe for several processes of one machine at once. The write-ahead log of SQLite needs a file system of that
machine, so jobs on several nodes take a folder each."""

import contextlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .outcome import Outcome

# 2: the server is part of the key. Replies of version 1 may be those of any server that had a model of that name.
_SCHEMA_VERSION = 2
_BUSY_SECONDS = 60.0  # that a write waits for another process

_log = logging.getLogger(__name__)


class CacheError(ValueError):
    """The cache folder can't be used; the sentence says how to mend it."""


class ReplyCache:
    """`folder`/responses.sqlite. A reply that `put` has returned for survives the process (kill -9 included).

    `get` and `put` use a connection each: one thread may read while another writes."""

    def __init__(self, folder: Path):
        self.path = Path(folder) / "responses.sqlite"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._sentence():
            self._writer = self._connect()
            self._prepare()
            self._reader = self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def _prepare(self) -> None:
        self._enter_wal()
        found = self._writer.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        version = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, 1, _SCHEMA_VERSION):
            raise CacheError(
                f"{self.path} has version {version} of the cache's tables, this program writes {_SCHEMA_VERSION}: use "
                "the program that made it, or another folder"
            )
        if version == _SCHEMA_VERSION:
            return
        with self._transaction():
            if version == 1:
                self._leave_aside()
            self._writer.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, model TEXT NOT NULL, served TEXT NOT NULL, "
                "server TEXT NOT NULL, time REAL NOT NULL, reply TEXT NOT NULL)"
            )
            self._writer.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")

    def _leave_aside(self) -> None:
        (count,) = self._writer.execute("SELECT count(*) FROM replies").fetchone()
        self._writer.execute("ALTER TABLE replies RENAME TO replies_version_1")
        if count:
            _log.warning(
                "%s: %d replies were kept by an earlier version without the server's address, so they may be those of "
                "another server: they are left aside (table replies_version_1) and asked for again",
                self.path,
                count,
            )

    def _enter_wal(self) -> None:
        # Two processes that make the file at once: this one statement does not wait for the other by itself.
        until = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._writer.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def get(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Those of these keys' replies that are kept."""
        marks = ",".join("?" * len(keys))
        with self._sentence():
            rows = self._reader.execute(f"SELECT key, reply FROM replies WHERE key IN ({marks})", keys).fetchall()
        try:
            return {key: json.loads(reply) for key, reply in rows}
        except (ValueError, TypeError, RecursionError):
            raise self._damaged("a reply in it is not JSON") from None

    def put(self, model: str, server: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Keep the replies of these (key, reply) in one transaction, in the place of any that are there."""
        now = time.time()
        with self._sentence(), self._transaction():
            self._writer.executemany(
                "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?)",
                [(key, model, reply["model"], server, now, json.dumps(reply)) for key, reply in rows],
            )

    def served(self, model: str, server: str) -> set[str]:
        """The versions that the kept replies of this server's model came from, as the server named them."""
        query = "SELECT DISTINCT served FROM replies WHERE model = ? AND server = ?"
        with self._sentence():
            rows = self._reader.execute(query, (model, server)).fetchall()
        return {row[0] for row in rows if row[0]}

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._writer.execute("ROLLBACK")
            raise
        self._writer.execute("COMMIT")

    @contextlib.contextmanager
    def _sentence(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise CacheError(
                f"{self.path} can't be used ({error}): is the disk full, or another process at it?"
            ) from None
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, how: str) -> CacheError:
        return CacheError(
            f"{self.path} is damaged or no SQLite file ({how}): move it away, and what it held will be asked again"
        )


class CallLog:
    """`folder`/calls.jsonl: one line per attempt, only ever appended to."""

    def __init__(self, folder: Path):
        self.path = Path(folder) / "calls.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")  # a killed run's half line stays alone

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        while data:
            data = data[os.write(self._file, data) :]

    def close(self) -> None:
        os.close(self._file)


@contextlib.contextmanager
def open_cache(folder: Path | None) -> Iterator[tuple[ReplyCache | None, CallLog | None]]:
    """What a folder keeps; nothing without a folder. Raises CacheError for one that can't be used."""
    if folder is None:
        yield None, None
        return
    with contextlib.closing(ReplyCache(folder)) as cache, contextlib.closing(CallLog(folder)) as log:
        yield cache, log


def call_record(
    name: str, key: str, model: str, attempt: int, outcome: Outcome, seconds: float, cost: float = 0.0
) -> dict[str, Any]:
    """An attempt as a line of calls.jsonl; nothing in it is the server's but what `outcome` holds. name: the
    request's; key: that of the cache."""
    return {
        "time": round(time.time(), 3),
        "id": name,
        "key": key,
        "model": model,
        "attempt": attempt,
        "status": outcome.status,
        "http": outcome.http,
        "reason": outcome.reason,
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "cost": cost,
        "seconds": round(seconds, 4),
    }


def read_calls(folder: Path) -> Iterator[dict[str, Any]]:
    """The attempts that calls.jsonl holds, in order. Lines that a killed run left unfinished are counted and said."""
    path = Path(folder) / "calls.jsonl"
    unreadable = 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield row
            else:
                unreadable += 1
    if unreadable:
        _log.warning("%s: %d unfinished lines (of killed runs) were passed over", path, unreadable)
