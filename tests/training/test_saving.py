"""Saving on disks that fill up, and resuming from what a disk has changed: by whole jobs."""

import errno
import json
import random
import resource
import shutil
import subprocess
import sys

import pytest
import torch

from editcaption_mega.conversion import DamagedCheckpointError, StoreReader, store
from editcaption_mega.settings import save_settings
from editcaption_mega.training import run_sft
from editcaption_mega.training.line_file import LineFile
from editcaption_mega.training.metrics import RunLog
from editcaption_mega.training.resume import resume_point
from tests.helpers import ROOT, small_job, small_store

LAUNCH = ROOT / "launch/pretrain_sft.sh"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("saving")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards", 8)
    return root


def job(base, output, **checkpoint):
    settings = small_job.job(base / "model", base / "shards", output, steps=6, global_batch_size=4)
    settings.checkpoint.every = 2
    for name, value in checkpoint.items():
        setattr(settings.checkpoint, name, value)
    return settings


def losses(output):
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [(row["loss"], row["grad_norm"]) for row in rows]


def names(output):
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def test_a_full_disk_stops_training_only_at_the_end(base, monkeypatch):
    """Saves at steps 2 and 6 fail: 2 is passed with a loud line, 6 ends the job; nothing half-written is left."""
    output, write, calls = base / "full", store.write_tensors, []

    def write_tensors(path, tensors, metadata=None):
        calls.append(path.parent.name)
        if calls[-1].startswith(("step_00000002", "step_00000006")):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, tensors, metadata)

    monkeypatch.setattr(store, "write_tensors", write_tensors)
    with pytest.raises(OSError, match="No space left on device.*rank00000-0000.safetensors"):
        run_sft(job(base, output))
    assert names(output) == ["step_00000004"] and len(losses(output)) == 6
    log = (output / "log.txt").read_text()
    assert log.count("WARNING: NO CHECKPOINT") == 1
    assert "the checkpoint of step 2 was not written" in log and "tries again after 2 steps" in log
    monkeypatch.undo()
    before = losses(output)
    run_sft(job(base, output))
    assert names(output) == ["step_00000004", "step_00000006"] and losses(output) == before

    # And from what a bit of the newest one has changed since: refused, or the one before it when asked.
    path = output / "checkpoints/step_00000006/rank00000-0000.safetensors"
    small_store.flip(path, 8 * path.stat().st_size - 1000)
    with pytest.raises(DamagedCheckpointError, match="step_00000006/rank00000-0000.safetensors is damaged"):
        run_sft(job(base, output))
    run_sft(job(base, output, fallback=True))
    assert names(output) == ["step_00000004", "step_00000006", "step_00000006.damaged"] and losses(output) == before
    start = job(base, base / "from")
    start.model.checkpoint = str(output / "checkpoints/step_00000006.damaged")
    with pytest.raises(DamagedCheckpointError, match="step_00000006.damaged/rank00000-0000.safetensors is damaged"):
        run_sft(start)


def test_training_is_the_same_to_the_bit_with_checkpoints_beside_it(base):
    """Losses and the last checkpoint's tensors; resumed in the middle from one that was written beside a step."""
    run_sft(job(base, base / "standing", asynchronous=False))
    beside = job(base, base / "beside")
    beside.training.stop_after = 4
    run_sft(beside)
    shutil.rmtree(base / "beside/checkpoints/step_00000004")  # as if it had been killed while it wrote that
    beside.training.stop_after = 0
    run_sft(beside)
    assert losses(base / "beside") == losses(base / "standing")
    one, other = (StoreReader(base / name / "checkpoints/step_00000006") for name in ("standing", "beside"))
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.read(key), other.read(key)) for key in one.tensors)
    said = (base / "beside/log.txt").read_text()
    assert "step_00000002, written in" in said and "resumed after step 2" in said
    standing = (base / "standing/log.txt").read_text()
    assert "written in" not in standing and "checkpoint saved: " in standing


