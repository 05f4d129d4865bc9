"""What the workflow, the hooks, the gate and the Makefile name exists: targets, files and programs."""

import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.helpers import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):(?!=)", MAKEFILE, re.MULTILINE))
GATE = (ROOT / ".ci/run").read_text()
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
COMMANDS = [step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]


def made(text: str) -> set[str]:
    """The targets of the `make` commands in a script."""
    words = [word for line in re.findall(r"^make (.+)$", text, re.MULTILINE) for word in shlex.split(line)]
    return {word for word in words if "=" not in word}


def test_targets_are_phony_and_in_the_head_of_the_makefile():
    assert {"setup", "check", "lint", "types", "unit", "test", "test-slow", "demo", "chaos"} <= TARGETS
    phony = set(re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)[1].split())
    assert phony == TARGETS
    assert all(re.search(rf"\b{target}\b", MAKEFILE.partition("\n\n")[0].partition("\n#\n")[0]) for target in TARGETS)


def test_the_gate_makes_targets_that_exist():
    assert made(GATE) == {"lint", "types", "test", "chaos", "gpu-check", "demo"} <= TARGETS
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_workflow_runs_what_exists(command):
    targets = made(command)
    assert targets <= TARGETS
    assert targets or os.access(ROOT / command, os.X_OK)


def test_the_workflow_holds_the_gate_and_the_slow_tests():
    assert ".ci/run" in COMMANDS and any("test-slow" in command for command in COMMANDS)
    events = WORKFLOW[True]  # YAML reads `on` as a truth
    assert {"push", "pull_request", "schedule"} <= events.keys()
    for job in WORKFLOW["jobs"].values():
        (options,) = [step["with"] for step in job["steps"] if "with" in step]
        for name in ("python-version-file", "cache-dependency-path"):
            assert (ROOT / options[name]).is_file()


def test_hooks_use_programs_of_the_virtual_environment():
    hooks = [hook for repository in HOOKS for hook in repository["hooks"]]
    assert [repository["repo"] for repository in HOOKS] == ["local"], "others are fetched from the network"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = {re.split(r"[=\[<>]", package)[0] for package in project["optional-dependencies"]["test"]}
    programs = [Path(hook["entry"].split()[0]) for hook in hooks]
    assert {str(program.parent) for program in programs} == {".venv/bin"}
    assert {"ruff", "mypy"} == {program.name for program in programs} <= packages


def test_paths_of_tests_in_the_makefile_exist():
    listed = re.search(r"^UNIT_TESTS := \$\(addprefix tests/,((?:.|\\\n)+?)\)$", MAKEFILE, re.MULTILINE)[1]
    paths = [f"tests/{name}" for name in listed.replace("\\\n", " ").split()]
    paths += re.findall(r"\btests/[\w/]+\.py", MAKEFILE)
    programs = [ROOT / name.replace(".", "/") for name in re.findall(r"-m (tests\.[\w.]+)", MAKEFILE)]
    assert len(paths) > 20 and len(programs) >= 4
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [
        path for path in programs if not (path.with_suffix(".py").exists() or (path / "__main__.py").exists())
    ] == []
