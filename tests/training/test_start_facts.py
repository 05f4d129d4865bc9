"""What a log says of its start."""

import os
import re
import subprocess
import sys

import pytest

from editcaption_mega.training import start_facts as module
from editcaption_mega.training.start_facts import command, start_facts


def test_machine_versions_and_command_are_named(monkeypatch):
    monkeypatch.setattr("sys.argv", ["launch/pretrain_sft.sh", "my job.yaml", "training.steps=3"])
    text = "\n".join(start_facts())
    assert re.search(r"^started on \S+: 1 rank on 1 node, 1 x \S", text)
    assert all(f"{name} " in text for name in ("editcaption_mega", "torch", "megatron-core", "transformers"))
    assert "CUDA" in text and text.endswith("command: launch/pretrain_sft.sh 'my job.yaml' training.steps=3")


def test_cores_are_those_that_ranks_may_use():
    allowed = len(os.sched_getaffinity(0))
    assert f"cores: {allowed} for 1 rank" in start_facts()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_a_bound_process_has_no_thread_beyond_its_cores():
    program = (
        "import os\n"
        "os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])\n"
        "from editcaption_mega import platform\n"
        "print(platform.threads_per_rank())"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "1\n"


@pytest.mark.parametrize(
    ("places", "cuda", "words"),
    [
        ([("a", {0}), ("a", {0})], True, ["cores: 1 for 2 ranks", "a has 1 for 2 ranks, fewer than 4 each"]),
        ([("a", {0}), ("a", {0})], False, ["cores: 1 for 2 ranks"]),
        ([("a", set(range(4))), ("a", set(range(4, 8)))], True, ["cores: 8 for 2 ranks"]),
        (
            [("a", set(range(8))), ("b", set(range(3)))], True,
            ["cores: 3 for 1 rank on b, other", "b has 3 for 1 rank, fewer"],
        ),
    ],
)  # fmt: skip
def test_too_few_cores_for_the_ranks_of_a_node_are_said(places, cuda, words):
    lines = module._core_lines([(host, frozenset(cores)) for host, cores in places], cuda=cuda)
    assert len(lines) == len(words) and all(word in line for word, line in zip(words, lines, strict=True))


def test_the_installed_command_can_be_given_again():
    assert command(["editcaption train-sft", "my job.yaml", "--check"]) == "editcaption train-sft 'my job.yaml' --check"
    assert command(["/a b/editcaption", "x"]) == "'/a b/editcaption' x"


def test_a_command_has_no_secret(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    words = ["run", "x.api_key=sesame", "y=0123456789abcdef", "z=http://me:word@host/", "training.steps=3"]
    line = command(words)
    assert "training.steps=3" in line and "x.api_key=[hidden]" in line
    assert not any(secret in line for secret in ("sesame", "0123456", "word@"))


def test_the_commit_of_a_checkout_says_whether_files_were_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    assert module._commit() == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    assert re.fullmatch("[0-9a-f]{12}", module._commit())
    (tmp_path / "file").write_text("before")
    for words in (["add", "file"], ["commit", "-q", "-m", "second"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "file").write_text("after")
    assert module._commit().endswith("-dirty")
