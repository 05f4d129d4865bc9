"""The short form of `make fuzz`, and what the harness itself notices."""

import os

import pytest

from editcaption_mega.data.shards.reader import ShardError

from . import driver
from .driver import Reader, fault_of, fuzz, try_one
from .readers import READERS


@pytest.mark.parametrize("reader", READERS, ids=[reader.name for reader in READERS])
def test_a_few_inputs_of_every_reader_leave_no_fault(reader):
    for number in range(1_000_000, 1_000_000 + 3 * reader.share):
        faults = try_one(reader, 7, number)[3]
        assert not [fault for fault in faults if " of CPU" not in fault], number  # a busy machine's seconds are no test


@pytest.mark.slow
def test_two_thousand_inputs_leave_no_fault():
    tallies = fuzz(READERS, 2000, seed=11, workers=2)
    assert {name: tally.faults for name, tally in tallies.items() if tally.faults} == {}
    assert sum(tally.inputs for tally in tallies.values()) >= 2000


def raises(error):
    def run(random, folder, attempt):
        def read():
            raise error

        attempt(read)

    return run


def leaks(random, folder, attempt):
    attempt(int, "x")  # an error of the library, not of ours


def grows(random, folder, attempt):
    held = bytearray(100 << 20)
    held[:: 1 << 12] = bytes(len(held[:: 1 << 12]))


def dies(random, folder, attempt):
    if random.random() < 0.5:
        os.kill(os.getpid(), 11)


def test_the_harness_notices_what_is_no_error_of_ours(monkeypatch):
    assert "KeyError" in try_one(Reader("x", raises(KeyError(1))), 0, 0)[3][0]
    assert "ValueError at" in try_one(Reader("x", leaks), 0, 0)[3][0]
    assert "no plain sentence" in try_one(Reader("x", raises(ShardError("two\nlines"))), 0, 0)[3][0]
    assert "no plain sentence" in try_one(Reader("x", raises(ShardError("an \x1b[31mescape"))), 0, 0)[3][0]
    for error in (ShardError("one sentence"), FileNotFoundError(2, "No such file or directory", "x")):
        refused, _, _, faults = try_one(Reader("x", raises(error)), 0, 0)
        assert refused and faults == []
    assert fault_of(OSError("no words of the system")) is not None
    monkeypatch.setattr(driver, "MOST_BYTES", 50 << 20)
    assert "MB of memory" in try_one(Reader("x", grows), 0, 0)[3][0]


@pytest.mark.slow
def test_a_reader_that_kills_its_process_is_a_fault_and_the_others_go_on():
    tally = fuzz([Reader("dies", dies)], 20, seed=0, workers=2, say=lambda line: None)["dies"]
    assert tally.inputs == 20 and 0 < len(tally.faults) < 20
    assert all("killed the process (SIGSEGV)" in fault for fault in tally.faults)
    assert "20 inputs, 0 refused" in tally.line("dies") and f"{len(tally.faults)} faults" in tally.line("dies")
