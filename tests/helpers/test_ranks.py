"""The ranks of tests: strangers to the process that asks for them, and never waited for beyond their time."""

import os
import signal
import threading
import time

import pytest
import torch

from tests.helpers.ranks import on_ranks


def circumstances(rank, *arguments):
    os.write(1, f"rank {rank} speaks\n".encode())  # in one piece: `print` writes a line's end by itself
    return os.getppid(), torch.get_num_threads(), os.environ["PYTEST_CURRENT_TEST"], arguments


def die_or_hang(rank, fate):
    if rank == 1:
        os.kill(os.getpid(), fate)
    return rank


def raise_or_wait(rank):
    if rank == 1:
        raise ZeroDivisionError("by rank 1")
    return threading.active_count()


def test_ranks_are_no_forks_of_the_test_and_speak_for_it(tmp_path, capfd):
    for parent, num_threads, test, arguments in on_ranks(circumstances, tmp_path, "a", {"b": 1}, count=3):
        assert parent != os.getpid() and num_threads == 1 and arguments == ("a", {"b": 1})
        assert test == os.environ["PYTEST_CURRENT_TEST"]
    assert sorted(capfd.readouterr().out.splitlines()) == [f"rank {rank} speaks" for rank in range(3)]


def test_what_a_rank_raises_is_what_it_answers(tmp_path, capfd):
    threads, error = on_ranks(raise_or_wait, tmp_path)
    assert threads == 1 and type(error) is ZeroDivisionError and str(error) == "by rank 1"
    assert "ZeroDivisionError: by rank 1" in capfd.readouterr().err


def test_a_rank_that_dies_or_hangs_fails_the_test_in_time(tmp_path):
    with pytest.raises(AssertionError, match="rank 1 died"):
        on_ranks(die_or_hang, tmp_path, signal.SIGKILL)
    begun = time.monotonic()
    with pytest.raises(AssertionError, match=r"ranks \[.*1\] hang"):
        on_ranks(die_or_hang, tmp_path, signal.SIGSTOP, seconds=2.0)
    assert time.monotonic() - begun < 60
