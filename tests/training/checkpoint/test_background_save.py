"""Checkpoints written beside the steps: nothing of them differs, none overlaps another, and errors reach every rank."""

import errno
import threading

import pytest
import torch

from editcaption_mega import platform
from editcaption_mega.conversion import LocalCopies, StoreReader, store
from editcaption_mega.conversion.checkpoint_folders import checkpoints
from editcaption_mega.data.text.side_files import SideFiles
from editcaption_mega.lock import LostError
from editcaption_mega.settings import CheckpointSettings, OptimizerSettings
from editcaption_mega.training.checkpoint import CheckpointFolder, CheckpointSaver, save_checkpoint, stored_ranges
from editcaption_mega.training.megatron_optimizer import begin_state
from tests.helpers import tiny
from tests.helpers.ranks import on_ranks
from tests.helpers.train_state import train_state


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    tiny.hf_model(experts=False, layers=2).save_pretrained(folder)
    return folder


class Run:
    """A small model with its optimizer, and what saves it; lines of the log are kept."""

    def __init__(self, model, output, **settings):
        self.output, self.lines = output, []
        self.state, self.param_shards = train_state(model, OptimizerSettings())
        begin_state(self.state.optimizer, 1)
        self.set(0.0)
        options = CheckpointSettings(retry_seconds=0.01, **settings)
        self.saver = CheckpointSaver(
            options, self.param_shards, self.state.optimizer, published=0, say=self.lines.append
        )

    def set(self, value):
        """What a step does: everything that a checkpoint holds has another value."""
        with torch.no_grad():
            for stored in stored_ranges(self.param_shards, self.state.optimizer):
                if not stored.key.startswith("random"):
                    stored.values.fill_(value)

    def folder(self, step, **options):
        return CheckpointFolder(self.output, {"step": step, "updates": step}, SideFiles("", {}), {}, **options)

    def steps(self):
        return [int(folder.name[5:]) for folder in checkpoints(self.output)]

    def left(self):
        return [path.name for path in (self.output / "checkpoints").iterdir() if "partial" in path.name]


@pytest.fixture
def run(model, tmp_path):
    runs = []

    def make(**settings):
        runs.append(Run(model, tmp_path / "run", **settings))
        return runs[-1]

    yield make
    platform.destroy()


@pytest.fixture
def gate(monkeypatch):
    """Writers wait for it."""
    gate, write = threading.Event(), store.write_tensors

    def write_tensors(path, tensors, metadata=None):
        assert gate.wait(60)
        return write(path, tensors, metadata)

    monkeypatch.setattr(store, "write_tensors", write_tensors)
    return gate


def values_of(folder):
    reader = StoreReader(folder)
    return {key: reader.read(key) for key in reader.tensors}


def test_what_is_written_is_the_state_of_its_moment(run, gate, tmp_path):
    """Steps change everything while it is written; the next one waits, and has its own values."""
    job = run()
    job.set(1.0)
    job.saver.begin(job.folder(1), required=False)
    job.set(2.0)
    assert job.steps() == [] and job.saver._thread is not None  # it stands at the gate
    threading.Timer(0.3, gate.set).start()
    job.saver.begin(job.folder(2), required=False)  # returns when the first is published, and begins the second
    assert job.steps()[:1] == [1]
    assert job.saver.newest() == 2 and job.steps() == [1, 2] and job.left() == []
    for step, folder in zip((1.0, 2.0), checkpoints(job.output), strict=True):
        values = values_of(folder)
        assert all((value == step).all() for key, value in values.items() if not key.startswith("random"))
        assert sum(key.startswith("exp_avg/") for key in values) > 10
    job.output = tmp_path / "blocking"
    save_checkpoint(job.folder(2), job.param_shards, job.state.optimizer)
    blocking, beside = values_of(checkpoints(job.output)[0]), values_of(folder)
    assert blocking.keys() == beside.keys() and all(torch.equal(blocking[key], beside[key]) for key in blocking)
    assert any(line.startswith("checkpoint saved: ") and "step_00000002, written in" in line for line in job.lines)


