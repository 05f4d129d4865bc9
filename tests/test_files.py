"""Files that are written whole or not at all, and JSON that is read strictly."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editcaption_mega.files import (
    PARTIAL,
    parse_json,
    place_problem,
    read_json_object,
    remove_partial,
    replacing,
    write_atomically,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_an_error_names_the_file_that_was_meant(tmp_path):
    path = tmp_path / "absent" / "page.html"
    with pytest.raises(FileNotFoundError) as error, replacing(path):
        pass
    assert error.value.filename == str(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write("ne")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_the_new_file_takes_the_place_of_the_old_one(tmp_path):
    write_atomically(tmp_path / "a", "old and longer")
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new" and os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").stat().st_mode & 0o077 == 0o066 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_what_killed_writers_left_is_removed_and_named(tmp_path):
    (tmp_path / f"a.json.1-aa{PARTIAL}").write_text("half")
    (tmp_path / f"b{PARTIAL}" / "deep").mkdir(parents=True)
    (tmp_path / "c.json").write_text("{}")
    assert remove_partial(tmp_path) == [f"a.json.1-aa{PARTIAL}", f"b{PARTIAL}"]
    assert os.listdir(tmp_path) == ["c.json"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe{}", "not UTF-8"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
        (b'{"a": 1, "a": 2}', "key 'a' occurs twice"),
        (b'{"a": "\\ud83d"}', "half a character"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 10_000, "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b"", "not valid JSON"),
    ],
)
def test_json_that_is_refused(content, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        parse_json(content)
    assert "\n" not in str(caught.value)


@settings(max_examples=150)
@given(VALUES, st.booleans())
def test_json_that_json_writes_is_read_back(value, escaped):
    assert parse_json(json.dumps(value, ensure_ascii=escaped).encode()) == value


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0d8e19aNI-+.', max_size=40).map(str.encode))
def test_any_bytes_give_a_value_or_a_sentence(content):
    try:
        parse_json(content)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)


def test_an_object_is_asked_for_by_name(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match="a.json: expected a JSON object, found list"):
        read_json_object(path)


def test_where_nothing_can_be_made_is_told_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    assert place_problem(tmp_path / "file/a/b") == f"{tmp_path / 'file'} is a file"
    assert (
        place_problem(tmp_path / "new/a/b") == place_problem(tmp_path / "file") == place_problem("/" / tmp_path) == ""
    )
    assert os.geteuid() == 0 or place_problem(Path("/x/y")) == "/ cannot be written by this user"
