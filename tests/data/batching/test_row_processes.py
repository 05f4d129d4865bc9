"""Packed sequences read by processes are those that threads read, and what happens to a process is told."""

import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import pytest
import torch

from editcaption_mega.data import SampleOrder
from editcaption_mega.data.batching.loader import StepStream, read_ahead
from editcaption_mega.data.batching.row_processes import RowProcesses
from tests.helpers.small_pairs import opened, reader_of

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memory that is shared by descriptor")


@pytest.fixture(scope="module")
def reader(model, folder):
    return reader_of(opened(model, folder, answers="preference"), 4096)


@pytest.fixture(scope="module")
def processes(reader):
    made = RowProcesses(reader, 1)
    yield made
    made.close()


def assert_equal(ours, theirs):
    for item in fields(ours):
        mine, other = getattr(ours, item.name), getattr(theirs, item.name)
        if isinstance(mine, torch.Tensor):
            assert mine.dtype == other.dtype and torch.equal(mine, other), item.name
        elif item.name == "images":
            assert_equal(mine, other)
        else:
            assert mine == other, item.name


def test_a_row_of_a_process_is_that_of_the_reader(reader, processes):
    length = int(reader.lengths.num_tokens[:3].sum()) + 5
    batch = processes.read([0, 1, 2], length)
    assert_equal(batch, reader.read([0, 1, 2], length))
    pixels = batch.images.pixels.clone()
    processes.read([3, 4], length)
    assert torch.equal(batch.images.pixels, pixels), "the next row has memory of its own"


def test_what_a_process_cannot_read_is_raised_here_and_it_goes_on(reader, processes):
    with pytest.raises(AssertionError, match=r"tokens planned into a sequence of 8"):
        processes.read([0], 8)
    with pytest.raises(IndexError):
        processes.read([len(reader.dataset)], 4096)
    assert processes.read([0], 4096).sample_ids == (reader.dataset.id(0),)


def test_signals_that_stop_a_job_are_not_for_its_processes(processes):
    (process,) = processes._processes
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(process._process.pid, number)
    assert processes.read([1], 4096).num_tokens > 0


def test_steps_in_their_order_and_processes_that_end_with_them(reader):
    stream = StepStream(reader, SampleOrder(len(reader.dataset), 1), 6)
    for ours, theirs in zip(stream.steps(0, 3, ahead=2, processes=True), stream.steps(0, 3), strict=True):
        assert (ours.number, ours.length) == (theirs.number, theirs.length)
        for batch, other in zip(ours.micro_batches, theirs.micro_batches, strict=True):
            assert_equal(batch, other)
    rounds = read_ahead(reader, [[0, 1]] * 9, ahead=2, processes=True)
    next(rounds)
    (read,) = [f for f in rounds.gi_frame.f_locals.values() if getattr(f, "__name__", "") == "read"]
    (process,) = read.__self__._processes
    rounds.close()
    assert process._process.poll() is not None


class Dying:
    """A reader whose process is killed at a moment of its choice, once for each file that can be made."""

    def __init__(self, reader, marks, moment, times=1):
        self.reader, self.marks, self.moment, self.times = reader, marks, moment, times

    def read(self, samples, length):
        died = len(list(self.marks.iterdir()))
        batch = self.reader.read(samples, length)
        if died < self.times:
            (self.marks / str(died)).touch()
            if self.moment == "before its answer":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.moment == "before the memory of its answer":
                sys.addaudithook(lambda event, _: event == "socket.sendmsg" and os.kill(os.getpid(), signal.SIGKILL))
            else:  # amid its answer, which is larger than what a socket holds
                batch.sample_ids = (*batch.sample_ids, "x" * 300_000_000)
                threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGKILL]).start()
        return batch


MOMENTS = ["before its answer", "amid its answer", "before the memory of its answer"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_process_that_is_killed_is_replaced_and_its_row_is_read_again(reader, tmp_path, capsys, moment):
    processes = RowProcesses(Dying(reader, tmp_path, moment), 1)
    try:
        length = int(reader.lengths.num_tokens[:2].sum())
        assert_equal(processes.read([0, 1], length), reader.read([0, 1], length))
        said = capsys.readouterr().out
        assert said == "a process that reads rows ended with code -9; a new one reads its row of 2 samples again\n"
        assert processes.read([3], 4096).sample_ids == (reader.dataset.id(3),)
        assert len(list(tmp_path.iterdir())) == 1, "it was killed"
    finally:
        processes.close()


def test_a_row_that_kills_two_processes_is_an_error(reader, tmp_path):
    processes = RowProcesses(Dying(reader, tmp_path, "before its answer", times=2), 1)
    try:
        with pytest.raises(
            ChildProcessError, match=r"code -9, and so did the one before, with the same .*data.workers"
        ):
            processes.read([0], 4096)
        assert processes.read([0], 4096).sample_ids == (reader.dataset.id(0),), "the next one is asked anew"
    finally:
        processes.close()


def test_kills_from_outside_at_any_moment_lose_nothing(reader):
    """Two processes of one rank, of which one is killed again and again while both read."""
    rng, rows = random.Random(5), [[k % 6, (k + 1) % 6] for k in range(60)]
    expected = {tuple(row): reader.read(row, 4096).sample_ids for row in rows}
    processes = RowProcesses(reader, 2)
    killed, ended = 0, threading.Event()

    def kill():
        nonlocal killed
        while killed < 3 and not ended.wait(rng.uniform(0.2, 1.5)):
            process = rng.choice(processes._processes)
            if not process._is_new:  # so that no row meets two kills, which is an error
                process._process.kill()
                killed += 1

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with ThreadPoolExecutor(2) as pool:
            while killer.is_alive():
                batches = list(pool.map(lambda row: processes.read(row, 4096), rows))
                assert [batch.sample_ids for batch in batches] == [expected[tuple(row)] for row in rows]
    finally:
        ended.set()
        killer.join()
        processes.close()
    assert killed == 3


@dataclass(frozen=True)
class Unmade:
    """A reader that no other process can make."""

    def __reduce__(self):
        return open, ("/nowhere/at/all",)


@dataclass(frozen=True)
class Slow:
    def read(self, samples, length):
        time.sleep(600)


def test_a_process_ends_with_its_rank_even_amid_a_row():
    processes = RowProcesses(Slow(), 1)
    (process,) = processes._processes
    try:
        process._connection.send_bytes(process._spec)
        process._connection.send(([0], 8))
        process._connection.close()
        process._socket.close()
        assert process._process.wait(60) == 1
    finally:
        process._process.kill()


def test_a_reader_that_cannot_be_made_says_why():
    processes = RowProcesses(Unmade(), 1)
    try:
        with pytest.raises(FileNotFoundError, match="/nowhere/at/all"):
            processes.read([0], 8)
    finally:
        processes.close()
