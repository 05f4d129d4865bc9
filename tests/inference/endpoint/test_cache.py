"""The kept replies and the call log on their own: damage, half lines, other versions."""

import logging
import sqlite3

import pytest

from editcaption_mega.inference.endpoint.cache import CacheError, CallLog, ReplyCache, read_calls

REPLY = {"status": "ok", "text": "a", "model": "m-1"}


def test_replies_are_kept_by_key(tmp_path):
    cache = ReplyCache(tmp_path / "new" / "folder")
    assert cache.get(["k"]) == {} and cache.served("m", "http://h/v1") == set()
    cache.put("m", "http://h/v1", [("k", REPLY), ("l", REPLY | {"model": ""})])
    cache.put("m", "http://h/v1", [("k", REPLY | {"text": "b"})])
    other = ReplyCache(tmp_path / "new" / "folder")
    assert other.get(["k", "x"]) == cache.get(["k"]) == {"k": REPLY | {"text": "b"}}
    assert other.served("m", "http://h/v1") == {"m-1"} and other.served("m", "http://other/v1") == set()
    other.close()
    cache.close()


@pytest.mark.parametrize("damage", ["text", "pages", "row", "folder"])
def test_a_damaged_file_gives_one_sentence(tmp_path, damage):
    path = tmp_path / "responses.sqlite"
    if damage == "text":
        path.write_text("this is no database " * 100)
    elif damage == "folder":
        path.mkdir()
    else:
        cache = ReplyCache(tmp_path)
        cache.put("m", "u", [(f"key {i}", REPLY | {"text": "x" * 500}) for i in range(200)])
        cache.close()
        if damage == "pages":
            data = bytearray(path.read_bytes())
            data[4096:20000] = b"\xaa" * (20000 - 4096)
            path.write_bytes(data)
        else:
            with sqlite3.connect(path) as connection:
                connection.execute("UPDATE replies SET reply = substr(reply, 1, 20)")
            connection.close()
    with pytest.raises(CacheError, match="can't be used" if damage == "folder" else "is damaged or no SQLite file"):
        ReplyCache(tmp_path).get(["key 3"])


def test_tables_of_another_version_are_refused(tmp_path):
    ReplyCache(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "responses.sqlite")
    connection.execute("PRAGMA user_version=9")
    connection.close()
    with pytest.raises(CacheError, match="version 9"):
        ReplyCache(tmp_path)


def test_replies_kept_without_the_address_are_left_aside(tmp_path, caplog):
    """Version 1 left the address out of the key: whose replies they are, nobody can tell."""
    with sqlite3.connect(tmp_path / "responses.sqlite") as connection:
        connection.execute(
            "CREATE TABLE replies (key TEXT PRIMARY KEY, model TEXT NOT NULL, served TEXT NOT NULL, url TEXT NOT NULL, "
            "time REAL NOT NULL, reply TEXT NOT NULL)"
        )
        connection.execute("INSERT INTO replies VALUES ('k', 'm', 'm-1', 'http://h/v1', 0, '{}')")
        connection.execute("PRAGMA user_version=1")
    connection.close()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            cache = ReplyCache(tmp_path)
            assert cache.get(["k"]) == {}
            cache.put("m", "http://h/v1", [("l", REPLY)])
            cache.close()
    (record,) = caplog.records
    assert "1 replies were kept by an earlier version without the server's address" in record.getMessage()
    with sqlite3.connect(tmp_path / "responses.sqlite") as connection:
        assert connection.execute("SELECT key FROM replies_version_1").fetchall() == [("k",)]
    connection.close()


def test_a_half_line_of_the_log_is_passed_over(tmp_path, caplog):
    log = CallLog(tmp_path)
    log.append([{"id": 1}, {"id": 2}])
    log.close()
    with open(log.path, "ab") as file:
        file.write(b'{"id": 3, "reason": "caf\xc3')
    log = CallLog(tmp_path)
    log.append([{"id": 4}])
    log.close()
    with caplog.at_level(logging.WARNING):
        assert [row["id"] for row in read_calls(tmp_path)] == [1, 2, 4]
    assert "1 unfinished lines" in caplog.text
