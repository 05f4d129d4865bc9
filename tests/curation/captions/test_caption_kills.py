"""Captions killed at random points: none lost, none asked twice beyond those in flight; and their rate and memory."""

import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

from editcaption_mega.curation.captions.caption import caption
from editcaption_mega.curation.columns import ColumnFile
from editcaption_mega.progress import no_progress
from tests.helpers import ROOT
from tests.helpers.caption_worker import settings_of
from tests.helpers.pool import write_pool
from tests.helpers.scripted_server import server_process

CONCURRENCY = 8
SAY = ("--reply", "tests.helpers.scripted_server:say_pictures", "--asked", "tests.helpers.scripted_server:pictures")


def killed_and_resumed(tmp_path, kills, pairs, seed):
    generator = random.Random(seed)
    pool, output = write_pool(tmp_path / "shards", pairs), tmp_path / "captions.jsonl"
    calls_when_kept = {}
    with server_process("--latency", "0.02", *SAY) as server:
        command = [sys.executable, "-m", "tests.helpers.caption_worker", str(tmp_path / "shards"), server.url]
        command += [str(output), "1", str(CONCURRENCY)]
        for kill in range(kills):
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            # Some kills fall into the start, most somewhere into new captions.
            lines = generator.randrange(2 * pairs // kills) if kill % 5 else 0
            for _ in zip(range(lines), process.stdout, strict=False):
                pass
            time.sleep(generator.random() * 0.05)
            process.send_signal(signal.SIGKILL)
            process.stdout.read()
            process.wait()
            if kill % 10 == 9:
                kept = (tmp_path / "captions.made/all/lines.jsonl").read_text().count('"again": false')
                calls_when_kept[kill] = (kept, sum(server.counts().values()))
        assert subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode == 0
        counts = server.counts()
    rows = [row for (row,) in ColumnFile(output, pool)]
    assert [row["id"] for row in rows] == pool.ids and len({row["instruction"] for row in rows}) == pairs
    asked_again = sum(counts.values()) - pairs
    assert len(counts) == pairs and asked_again <= kills * CONCURRENCY
    assert all(kept >= calls - (kill + 1) * CONCURRENCY * 2 for kill, (kept, calls) in calls_when_kept.items())
    return asked_again


@pytest.mark.slow
def test_two_kills(tmp_path):
    killed_and_resumed(tmp_path, kills=2, pairs=100, seed=1)


@pytest.mark.slow
def test_fifty_kills(tmp_path):
    again = killed_and_resumed(tmp_path, kills=50, pairs=5000, seed=2)
    print(f"50 kills: none of 5,000 lost, {again} asked again")


@pytest.mark.slow
def test_fifty_thousand_captions_hold_their_rate_and_memory(tmp_path):
    """The rate is printed: it is the machine's. Memory is not: it must not grow with what was made."""
    count, concurrency, latency = 50_000, 256, 0.05
    pool = write_pool(tmp_path / "shards", count, side=96)
    memory = []

    def measuring(items, *_):
        for number, item in enumerate(items, start=1):
            yield item
            if number % (count // 10) == 0:
                memory.append(psutil.Process().memory_info().rss)

    with server_process("--latency", str(latency), *SAY) as server:
        settings = settings_of(str(tmp_path / "shards"), server.url, str(tmp_path / "captions.jsonl"), 1, concurrency)
        processor = time.process_time()
        begin = time.monotonic()
        whole, meter = caption(settings, pool, progress=measuring)
        seconds, processor = time.monotonic() - begin, time.process_time() - processor
        assert whole and set(server.counts().values()) == {1} and meter.usage.by_status == {"ok": count}
    ideal = concurrency / latency
    rate, grown = count / seconds, (memory[-1] - memory[1]) / 2**20
    print(
        f"{rate:.0f} captions/s of {ideal:.0f} ({rate / ideal:.0%}), {processor / count * 1e3:.3f} ms of processor each"
    )
    print(f"RSS {memory[1] / 2**20:.0f} MiB after a fifth, {grown:+.0f} MiB at the end")
    assert memory[-1] - memory[1] < 40 << 20
    caption(settings, pool, progress=no_progress)
