"""One error on every rank: the same class, the same sentence, and no rank left waiting."""

import errno
import socket

import numpy as np
import pytest

from editcaption_mega import platform
from tests.helpers.ranks import on_ranks

HOST = socket.gethostname()


class OwnError(ValueError):
    exit_code = 2


class TwoArgumentsError(ValueError):
    """A class that pickle cannot make again: its constructor takes something else than its message."""

    exit_code = 2

    def __init__(self, what, expected):
        super().__init__(f"{what} is not {expected}")


def fail(error):
    raise error


CASES = {
    "one rank": (
        lambda rank: fail(ValueError("x is 3")) if rank == 1 else None,
        ValueError,
        f"x is 3 (rank 1 on {HOST})",
    ),
    "two ranks, two reasons": (lambda rank: fail(ValueError(f"x is {rank}")), ValueError, f"x is 0 (rank 0 on {HOST})"),
    "two ranks, one reason": (lambda rank: fail(OwnError("x is 3")), OwnError, "x is 3"),
    "disk full": (
        lambda rank: fail(OSError(errno.ENOSPC, "No space left on device", "/d/f")) if rank == 1 else None,
        OSError,
        f"[Errno 28] No space left on device (rank 1 on {HOST}): '/d/f'",
    ),
    "not allowed": (
        lambda rank: fail(PermissionError(errno.EACCES, "Permission denied", "/d/f")) if rank == 0 else None,
        PermissionError,
        f"[Errno 13] Permission denied (rank 0 on {HOST}): '/d/f'",
    ),
    "cannot travel": (
        lambda rank: fail(TwoArgumentsError("x", "y")) if rank == 1 else None,
        ValueError,
        f"x is not y (rank 1 on {HOST})",
    ),
    "a defect": (
        lambda rank: [][rank] if rank == 1 else None,
        IndexError,
        f"list index out of range (rank 1 on {HOST})",
    ),
}


def all_cases(rank):
    outcomes = []
    for work, _, _ in CASES.values():
        try:
            with platform.together():
                work(rank)
            outcomes.append(None)
        except Exception as error:
            outcomes.append((type(error).__name__, str(error), getattr(error, "exit_code", 1)))
    with platform.together():
        outcomes.append("the ranks are still in step")
    return outcomes


def test_every_rank_raises_the_same(tmp_path):
    both = on_ranks(all_cases, tmp_path)
    assert both[0] == both[1]
    for found, (_, kind, words) in zip(both[0], CASES.values(), strict=False):
        assert found[:2] == (kind.__name__, words)
    assert [found[2] for found in both[0][:-1]] == [1, 1, 2, 1, 1, 2, 1]


def ask_rank_zero(rank):
    value = platform.from_rank_zero(lambda: f"made by {rank}")
    with pytest.raises(ValueError, match="x is not y"):
        platform.from_rank_zero(lambda: fail(TwoArgumentsError("x", "y")))
    with pytest.raises(ZeroDivisionError):
        platform.from_rank_zero(lambda: 1 // rank)
    return value


def test_what_rank_zero_gives_or_raises_is_known_to_all(tmp_path):
    assert on_ranks(ask_rank_zero, tmp_path) == ["made by 0", "made by 0"]


def shared_and_gathered(rank):
    """Of more and of fewer items than there are ranks."""
    return [platform.gather_shares(platform.share(whole(size))) for size in range(8)]


def whole(size):
    return np.arange(2 * size, dtype=np.int32).reshape(size, 2)


def test_shares_become_the_whole_again_in_its_order(tmp_path):
    for parts in [*on_ranks(shared_and_gathered, tmp_path, count=3), shared_and_gathered(0)]:
        assert all(np.array_equal(part, whole(size)) and part.dtype == np.int32 for size, part in enumerate(parts))


def test_without_process_groups_an_error_is_left_as_it_is():
    error = TwoArgumentsError("x", "y")
    with pytest.raises(TwoArgumentsError) as caught:
        with platform.together():
            raise error
    assert caught.value is error
    with platform.together():
        pass
    with pytest.raises(TwoArgumentsError):
        platform.from_rank_zero(lambda: fail(error))


def steps(rank):
    yield 0
    if rank == 1:
        raise ValueError("sample x: its picture is broken")
    yield 1


def take_steps(rank):
    begun = []
    with pytest.raises(ValueError) as error:
        for step in platform.each_together(steps(rank)):
            begun.append(step)
    return begun, str(error.value), list(platform.each_together(range(3)))


def test_items_of_which_one_rank_cannot_make_its_own(tmp_path):
    """A step whose picture only one rank reads: the others learn of it before they wait in the step's collectives."""
    words = f"sample x: its picture is broken (rank 1 on {HOST})"
    assert on_ranks(take_steps, tmp_path) == [([0], words, [0, 1, 2])] * 2


def items_that_differ(rank):
    """Rank 1 has something to tell of the second item, rank 0 of the third, and nobody of the others."""
    settled = []
    items = platform.each_together(
        range(5),
        differs=lambda item: item == 2 - rank,
        settle=lambda item: settled.append((item, platform.gather(rank))),
    )
    return list(items), settled


def test_all_ranks_settle_what_any_has_to_tell(tmp_path):
    assert on_ranks(items_that_differ, tmp_path) == [([0, 1, 2, 3, 4], [(1, [0, 1]), (2, [0, 1])])] * 2
    assert items_that_differ(0) == ([0, 1, 2, 3, 4], [(2, [0])]), "without process groups"


def an_error_beside_a_note(rank):
    def items():
        yield 0
        if rank == 0:
            raise ValueError("x is 3")
        yield 1

    settled = []
    try:
        list(platform.each_together(items(), differs=lambda item: item == 1, settle=settled.append))
    except ValueError as error:
        return str(error), settled
    return None


def test_an_error_goes_before_what_others_have_to_tell(tmp_path):
    assert on_ranks(an_error_beside_a_note, tmp_path) == [(f"x is 3 (rank 0 on {HOST})", [])] * 2
