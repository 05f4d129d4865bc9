"""Of the ranks of a machine one says why the job ended; in this process, with torchrun's environment made up."""

import os
import subprocess
import sys

import pytest

from editcaption_mega import cli


@pytest.fixture
def as_rank(tmp_path, monkeypatch, capsys):
    """-> what rank `number` prints when `error` ends it, and its exit code."""
    monkeypatch.setattr(cli, "_SECONDS_FOR_THE_CAUSE", 0.0)

    def run(number: int, error: Exception):
        own = tmp_path / str(number) / "error.json"
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(own))

        def main(argv):
            raise error

        code = cli.exit_code(main, [])
        return code, capsys.readouterr().err

    return run


def test_a_rank_that_failed_says_why_and_ends_whatever_still_runs_in_it():
    """As a thread of NCCL does that waits for ranks which will never answer."""
    program = (
        "import threading, time\n"
        "from editcaption_mega import cli\n"
        "def main(argv):\n"
        "    threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "    raise ValueError('the picture of cat-1 is damaged')\n"
        "cli.run(main, [])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, "error: the picture of cat-1 is damaged\n")


def test_what_all_say_is_said_once(as_rank):
    said = [as_rank(rank, cli.ArgumentError("data.shards is empty")) for rank in (1, 0, 2)]
    assert [code for code, _ in said] == [2, 2, 2]
    assert [bool(text) for _, text in said] == [True, False, False]
    assert said[0][1].startswith("error: data.shards is empty (rank 1 on ")


def test_different_reasons_are_all_said(as_rank):
    assert as_rank(0, ValueError("the picture of cat-1 is damaged"))[1] == "error: the picture of cat-1 is damaged\n"
    assert "cat-2" in as_rank(1, ValueError("the picture of cat-2 is damaged"))[1]


def test_a_consequence_is_not_said_beside_its_cause(as_rank):
    assert "no space" in as_rank(3, ValueError("no space is left"))[1]
    assert as_rank(0, RuntimeError("Connection closed by peer")) == (1, "")


@pytest.mark.parametrize(
    "words",
    [
        "[third_party/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:36056. GLHF!",
        "[pair.cc:537] Read error [127.0.0.1]:8113: Connection reset by peer. Check the logs of the remote worker",
        "NCCL error in: NCCLUtils.cpp:77, remote process exited or there was a network error",
    ],
)
def test_a_lost_rank_is_said_in_one_sentence_where_nobody_says_why(as_rank, words):
    """One that the kernel ended says nothing, and its launcher speaks last."""
    error = RuntimeError(words)
    error.add_note("its traceback is in runs/x/logs/rank_00000.txt")
    sentence = "error: the connection to another rank was lost: that one has ended, or cannot be reached"
    assert as_rank(0, error) == (1, f"{sentence}; its traceback is in runs/x/logs/rank_00000.txt\n")


def test_a_defect_alone_is_said_with_the_place_of_its_traceback(as_rank):
    error = KeyError("patches")
    error.add_note("its traceback is in runs/x/logs/rank_00002.txt")
    code, text = as_rank(2, error)
    assert code == 1 and "unexpected KeyError: 'patches'; its traceback is in runs/x/logs/rank_00002.txt" in text


def test_without_torchrun_nothing_is_held_back(monkeypatch, capsys):
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)

    def main(argv):
        raise RuntimeError("the same")

    assert [cli.exit_code(main, []) for _ in range(2)] == [1, 1]
    assert capsys.readouterr().err.count("error: unexpected RuntimeError: the same (--debug shows where)") == 2


@pytest.mark.parametrize("number, wish, code", [(0, "75", 0), (15, "75", 75), (10, None, 0)])
def test_the_code_of_a_stopped_job(monkeypatch, number, wish, code):
    if wish is None:
        monkeypatch.delenv("EDITCAPTION_STOPPED_CODE", raising=False)
    else:
        monkeypatch.setenv("EDITCAPTION_STOPPED_CODE", wish)
    assert cli.stopped_code(number) == code
