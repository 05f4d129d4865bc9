"""Every command that a page shows can be given: its tool takes these words, its settings exist, its target is there."""

import argparse
import importlib
import importlib.util
import inspect
import itertools
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from editcaption_mega.__main__ import COMMANDS
from editcaption_mega.settings import (
    CaptionSettings,
    DPOSettings,
    EvaluationSettings,
    JobSettings,
    ScoreSettings,
    find_config,
    load_settings,
)
from tests.docs.pages import ROOT, Page, all_pages

# Words of pages that stand for what a reader puts there.
_NUMBER = re.compile(r"[NKM]")
_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)*=.*")
SETTINGS = {
    "pretrain_sft.sh": JobSettings,
    "train_dpo.sh": DPOSettings,
    "batch_eval.sh": EvaluationSettings,
    "caption.sh": CaptionSettings,
}
# Files that a page's reader has, and a checkout has not.
MADE_BY_THE_READER = ("runs/", "data/", "models/", "/")


class Parsed(Exception):
    """The tool's own parser has taken the words."""


@cache
def tool(path: Path):
    """The module of a tool, which is no part of a package."""
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def refusal(main, name: str, words: list[str], capsys) -> str | None:
    """What the real parser of a tool or command says against these words; None if it takes them."""
    real = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        real(self, args, namespace)
        raise Parsed

    argv = sys.argv
    argparse.ArgumentParser.parse_args, sys.argv = parse_args, [name, *words]
    try:
        main(words) if inspect.signature(main).parameters else main()
    except Parsed:
        return None
    except SystemExit as end:
        return None if not end.code else capsys.readouterr().err.strip().splitlines()[-1]
    finally:
        argparse.ArgumentParser.parse_args, sys.argv = real, argv
    return f"{name} never parsed its arguments"


def variants(words: list[str]) -> list[list[str]]:
    """A command with `[what may be left out]`, `{one,of,these}` and `..` -> commands without such signs."""
    text = shlex.join(words).replace("'", "")
    text = re.sub(r"\[([^\]]*key=value[^\]]*)\]", "", text)
    choices = []
    for part in re.split(r"(\{[^}]*\}|\[--[^\]]*\])", text):
        if part.startswith("{"):
            choices.append([name for name in part[1:-1].split(",") if name != ".."])
        elif part.startswith("["):
            choices.append(["", part[1:-1]])
        else:
            choices.append([part])
    return [shlex.split("".join(choice).replace(" ..", " ")) for choice in itertools.product(*choices)]


def problem(words: list[str], capsys) -> str | None:
    """What is wrong with a command; None for nothing."""
    variables = list(itertools.takewhile(lambda word: re.fullmatch(r"\w+=.*", word), words))
    words = words[len(variables) :]
    program = words.pop(0)
    if program == "make":
        return problem_of_make([word for word in words if word != ".."])
    if program == "editcaption":
        return problem_of_command([word for word in words if word != ".."], capsys)
    if program in ("sbatch", "torchrun", "bash", "python", ".venv/bin/python"):
        script = next(
            (i for i, word in enumerate(words) if re.fullmatch(r"(launch|tools|\.ci|tests|examples)/\S+", word)), None
        )
        if script is None:
            return None  # python -c, -m, a placeholder
        program, words = words[script], words[script + 1 :]
    path = ROOT / program
    if not path.exists():
        return f"there is no {program}"
    words = ["1" if _NUMBER.fullmatch(word) else word for word in words]
    if path.parent.name == "launch" and words:
        return problem_of_settings(words, SETTINGS[path.name])
    if path.parent.name == "tools" and words:
        config = [word for word in words if word.startswith("configs/")]
        kinds = {"caption": CaptionSettings, "score": ScoreSettings}
        if config and path.stem == "curate":
            after = [word for word in words if word in config or _OVERRIDE.fullmatch(word)]
            if said := problem_of_settings(after, kinds[words[0]]):
                return said
        if config and path.stem == "evaluate":
            after = words[words.index(config[0]) :]
            if said := problem_of_settings(
                [w for w in after if w in config or _OVERRIDE.fullmatch(w)], EvaluationSettings
            ):
                return said
        return refusal(tool(path).main, str(path), words, capsys)
    return None


