"""What a log says of its start."""

import re
import subprocess

from editcaption_mega.training import start_facts as module
from editcaption_mega.training.start_facts import command, start_facts


def test_machine_versions_and_command_are_named(monkeypatch):
    monkeypatch.setattr("sys.argv", ["launch/pretrain_sft.sh", "my job.yaml", "training.steps=3"])
    text = "\n".join(start_facts())
    assert re.search(r"^started on \S+: 1 rank on 1 node, 1 x \S", text)
    assert all(f"{name} " in text for name in ("editcaption_mega", "torch", "megatron-core", "transformers"))
    assert "CUDA" in text and text.endswith("command: launch/pretrain_sft.sh 'my job.yaml' training.steps=3")


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
