"""Captions by several processes of one job: every pair once, and none lives on when the job or another one ends."""

import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from editcaption_mega.curation.captions.caption import caption, counts
from editcaption_mega.curation.columns import ColumnFile
from editcaption_mega.curation.divided_work import WorkerError
from editcaption_mega.curation.scores.model_scores import score_with_model, scored_counts
from editcaption_mega.inference.endpoint.client import EndpointError
from editcaption_mega.progress import no_progress
from editcaption_mega.settings import EndpointSettings, ScoreSettings, ServerSettings, SettingsError
from tests.helpers import ROOT
from tests.helpers.caption_worker import settings_of
from tests.helpers.pool import write_pool
from tests.helpers.scripted_server import ScriptedServer, pictures, say_pictures
from tests.inference.serving.test_server import SERVE, descendants, wait_until_gone

PAIRS, IN_FLIGHT = 40, 4


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return write_pool(tmp_path_factory.mktemp("pool") / "shards", PAIRS, instruction="Add a cup on the table.")


def scripted(**values):
    return ScriptedServer(reply=say_pictures, asked=pictures, **values)


def settings(pool, output, url, workers):
    settings = settings_of(str(pool.directories[0]), url, str(output), 1, IN_FLIGHT)
    return replace(settings, workers=workers)


def after(number, do):
    def progress(items, *_):
        for count, item in enumerate(items, start=1):
            yield item
            if count == number:
                do()

    return progress


def test_workers_make_what_one_process_makes(pool, tmp_path):
    with scripted(latency=0.01) as server:
        whole, meter = caption(settings(pool, tmp_path / "two.jsonl", server.url, 2), pool, progress=no_progress)
        assert whole and meter.made == PAIRS and set(server.counts.values()) == {1}
        assert server.most_in_flight <= IN_FLIGHT and "4,000 + 800 tokens" in str(meter)
        whole, meter = caption(settings(pool, tmp_path / "two.jsonl", server.url, 3), pool, progress=no_progress)
        assert whole and meter.made == 0 and server.calls == PAIRS
        caption(settings(pool, tmp_path / "one.jsonl", server.url, 1), pool, progress=no_progress)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_a_worker_that_is_killed_ends_the_job_and_the_same_command_goes_on(pool, tmp_path):
    path = tmp_path / "captions.jsonl"

    def kill():
        multiprocessing.active_children()[0].kill()

    with scripted(latency=0.05) as server:
        with pytest.raises(WorkerError, match="was ended by signal 9; what was made is kept"):
            caption(settings(pool, path, server.url, 2), pool, progress=after(5, kill))
        assert not multiprocessing.active_children() and not path.exists()
        whole, meter = caption(settings(pool, path, server.url, 2), pool, progress=no_progress)
        assert whole and 0 < meter.made < PAIRS and server.calls <= PAIRS + IN_FLIGHT
    assert counts(path).made == PAIRS


def test_what_stops_a_worker_stops_the_job_with_its_words(pool, tmp_path):
    with (
        scripted(script=lambda call, of_pair: "401") as server,
        pytest.raises(EndpointError, match="can't be used for m: HTTP 401"),
    ):
        caption(settings(pool, tmp_path / "captions.jsonl", server.url, 2), pool, progress=no_progress)


@pytest.mark.slow
def test_a_killed_job_leaves_no_worker(pool, tmp_path):
    with scripted(latency=0.2) as server:
        command = [sys.executable, "-m", "tests.helpers.caption_worker", str(pool.directories[0]), server.url]
        command += [str(tmp_path / "captions.jsonl"), "1", str(IN_FLIGHT), "2"]
        job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        job.stdout.readline()
        workers = descendants(job.pid)
        assert len(workers) >= 2
        job.send_signal(signal.SIGKILL)
        job.wait()
        wait_until_gone(workers)
        whole, meter = caption(settings(pool, tmp_path / "captions.jsonl", server.url, 2), pool, progress=no_progress)
        assert whole and meter.made < PAIRS and server.calls <= PAIRS + IN_FLIGHT


@pytest.mark.slow
def test_workers_share_the_server_of_the_job_also_when_it_dies(pool, tmp_path):
    path = tmp_path / "captions.jsonl"
    command = f"{SERVE} --latency 0.2 --reply tests.helpers.scripted_server:say_pictures"
    server = ServerSettings(program="custom", model="m", command=command)
    endpoint = EndpointSettings(max_concurrency=IN_FLIGHT, max_attempts=2)
    how = replace(settings(pool, path, "", 2), server=server, endpoint=endpoint)

    def kill_server():
        pids = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
        mine = set(descendants(os.getpid()))
        served = [int(line.split()[0]) for line in pids.splitlines() if "scripted_server --port" in line]
        os.kill(max(mine & set(served)), signal.SIGKILL)

    whole, meter = caption(how, pool, progress=after(10, kill_server))
    assert whole and meter.made == PAIRS and counts(path).made == PAIRS
    log = (tmp_path / "captions.made/all/server.log").read_text()
    assert log.count("--- ") == 2, "one server for all, started once again"


def test_scores_take_workers_too(pool, tmp_path):
    reply = '{"reasoning": "fine", "score": [7, 8]}'
    with ScriptedServer(reply=lambda body: reply, asked=pictures) as server:
        endpoint = EndpointSettings(url=server.url, model="m", max_concurrency=IN_FLIGHT)
        how = ScoreSettings(
            shards=[str(pool.directories[0])], output=str(tmp_path / "scores.jsonl"), endpoint=endpoint, workers=2,
            min_pixels=1024,
        )  # fmt: skip
        whole, meter = score_with_model(how, pool, progress=no_progress)
        assert whole and meter.made == PAIRS and set(server.counts.values()) == {1}
    assert scored_counts(tmp_path / "scores.jsonl") == (PAIRS, {})
    assert [row["id"] for (row,) in ColumnFile(tmp_path / "scores.jsonl", pool)] == pool.ids


def test_workers_that_cannot_be(pool, tmp_path):
    how = settings(pool, tmp_path / "captions.jsonl", "http://127.0.0.1:1/v1", IN_FLIGHT + 1)
    with pytest.raises(SettingsError, match=r"workers=5 share endpoint.max_concurrency=4 requests in flight"):
        how.validate()
    with pytest.raises(SettingsError, match="workers=0"):
        replace(how, workers=0).validate()
    with pytest.raises(SettingsError, match="with folder there is none to share"):
        replace(how, workers=2, endpoint=EndpointSettings(), folder="models/m").validate()
