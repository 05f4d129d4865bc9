"""launch/caption.sh on a real Slurm: an array of four tasks, each with its own `transformers serve`."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import yaml

from editcaption_mega.curation.columns import ColumnFile
from editcaption_mega.data import open_shards
from tests.helpers import small_job
from tests.helpers.real_slurm import RealSlurm, why_not

PAIRS, TASKS, SECONDS = 40, 4, 1200


def kept(part: Path) -> int:
    lines = part / "lines.jsonl"
    return lines.read_bytes().count(b"\n") if lines.is_file() else 0


def server_of(part: Path) -> int:
    """The server's own process, by the port that its log names last."""
    port = re.findall(r"--port (\d+)", (part / "server.log").read_text())[-1]
    for name in os.listdir("/proc"):
        if name.isdigit() and "guard.py" not in (words := command_of(name)) and f"--port {port}" in words:
            return int(name)
    raise AssertionError(f"nobody serves at port {port}")


def command_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_an_array_whose_tasks_serve_themselves_asks_about_every_pair_once(tmp_path):
    model = small_job.write_folder(tmp_path / "model")
    pool = open_shards(small_job.write_shards(tmp_path / "shards", count=PAIRS))
    output = tmp_path / "captions.jsonl"
    config = {
        "shards": [str(tmp_path / "shards")], "output": str(output), "shards_output": str(tmp_path / "captioned"),
        "server": {"program": "transformers", "model": str(model)}, "endpoint": {"max_concurrency": 1},
        "generation": {"max_tokens": 48, "min_pixels": 1024},
    }  # fmt: skip
    (tmp_path / "caption.yaml").write_text(yaml.safe_dump(config))
    parts = [tmp_path / "captions.made" / f"part-{k:03d}-of-{TASKS:03d}" for k in range(TASKS)]
    with RealSlurm(tmp_path / "slurm" / "lab", nodes=2) as slurm:

        def wait_for(what, name):
            return slurm.wait_for(what, SECONDS, name)

        log = ["--output", tmp_path / "task-%a.txt"]
        job = slurm.submit(f"--array=0-{TASKS - 1}", *log, "launch/caption.sh", tmp_path / "caption.yaml")
        try:
            wait_for(lambda: kept(parts[1]), "the first caption of task 1")
            slurm.run("scontrol", "requeue", f"{job.number}_1")
            before_requeue = kept(parts[1])
            wait_for(lambda: kept(parts[2]), "the first caption of task 2")
            os.kill(server_of(parts[2]), signal.SIGKILL)
            before_death = kept(parts[2])
            time.sleep(5.0)
            slurm.run("scontrol", "update", f"JobId={job.number}_1", "StartTime=now")
            wait_for(lambda: output.is_file() and (tmp_path / "captioned/index.json").is_file(), "the merged file")
            wait_for(lambda: not slurm.run("squeue", "-h", "-j", job.number).strip(), "the end of all tasks")
        finally:
            said = {path.name: path.read_text()[-1500:] for path in sorted(tmp_path.glob("task-*.txt"))}
            print(json.dumps(said, indent=1))
    rows = [row for (row,) in ColumnFile(output, pool)]
    assert [row["id"] for row in rows] == pool.ids and not [row for row in rows if "status" not in row]
    lines = [json.loads(line) for part in parts for line in (part / "lines.jsonl").read_text().splitlines()]
    assert sorted(line["at"] for line in lines) == list(range(PAIRS)), "every pair once"
    starts = [(part / "server.log").read_text().count(": /") for part in parts]
    assert starts[1] >= 2 and starts[2] >= 2, starts
    calls = [json.loads(line) for part in parts for line in (part / "cache/calls.jsonl").read_text().splitlines()]
    answered = [call["id"] for call in calls if call["status"] in ("ok", "truncated")]
    assert len(set(answered)) == PAIRS and len(answered) <= PAIRS + 2, "nothing twice but what was in flight"
    assert before_requeue < PAIRS / TASKS or before_death < PAIRS / TASKS, "neither was at its end"
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and str(model) in command_of(pid)]
    with open_shards(tmp_path / "captioned") as captioned:
        assert len(captioned) == sum("instruction" in row for row in rows)