def test_a_start_on_the_same_node_reads_what_the_node_has(base, tmp_path, capsys):
    """The files of the checkpoint are damaged meanwhile, which nobody notices who reads the copies."""
    start = job(base, tmp_path / "run", local_folder=str(tmp_path / "disk"))
    start.training.stop_after = 4
    run_sft(start)
    (copy,) = (tmp_path / "disk").glob("*/rank00000-*.safetensors")
    (file,) = (tmp_path / "run/checkpoints/step_00000004").glob("rank00000-*.safetensors")
    assert copy.read_bytes() == file.read_bytes()
    small_store.flip(file, 8 * file.stat().st_size - 9)
    start.training.stop_after = 0
    start.checkpoint.local_folder = None
    with pytest.raises(DamagedCheckpointError, match="sha256"):
        run_sft(start)
    start.checkpoint.local_folder = str(tmp_path / "disk")
    run_sft(start)
    assert "are read from copies on the nodes" in capsys.readouterr().out
    run_sft(job(base, tmp_path / "without"))
    assert losses(tmp_path / "run") == losses(tmp_path / "without")


def test_lines_that_a_full_disk_refuses_are_kept(tmp_path, capsys):
    """With the kernel's own limit on the size of a file: the third line stops in the middle."""
    lines = [f"line {i} " + "x" * 90 for i in range(5)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = LineFile(tmp_path / "lines.txt")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (250, limits[1]))
        for line in lines[:4]:
            file.write(line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capsys.readouterr().err.count("WARNING") == 1 and (tmp_path / "lines.txt").stat().st_size == 250
    file.write(lines[4])
    file.close()
    assert (tmp_path / "lines.txt").read_text().splitlines() == lines


def test_metrics_that_were_damaged_are_dropped_with_a_line(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    rows = [
        '{"step": 1}',
        '{"step": "2"}',
        "[3]",
        "null",
        "{}",
        '{"step": true}',
        '{"step": NaN}',
        '{"step": 2}',
        '{"step": 3}',
    ]
    path.write_bytes("\n".join(rows).encode() + b'\n\xff\n{"ste')
    RunLog(tmp_path, first_step=2, total_steps=9, log_every=1).close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert "metrics.jsonl: 7 damaged line(s) dropped" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.txt", "metrics.jsonl"]


@pytest.mark.slow
def test_two_hundred_flipped_bits_of_a_real_checkpoint(base):
    """Over weights, moments, random state, state, manifest and side files: 200 noticed, with the file named."""
    output = base / "flips"
    run_sft(job(base, output))
    whole = output / "checkpoints/step_00000006"
    before = output / "checkpoints/step_00000004"
    files = sorted(path for path in whole.rglob("*") if path.is_file())
    dice, trials = random.Random(5), 200
    for trial in range(trials):
        # Half of them in the tensors, which are most of the bytes, the others over all files.
        path = files[trial // 2 % len(files)] if trial % 2 else max(files, key=lambda path: path.stat().st_size)
        position = dice.randrange(8 * path.stat().st_size)
        small_store.flip(path, position)
        with pytest.raises(DamagedCheckpointError) as error:
            resume_point(output, lambda folder, state: None, verify=True, fallback=False)
        assert str(path) in str(error.value), (trial, path)
        folder, _ = resume_point(output, lambda folder, state: None, verify=True, fallback=True)
        assert folder == before
        aside = whole.with_name(whole.name + ".damaged")
        aside.rename(whole)
        small_store.flip(path, position)
    assert resume_point(output, lambda folder, state: None, verify=True, fallback=False)[0] == whole
    shutil.rmtree(output)


@pytest.fixture
def small_disk(tmp_path):
    """mount(KiB) -> a folder on a file system of that size; again for another size. Skipped where one can't mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(kibibytes):
        options = f"{'remount,' if mounted else ''}size={kibibytes}k"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("mounting a tmpfs needs root")
        mounted.append(folder)
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("room, left", [(0.5, []), (1.5, ["step_00000002"])])
def test_a_disk_that_is_full(base, small_disk, tmp_path, ranks, room, left):
    """By the real commands: one sentence with the file and the reason, exit 1, and nothing half-written. With more room
    the same command ends the run."""
    output = small_disk(int(room * 4400)) / "run"
    settings = job(base, output, keep=1)
    settings.training.steps = 4
    save_settings(settings, tmp_path / "job.yaml")
    command = [sys.executable, str(LAUNCH), str(tmp_path / "job.yaml")]
    if ranks > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]

    def run():
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)

    done = run()
    assert done.returncode == 1, done.stdout
    said = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "No space left on device" in said[0] and "step_00000004.partial/rank0" in said[0]
    assert "the checkpoint of step 4 was not written" in said[0] and "make room" in said[0]
    assert ("WARNING: NO CHECKPOINT" in done.stdout) == (not left)
    assert names(output) == left and len(losses(output)) == 4
    small_disk(20_000)
    again = run()
    assert again.returncode == 0, again.stdout
    assert names(output) == ["step_00000004"]
