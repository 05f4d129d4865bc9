"""Arrays that processes map: whole or not there, of one key, and readable by safetensors."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of
from hypothesis import strategies as st
from safetensors.numpy import load_file

from editcaption_mega.data.array_file import ArrayFile, is_made_from, map_arrays, write_arrays
from tests.helpers import small_store

KEY = {"format": 1, "data": ["a", 2]}
ARRAYS = {
    "ids": np.arange(7, dtype=np.uint8),
    "table": np.arange(12, dtype=np.int32).reshape(4, 3),
    "none": np.empty((0, 2), np.int64),
    "values": np.linspace(-1, 0, 5, dtype=np.float32),
}


def test_what_was_written_is_mapped(tmp_path):
    path = tmp_path / "tables/a.safetensors"
    write_arrays(path, KEY, ARRAYS)
    mapped = map_arrays(path, dict(reversed(KEY.items())))
    assert list(mapped) == list(ARRAYS) and isinstance(mapped["table"], np.memmap)
    for name, values in ARRAYS.items():
        assert np.array_equal(mapped[name], values) and mapped[name].dtype == values.dtype
        assert np.array_equal(load_file(path)[name], values), "the form is that of safetensors"
    with pytest.raises(ValueError, match="read-only"):
        mapped["table"][0] = 1


def test_parts_are_filled_in_any_order(tmp_path):
    file = ArrayFile(tmp_path / "a.safetensors", KEY, {"table": (np.int32, (4, 3)), "values": (np.float32, (5,))})
    file.begin()
    file.fill("values", 2, ARRAYS["values"][2:])
    file.fill("table", 1, ARRAYS["table"][1:])
    file.fill("table", 0, ARRAYS["table"][:1])
    file.fill("values", 0, ARRAYS["values"][:2])
    assert not is_made_from(file.path, KEY), "it is there when it is whole"
    file.publish()
    mapped = map_arrays(file.path, KEY)
    assert all(np.array_equal(mapped[name], ARRAYS[name]) for name in mapped) and not file.partial.exists()


@settings_of(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_another_key_and_a_file_that_was_cut_are_made_again(tmp_path, data):
    path = tmp_path / "a.safetensors"
    write_arrays(path, KEY, ARRAYS)
    content = path.read_bytes()
    assert is_made_from(path, KEY) and not is_made_from(path, KEY | {"data": ["a", 3]})
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert not is_made_from(path, KEY)
    with pytest.raises(ValueError, match="was changed or removed while the job started"):
        map_arrays(path, KEY)
    path.write_bytes(content + b"x")
    assert not is_made_from(path, KEY) and not is_made_from(tmp_path / "absent", KEY)


@settings_of(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6))
def test_a_bit_that_flipped_anywhere_is_noticed(tmp_path, position):
    path = tmp_path / "a.safetensors"
    write_arrays(path, KEY, ARRAYS)
    small_store.flip(path, position)
    assert not is_made_from(path, KEY)
