"""`editcaption`: its commands are there and say what they take; neither --help nor first errors wait for PyTorch."""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from editcaption_mega.__main__ import COMMANDS
from editcaption_mega.commands import curate, evaluate
from tests.helpers import ROOT


def editcaption(*words: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "editcaption_mega", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=options.pop("cwd", ROOT), **options)


def imports(*words: str) -> set[str]:
    """What a command imports until it ends."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "editcaption_mega", *words], capture_output=True, text=True, cwd=ROOT
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_help_names_every_command_and_imports_none():
    done = editcaption("--help")
    assert done.returncode == 0 and done.stderr == ""
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    names = imports("--help")
    assert "editcaption_mega" in names and not [name for name in names if name.startswith("editcaption_mega.")]


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "name a command: try, shards, "),
        (["shrads"], "'shrads' is no command: did you mean shards?"),
        (["--shards"], "did you mean shards?"),
        (["Train"], "did you mean train-"),
        (["xyzzy", "shards"], "'xyzzy' is no command: one of try, shards, "),
    ],
)
def test_what_is_no_command(words, message):
    done = editcaption(*words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("editcaption: error: ") and message in done.stderr


def test_version():
    import editcaption_mega

    assert editcaption("--version").stdout == f"editcaption {editcaption_mega.__version__}\n"


SLOW = {"torch", "transformers", "megatron", "torchvision"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_that_bears_its_name_and_needs_no_pytorch(name):
    done = editcaption(name, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: editcaption {name} ")
    assert "example:\n" in done.stdout
    assert not imports(name, "--help") & SLOW


@pytest.mark.parametrize(
    "words, message",
    [
        ("shards --format jsonl --input nowhere.jsonl --output {0}/new", "nowhere.jsonl: no such file"),
        ("validate-shards nowhere", "nowhere: no such folder"),
        ("train-sft nowhere.yaml", "nowhere.yaml does not exist"),
        ("train-sft configs/sft_demo.yaml model.folder=nowhere", "model.folder=nowhere: no such folder"),
        ("train-dpo configs/dpo_demo.yaml optimizer.lr=1", "unknown setting"),
        ("convert megatron-to-hf --checkpoint x --output {0}/new --max-file-gib 0", "--max-file-gib"),
        ("curate caption nowhere.yaml", "nowhere.yaml does not exist"),
        ("evaluate run nowhere.yaml", "nowhere.yaml does not exist"),
        ("log-probs --checkpoint x --shards y --output {0}/new --cp 2", "context"),
        ("plan nowhere.yaml --gpus 8", "nowhere.yaml does not exist"),
    ],
)
def test_first_errors_come_before_pytorch_does(tmp_path, words, message):
    words = words.format(tmp_path).split()
    done = editcaption(*words)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1], done.stderr
    assert not imports(*words) & SLOW


def test_conversions_need_no_megatron(tmp_path):
    """It takes seconds to import, and transformers does, while a small model is converted in less."""
    from tests.helpers import tiny

    tiny.hf_model(experts=True).save_pretrained(tmp_path / "model")
    ways = (
        ("hf-to-megatron", "--hf", tmp_path / "model", "--output", tmp_path / "store"),
        ("megatron-to-hf", "--checkpoint", tmp_path / "store", "--output", tmp_path / "back"),
    )
    for way, *words in ways:
        names = imports("convert", way, *map(str, words), "--workers", "1")
        assert "editcaption_mega.conversion.convert" in names and Path(words[-1]).is_dir()
        assert not names & {"megatron", "transformers", "torchvision", "torch._dynamo", "editcaption_mega.data.shards"}


def subcommands():
    """(words of the command line, its parser) of every command that another command has."""
    groups = [("curate", curate.make_parser()), ("evaluate", evaluate.make_parser())]
    while groups:
        words, parser = groups.pop()
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, inner in action.choices.items():
                    groups.append((f"{words} {name}", inner))
                    yield f"{words} {name}"


@pytest.mark.parametrize("words", sorted(subcommands()))
def test_a_commands_command_has_an_example_that_it_takes_and_debug_behind_it(words, capsys, monkeypatch):
    group, *inner = words.split()
    parser = {"curate": curate, "evaluate": evaluate}[group].make_parser()
    with pytest.raises(SystemExit):
        parser.parse_args([*inner, "--help"])
    shown = capsys.readouterr().out
    assert "--debug " in shown
    examples = shown.partition("example:\n")[2].replace("\\\n", " ").strip().splitlines()
    own = [line.split() for line in examples if line.strip().startswith(f"editcaption {words}")]
    assert own
    for _, _, *example in own:
        monkeypatch.setattr(parser, "error", lambda message: pytest.fail(message))
        assert not parser.parse_args(example).debug
        assert parser.parse_args([*example, "--debug"]).debug and parser.parse_args(["--debug", *example]).debug


def test_debug_behind_a_commands_command_shows_the_traceback():
    done = editcaption("curate", "caption", "nothere.yaml", "--debug")
    assert done.returncode == 2 and done.stderr.startswith("Traceback"), done.stderr


@pytest.mark.parametrize("script", ["caption.sh", "batch_eval.sh"])
def test_a_script_of_launch_is_called_by_its_name(script):
    path = ROOT / "launch" / script
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: {script} [-h] "), done.stdout + done.stderr


def test_both_directions_of_convert():
    for direction in ("hf-to-megatron", "megatron-to-hf"):
        done = editcaption("convert", direction, "--help")
        assert done.returncode == 0 and done.stdout.startswith(f"usage: editcaption convert {direction} ")
    for words in (["convert"], ["convert", "back"]):
        done = editcaption(*words)
        assert done.returncode == 2 and "DIRECTION" in done.stderr.splitlines()[-1]


def test_the_installed_command_is_this_one():
    import tomllib

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert list(scripts) == ["editcaption"]
    module, _, function = scripts["editcaption"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
