"""What is bad data, and what is storage that is gone."""

import pytest

from editcaption_mega.data.images.decode import ImageError
from editcaption_mega.data.shards.layout import ShardError, UnreachableError
from editcaption_mega.data.shards.unreadable import UnreadableError, is_bad_data, read_twice


def test_storage_that_is_gone_and_memory_that_is_short_are_no_bad_data():
    assert is_bad_data(ShardError("cut")) and is_bad_data(ImageError("cut"))
    for error in (UnreachableError("nobody answers"), OSError(5, "Input/output error"), MemoryError(), ValueError("?")):
        assert not is_bad_data(error)
        with pytest.raises(type(error)):
            read_twice(3, raising(error))
    try:
        raise ImageError("damaged") from MemoryError()
    except ImageError as error:
        assert not is_bad_data(error)


def raising(*errors):
    """A function that raises these, one at each call, and then returns 7."""
    left = list(errors)

    def read():
        if left:
            raise left.pop(0)
        return 7

    return read


def test_a_disk_may_err_once():
    assert read_twice(3, raising(ShardError("cut"))) == 7
    with pytest.raises(UnreadableError) as error:
        read_twice(3, raising(ShardError("cut"), ShardError("cut again")))
    assert (error.value.number, error.value.reason) == (3, "cut again")
