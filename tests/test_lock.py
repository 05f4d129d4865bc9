"""The lock of a folder: who gets it, when, and what the others learn."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editcaption_mega.lock import FolderLock, HeldError, Holder, LostError, is_held


def written(folder, **change) -> FolderLock:
    """A lock file as another process left it, and a lock that wants the folder."""
    folder.mkdir(exist_ok=True)
    lock = FolderLock(folder, "training", beat=0.05, stale=0.4)
    holder = dataclasses.replace(Holder.this_process("training"), token="other", **change)
    lock.path.write_text(json.dumps(dataclasses.asdict(holder)))
    return lock


def ended_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_second_one_is_told_who_holds_it(tmp_path):
    with FolderLock(tmp_path / "run", "training"):
        with pytest.raises(HeldError) as error:
            FolderLock(tmp_path / "run", "judging", patience=0.3).acquire()
    message = str(error.value)
    assert f"is in use: training by process {os.getpid()} on " in message and "lock.json" in message
    assert not (tmp_path / "run").exists(), "an empty folder is left as it was: absent"


def test_it_is_free_again_at_the_end(tmp_path):
    for _ in range(2):
        with FolderLock(tmp_path, "training"):
            assert (tmp_path / "lock.json").is_file()
    assert list(tmp_path.iterdir()) == []


def test_others_can_ask_whether_it_is_held(tmp_path):
    assert not is_held(tmp_path)
    with FolderLock(tmp_path, "export"):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)
    written(tmp_path, pid=ended_process())
    assert not is_held(tmp_path), "by one that is gone"


@pytest.mark.parametrize("change", [{"pid": 0, "started": "1"}, {"started": "1"}])
def test_a_dead_process_of_this_machine_frees_it_at_once(tmp_path, change):
    if change.get("pid") == 0:
        change = {"pid": ended_process()}
    lock = written(tmp_path, **change)
    lock.stale = 1e9
    with lock:
        assert json.loads(lock.path.read_text())["token"] == lock.holder.token


def test_one_that_died_while_taking_over_is_not_in_the_way(tmp_path):
    lock = written(tmp_path, started="1")
    lock.stale = 1e9
    dead = json.loads(lock.path.read_text()) | {"token": "third"}
    (tmp_path / "lock.json.claim").write_text(json.dumps(dead))
    (tmp_path / "lock.json.123-abc.partial").write_text("")
    with lock:
        assert not (tmp_path / "lock.json.claim").exists()


def test_a_holder_elsewhere_without_a_beat_loses_it(tmp_path):
    lock = written(tmp_path, machine="another", host="elsewhere")
    began = time.monotonic()
    lines = []
    lock.acquire(say=lines.append)
    assert time.monotonic() - began >= 0.3 and "waiting" in lines[0]
    lock.release()


def test_a_holder_elsewhere_with_a_beat_keeps_it(tmp_path):
    lock = written(tmp_path, machine="another", host="elsewhere", job="17")
    lock.stale = 60.0
    beat = threading.Timer(0.3, lambda: os.utime(lock.path))
    beat.start()
    with pytest.raises(HeldError, match=r"on elsewhere \(Slurm job 17\)"):
        lock.acquire(say=lambda line: None)
    beat.join()


def test_one_that_is_leaving_is_waited_for(tmp_path):
    first, second = FolderLock(tmp_path, "training"), FolderLock(tmp_path, "training")
    first.acquire()
    first.stopping()
    free = threading.Timer(0.3, first.release)
    free.start()
    second.acquire(say=lambda line: None)
    free.join()
    assert json.loads(second.path.read_text())["token"] == second.holder.token
    second.release()


def test_who_waits_can_be_asked_to_stop(tmp_path):
    with FolderLock(tmp_path, "training") as first:
        first.stopping()
        assert not FolderLock(tmp_path, "training").acquire(say=lambda line: None, give_up=lambda: True)


def test_who_stood_still_learns_that_the_folder_is_lost(tmp_path):
    lost = threading.Event()
    lock = FolderLock(tmp_path, "training", on_lost=lost.set, beat=0.02)
    lock.acquire()
    written(tmp_path)  # another one took it over meanwhile
    assert lost.wait(20)
    with pytest.raises(LostError, match="taken over by another process"):
        lock.check()
    lock.release()
    assert json.loads(lock.path.read_text())["token"] == "other", "the other's lock is left alone"


def test_of_many_at_once_one_gets_it(tmp_path):
    """Also from a dead holder, where the file has to be replaced."""
    written(tmp_path, pid=ended_process())
    outcomes, start = [], threading.Barrier(8)

    def want():
        lock = FolderLock(tmp_path, "training", patience=0.3)
        start.wait()
        try:
            lock.acquire(say=lambda line: None)
        except HeldError:
            outcomes.append(None)
        else:
            outcomes.append(lock)

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    holders = [lock for lock in outcomes if lock]
    assert len(outcomes) == 8 and len(holders) == 1
    holders[0].release()
    assert list(tmp_path.iterdir()) == []


def test_killed_processes_leave_nothing_in_the_way(tmp_path):
    """SIGKILL while it is held: the next one has it at once, though no beat was missed."""
    code = """if True:
        import sys, time
        from editcaption_mega.lock import FolderLock
        FolderLock(sys.argv[1], "training").acquire()
        print("held", flush=True)
        time.sleep(600)
    """
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with FolderLock(tmp_path, "training"):
        pass


@settings(max_examples=25, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=40),
        st.dictionaries(
            st.sampled_from([field.name for field in dataclasses.fields(Holder)]),
            st.one_of(st.none(), st.integers(), st.text(max_size=5), st.booleans()),
        ).map(lambda values: json.dumps(values).encode()),
    )
)
def test_any_content_of_the_file_is_a_holder_or_none(content):
    holder = Holder.parse(content)
    assert holder is None or isinstance(holder.pid, int)