def problem_of_command(words: list[str], capsys) -> str | None:
    """Of `editcaption COMMAND ..`."""
    words = ["1" if _NUMBER.fullmatch(word) else word for word in words]
    if not words or words[0] not in COMMANDS:
        return None if words in ([], ["COMMAND"], ["--help"]) else f"editcaption has no command {words[0]}"
    name, *words = words
    if kind := {"train-sft": JobSettings, "train-dpo": DPOSettings}.get(name):
        return problem_of_settings(words, kind) if words else None
    module = importlib.import_module(COMMANDS[name][0])
    if name == "convert" and words and words[0] in module.DIRECTIONS:
        module, words = module.DIRECTIONS[words[0]], words[1:]
    return refusal(module.main, f"editcaption {name}", words, capsys) if words else None


def problem_of_make(words: list[str]) -> str | None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name = word.partition("=")[0]
        if "=" in word:
            if not re.search(rf"^{name} \?=", makefile, re.MULTILINE) and f"$({name})" not in makefile:
                return f"the Makefile has no variable {name}"
        elif not re.search(rf"^{re.escape(word)}\s*:", makefile, re.MULTILINE):
            return f"the Makefile has no target {word}"
    return None


def problem_of_settings(words: list[str], kind: type) -> str | None:
    config, *overrides = words
    if config == "CONFIG" or config.startswith(MADE_BY_THE_READER):
        return None
    path = find_config(config)
    if not path.is_file():
        return f"there is no {config}"
    try:
        load_settings(path, [word for word in overrides if word != ".."], kind)
    except ValueError as error:
        return str(error)
    return None


def problems(commands, capsys) -> list[str]:
    return [
        f"{written}: {said}"
        for written, words in commands
        for variant in variants(words)
        if (said := problem(variant, capsys))
    ]


# Recipes add what they then call; tests/docs/test_how_to.py runs their commands in earnest.
@pytest.mark.parametrize(
    "page", [page for page in all_pages() if "/how_to/add_" not in page.name], ids=lambda page: page.name
)
def test_commands_can_be_given(page, capsys):
    wrong = problems(page.commands(), capsys)
    wrong += [said for said in problems(page.mentions(), capsys) if "arguments are required" not in said]
    assert wrong == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("make nothing", "no target nothing"),
        ('make chaos CHAOS_WORDS="--hits 3"', "no variable CHAOS_WORDS"),
        ("make demo nothing", "no target nothing"),
        ("python tools/nothing.py", "there is no tools/nothing.py"),
        (
            "python tools/make_shards.py --format jsonl --input a --output b --sideways",
            "unrecognized arguments: --sideways",
        ),
        ("tools/make_shards.py --format {jsonl,nothing} --input a --output b", "invalid choice: 'nothing'"),
        ("tools/evaluate.py {run,nothing} CONFIG", "invalid choice: 'nothing'"),
        ("python tools/evaluate.py run configs/eval_demo.yaml generation.max_token=3", "generation.max_token"),
        ("editcaption shrads --input a", "no command shrads"),
        ("editcaption shards --format jsonl --input a --output b --sideways", "unrecognized arguments: --sideways"),
        ("editcaption train-sft sft_nothing", "there is no sft_nothing"),
        ("editcaption train-sft sft_qwen3_vl_2b training.step=1", "training.step"),
        ("editcaption convert megatron-to-hf --checkpoint a", "--output"),
        ("bash launch/pretrain_sft.sh configs/nothing.yaml", "there is no configs/nothing.yaml"),
        ("sbatch --nodes 2 launch/train_dpo.sh configs/dpo_demo.yaml preference.bet=1", "preference.bet"),
        ("torchrun --nproc-per-node 2 launch/nothing.sh CONFIG", "there is no launch/nothing.sh"),
    ],
)
def test_the_checker_sees(command, message, capsys):
    page = Page(ROOT / "docs" / "unwritten.md", draft=f"# A page\n\n    {command}\n\nThen `{command}` again.\n")
    for commands in (page.commands(), page.mentions()):
        found = problems(commands, capsys)
        assert found and all(message in said for said in found), found


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.name)
def test_blocks_of_python_and_yaml_are_that(page):
    for block in page.fenced():
        if block.language == "python":
            compile(block.text, f"{page.name}:{block.line}", "exec")
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        else:
            assert block.language in ("sh", "text", "diff", "json", "cpp", "make"), f"{page.name}:{block.line}"
