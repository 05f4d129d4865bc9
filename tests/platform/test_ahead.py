"""Items made by a thread, one before it is asked for."""

import threading

import pytest

from editcaption_mega.platform import made_ahead


def test_one_is_made_while_the_one_before_is_in_use():
    made, second = [], threading.Event()

    def make(number):
        made.append((number, threading.current_thread()))
        if number == 1:
            second.set()
        return number * 10

    results = made_ahead(make, range(4))
    assert next(results) == 0
    assert second.wait(10), "the next one is made without being asked for"
    assert [number for number, _ in made] == [0, 1], "and no further"
    assert list(results) == [10, 20, 30]
    assert {thread for _, thread in made} != {threading.current_thread()} and len({t for _, t in made}) == 1


def test_an_error_is_raised_at_its_place_and_the_source_is_closed():
    closed = []

    def source():
        try:
            yield from range(9)
        finally:
            closed.append(threading.current_thread())

    def make(number):
        if number == 2:
            raise ValueError("sample 2 is broken")
        return number

    results = made_ahead(make, source())
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="sample 2 is broken"):
        next(results)
    assert closed and closed[0] is not threading.current_thread(), "by the thread that runs it"
    results = made_ahead(make, source())
    next(results)
    results.close()
    assert len(closed) == 2
