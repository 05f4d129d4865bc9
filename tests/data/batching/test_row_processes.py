"""Packed sequences read by processes are those that threads read, and what happens to a process is told."""

import os
import signal
from dataclasses import fields

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


def test_a_process_that_was_killed_is_told(reader):
    processes = RowProcesses(reader, 1)
    try:
        processes._processes[0]._process.kill()
        with pytest.raises(ChildProcessError, match=r"ended with code -9, .*lower data.workers"):
            processes.read([0], 4096)
    finally:
        processes.close()