def test_the_copies_take_the_same_memory_each_time(run):
    job = run(keep=1)
    for step in (1, 2):
        job.saver.begin(job.folder(step), required=True)
        job.saver.settle()
        memory = job.saver._buffer._memory.data_ptr(), job.saver._buffer.nbytes
    job.saver.begin(job.folder(3), required=True)
    job.saver.settle()
    assert memory == (job.saver._buffer._memory.data_ptr(), job.saver._buffer.nbytes) and job.steps() == [3]
    stored = sum(stored.values.nbytes for stored in stored_ranges(job.param_shards, job.state.optimizer))
    assert stored <= memory[1] <= stored + 64 * 1000


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_file_system_that_is_away_for_a_while(run, monkeypatch, asynchronous):
    """Two tries fail, each says so; the third writes. When all fail the run goes on, unless it was the last."""
    job = run(asynchronous=asynchronous, retries=2)
    failing, write = [5, 5], store.write_tensors

    def write_tensors(path, tensors, metadata=None):
        if failing and failing.pop():
            path.write_bytes(b"half")
            raise OSError(errno.EIO, "Input/output error", str(path))
        return write(path, tensors, metadata)

    monkeypatch.setattr(store, "write_tensors", write_tensors)
    job.saver.begin(job.folder(1), required=False)
    assert job.saver.newest() == 1 and job.steps() == [1] and job.left() == []
    assert [line.rpartition("; ")[2] for line in job.lines if "Input/output error" in line] == [
        "trying again in 0.01 s (1 of 2)",
        "trying again in 0.02 s (2 of 2)",
    ]
    failing += [1, 1, 1]
    job.saver.begin(job.folder(2), required=False)
    assert job.saver.newest() == 1 and job.steps() == [1] and job.left() == []
    assert sum("WARNING: NO CHECKPOINT" in line for line in job.lines) == 1
    failing += [1, 1, 1]
    with pytest.raises(OSError, match="Input/output error, so the checkpoint of step 3 was not written"):
        job.saver.begin(job.folder(3), required=True)
        job.saver.settle()
    assert job.steps() == [1]
    job.saver.begin(job.folder(4), required=True)
    assert job.saver.newest() == 4


def test_a_folder_that_another_job_has_taken_is_not_published_to(run):
    job = run()

    def lost():
        raise LostError("taken over")

    job.saver.begin(job.folder(1, may_publish=lost), required=False)
    with pytest.raises(LostError):
        job.saver.settle()
    assert job.steps() == [] and job.left() == []


def test_those_of_every_so_many_steps_stay(run):
    job = run(every=1, keep=2, keep_every=3)
    for step in range(1, 9):
        job.saver.begin(job.folder(step), required=False)
    assert job.saver.newest() == 8 and job.steps() == [3, 6, 7, 8]


def fail_on_one(rank, model, output):
    """Rank 1's disk is full for the first save: both are told so by one sentence, and the next one is whole."""
    job = Run(model, output, retries=0)
    write = store.write_tensors

    def full(path, tensors, metadata=None):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    if rank == 1:
        store.write_tensors = full
    job.saver.begin(job.folder(1), required=True)
    try:
        job.saver.settle()
        said = None
    except OSError as error:
        said = str(error)
    store.write_tensors = write
    steps = job.steps()
    job.saver.begin(job.folder(2), required=False)
    for _ in range(20):  # what steps do: ranks talk while the checkpoint is written
        platform.gather(rank)
    return said, steps, job.saver.newest(), job.steps(), job.lines


def test_an_error_of_one_rank_is_raised_by_all(model, tmp_path):
    first, second = on_ranks(fail_on_one, tmp_path, model, tmp_path / "run")
    assert first[:4] == second[:4] and first[1:4] == ([], 2, [2])
    assert "No space left on device (rank 1 on" in first[0] and "checkpoint of step 1 was not written" in first[0]
    assert first[4] and not second[4], "rank 0 alone has the log"


def test_copies_on_the_nodes_disk_that_cannot_be_written_are_said(run, tmp_path):
    job = run()
    (tmp_path / "disk").write_text("a file where a folder should be")
    job.saver.local = LocalCopies(tmp_path / "disk", job.output, [1])
    job.saver.begin(job.folder(1), required=True)
    job.saver.settle()
    assert job.steps() == [1]
    start = "WARNING: no copies on the nodes' disks of the files of 1 rank (checkpoint.local_folder): "
    (line,) = (line for line in job.lines if line.startswith(start))
    assert line.startswith(f"{start}{tmp_path / 'disk'}/") and ": Not a directory; a start there reads" in line
