"""Rows prepared by processes: in their order, the same bytes for any number, and none is lost when one dies."""

import os
import signal
import threading
import time

import pytest

from editcaption_mega.data.importers import Candidate
from editcaption_mega.data.importers.ingest import ImportRun, ingest
from editcaption_mega.data.importers.prepared_rows import prepared_rows

from .test_journal import PER_SHARD, contents, row, rows


@pytest.mark.parametrize("workers", [2, 3])
def test_shards_and_lists_are_the_same_for_any_number_of_processes(tmp_path, workers):
    one = ingest(rows(), tmp_path / "one", samples_per_shard=PER_SHARD)
    several = ingest(rows(), tmp_path / "several", samples_per_shard=PER_SHARD, run=ImportRun(workers))
    assert several == one and contents(tmp_path / "several") == contents(tmp_path / "one")


def test_only_a_few_batches_are_read_ahead():
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield row(taken)

    ready = prepared_rows(endless(), 1_000_000, workers=2)
    numbers = [next(ready)[0].number for _ in range(100)]
    assert numbers == list(range(1, 101)) and taken <= 100 + 32 * 7
    ready.close()


def test_a_process_that_is_killed_ends_the_work_and_the_finished_shards_stay(tmp_path):
    def killing():
        for number in range(1, 2000):
            if number == 400:
                victim = next(pid for pid in children(os.getpid()))
                os.kill(victim, signal.SIGKILL)
                time.sleep(0.2)
            yield row(number)

    with pytest.raises(ChildProcessError, match="a process that prepares pictures ended with code -9"):
        ingest(killing(), tmp_path / "out", samples_per_shard=PER_SHARD, run=ImportRun(2, "set"))
    assert list((tmp_path / "out").glob("shard-*.partial")) and threading.active_count() < 20
    ingest(
        (row(number) for number in range(1, 500)),
        tmp_path / "out",
        samples_per_shard=PER_SHARD,
        run=ImportRun(identity="set"),
    )
    ingest((row(number) for number in range(1, 500)), tmp_path / "other", samples_per_shard=PER_SHARD)
    assert contents(tmp_path / "out") == contents(tmp_path / "other")


def children(pid):
    """Processes that a fork server of this process made, and its own."""
    import psutil

    found = psutil.Process(pid).children(recursive=True)
    return [
        process.pid for process in found if not process.children() and "resource_tracker" not in str(process.cmdline())
    ]


def test_a_row_is_prepared_as_a_single_process_does():
    item = row(6)
    assert isinstance(item, Candidate)
    ((same, ready),) = prepared_rows([item], 1_000_000, workers=4)
    assert same is item and ready.changed == 1 and ready.sample.members[0].name == "r6.src.png"
    ((_, refused),) = prepared_rows([item._replace(source=b"no picture")], 1_000_000, workers=1)
    assert "source image: not an image" in refused.problem and refused.sample is None
