"""Killed at random points, run again: the same replies, and no call repeated beyond those in flight at the kills."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from editcaption_mega.inference.endpoint.client import read_calls
from tests.helpers import ROOT
from tests.helpers.scripted_server import server_process

CONCURRENCY = 8


def worker(url, folder, output, prefix, count):
    command = [sys.executable, "-m", "tests.helpers.client_worker", url, str(folder), str(output), prefix, str(count)]
    return subprocess.Popen([*command, str(CONCURRENCY)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def killed_and_resumed(tmp_path, kills, count, seed):
    generator = random.Random(seed)
    calls_when_handed_on = {}
    with server_process("--latency", "0.02") as server:
        for _ in range(kills):
            process = worker(server.url, tmp_path / "cache", tmp_path / "out.json", "", count)
            # Some kills fall into the start or into what is kept, most somewhere into new replies.
            lines, handed_on = len(calls_when_handed_on) + generator.randrange(count // kills), set()
            lines = generator.choice([-1, lines // 2, lines, lines, lines])
            for line in process.stdout if lines >= 0 else ():
                handed_on.add(line.strip())
                lines -= 1
                if lines < 0:
                    break
            time.sleep(generator.random() * (0.03 if handed_on else 0.3))
            process.send_signal(signal.SIGKILL)
            handed_on.update(line.strip() for line in process.stdout if line.endswith("\n"))
            process.wait()
            counts = server.counts()
            for name in handed_on:
                calls_when_handed_on.setdefault(name, counts[f"prompt {name}"])
        assert worker(server.url, tmp_path / "cache", tmp_path / "out.json", "", count).wait() == 0
        counts = server.counts()
    replies = json.loads((tmp_path / "out.json").read_text())
    assert {name: reply["text"] for name, reply in replies.items()} == {
        str(i): f"reply to prompt {i}" for i in range(count)
    }
    assert len(counts) == count and sum(counts.values()) - count <= kills * CONCURRENCY
    assert len(calls_when_handed_on) > count / 10
    for name, calls in calls_when_handed_on.items():
        assert counts[f"prompt {name}"] == calls, "what was handed on is never asked again"
    assert sum(reply["cached"] for reply in replies.values()) >= len(calls_when_handed_on)
    assert {call["id"] for call in read_calls(tmp_path / "cache")} == set(replies)


def test_five_kills(tmp_path):
    killed_and_resumed(tmp_path, kills=5, count=300, seed=1)


@pytest.mark.slow
def test_fifty_kills(tmp_path):
    killed_and_resumed(tmp_path, kills=50, count=4000, seed=2)


def test_two_processes_share_a_cache(tmp_path):
    with server_process() as server:
        both = [worker(server.url, tmp_path / "cache", tmp_path / f"{name}.json", name, 400) for name in "ab"]
        for process in both:
            process.communicate()
        assert [process.returncode for process in both] == [0, 0]
        assert set(server.counts().values()) == {1}
        again = worker(server.url, tmp_path / "cache", tmp_path / "again.json", "a", 400)
        again.communicate()
        assert set(server.counts().values()) == {1}, "all of it is kept"
    assert all(reply["cached"] for reply in json.loads((tmp_path / "again.json").read_text()).values())
    assert len(list(read_calls(tmp_path / "cache"))) == 800
