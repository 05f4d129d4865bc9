"""A server of the job's own: asked when it is healthy, started again when it dies, gone with whoever started it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from editcaption_mega.inference.serving.programs import PROGRAMS, command_line, gpu_count, program_of
from editcaption_mega.inference.serving.server import OwnServer, ServerError
from editcaption_mega.settings import ServerSettings, SettingsError
from tests.helpers import ROOT

SERVE = f"env PYTHONPATH={ROOT} {sys.executable} -m tests.helpers.scripted_server --port {{port}}"


def custom(command=SERVE, **values):
    return ServerSettings(program="custom", model="m", command=command, **values)


def lives(pid):
    """Not as a zombie either."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids, seconds=30):
    until = time.monotonic() + seconds
    while any(map(lives, pids)):
        assert time.monotonic() < until, f"{[pid for pid in pids if lives(pid)]} live on"
        time.sleep(0.05)


def descendants(pid):
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children = {}
    for line in listed.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


def server_pids(server):
    return [server._process.pid, *descendants(server._process.pid)]


def test_it_is_healthy_when_its_address_is_known_and_gone_with_the_block(tmp_path):
    said = []
    with OwnServer(custom(), tmp_path / "server.log", say=said.append) as server:
        url = server.url()
        assert server.is_healthy() and server.url() == url and server.starts == 1
        pids = server_pids(server)
        assert len(pids) >= 2
    wait_until_gone(pids)
    assert len(said) == 1 and said[0].startswith("server: healthy after ") and url in said[0]
    assert f"--port {url.split(':')[2].removesuffix('/v1')}" in (tmp_path / "server.log").read_text()


def test_a_dead_one_is_started_again_so_often_and_not_more(tmp_path):
    said = []
    with OwnServer(custom(restarts=1), tmp_path / "server.log", say=said.append) as server:
        server.url()
        for start in (2, 3):
            os.kill(descendants(server._process.pid)[0], signal.SIGKILL)
            server._process.wait()
            assert not server.alive
            if start == 3:
                break
            server.url()
            assert server.starts == 2
        with pytest.raises(ServerError, match=r"started 2 times \(server.restarts=1\), ended with code 137; its last"):
            server.url()
    assert any("it ended with code 137" in line for line in said)


def test_one_that_never_becomes_healthy_is_one_sentence_with_its_last_words(tmp_path):
    command = "sh -c 'echo loading; echo \"RuntimeError: out of memory http://me:secret@host\" >&2; exit 3 # {port}'"
    with OwnServer(custom(command), tmp_path / "server.log", say=lambda line: None) as server:
        with pytest.raises(ServerError) as caught:
            server.url()
        assert server.starts == 2, "a port may have been taken meanwhile"
    message = str(caught.value)
    assert "never became healthy: it ended with code 3; its last words: " in message and "\n" not in message
    assert "RuntimeError: out of memory" in message and "secret" not in message and "server.log" in message
    slow = custom("sh -c 'sleep 600 # {port}'", start_seconds=1.0, restarts=0)
    with OwnServer(slow, tmp_path / "slow.log", say=lambda line: None) as server:
        with pytest.raises(ServerError, match=r"was not ready within server.start_seconds=1;"):
            server.url()
        assert not server.alive


JOB = """
import sys, time
from pathlib import Path
from editcaption_mega.inference.serving.server import OwnServer
from editcaption_mega.settings import ServerSettings
with OwnServer(ServerSettings(program="custom", model="m", command=sys.argv[1]), Path(sys.argv[2])) as server:
    server.url()
    print(server._process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("killed", ["job", "guard"])
def test_it_dies_with_the_job_also_by_kill_9(tmp_path, killed):
    # The server has a child that ignores what it is asked, as engines of several processes may.
    command = f"sh -c 'sh -c \"trap : TERM; sleep 600\" & exec {SERVE}'"
    words = [sys.executable, "-c", JOB, command, str(tmp_path / "server.log")]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as job:
        lines = [job.stdout.readline(), job.stdout.readline()]
        guard = int(lines[1])
        server = descendants(guard)
        assert len(server) >= 3
        os.kill(job.pid if killed == "job" else guard, signal.SIGKILL)
        # Without its guard the kernel ends the server alone; the guard would have ended its children too.
        wait_until_gone([guard, *server] if killed == "job" else [guard, server[0]])
        for pid in server:
            if lives(pid):
                os.kill(pid, signal.SIGKILL)
        job.kill()


def test_each_program_has_its_places_filled(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,3")
    assert gpu_count() == 3
    for name, program in PROGRAMS.items():
        line = command_line(program, "a folder", 8123)
        assert "8123" in line and "a folder" in line and "127.0.0.1" in line
        assert ("3" in line) == (name != "transformers")
        assert not [word for word in line if word in ("{model}", "{port}", "{gpus}")]
    assert '{"image": 2}' in command_line(PROGRAMS["vllm"], "m", 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_count() == 0 and "1" in command_line(PROGRAMS["vllm"], "m", 8123)


def test_what_cannot_be_started_is_refused_before_work(tmp_path):
    with pytest.raises(SettingsError, match="no-such-program was not found: install it beside"):
        OwnServer(custom("no-such-program {port}"), tmp_path / "log")
    with pytest.raises(SettingsError, match="server.arguments is no command line"):
        program_of(custom(arguments="'open"))
    for values, words in (
        ({"program": "vllm"}, "server.model is empty"),
        ({"model": "m"}, "server.program is empty"),
        ({"program": "custom", "model": "m"}, "needs one"),
        ({"program": "vllm", "model": "m", "command": "x {port}"}, "a command is for custom"),
        ({"program": "custom", "model": "m", "command": "x"}, r"holds no \{port\}"),
        ({"program": "vllm", "model": "m", "health": "ready"}, "must be a path"),
        ({"program": "vllm", "model": "m", "restarts": -1}, "restarts"),
    ):
        with pytest.raises(SettingsError, match=words):
            ServerSettings(**values).validate()


def test_a_server_has_variables_of_its_own(tmp_path):
    command = f"sh -c 'echo the word is $WORD; exec {SERVE}'"
    with OwnServer(custom(command), tmp_path / "log", say=str, environment={"WORD": "hush"}) as server:
        server.url()
    first, *_ = [line for line in (tmp_path / "log").read_text().splitlines() if not line.startswith("---")]
    assert first == "the word is hush" and "WORD" not in os.environ
