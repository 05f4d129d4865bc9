"""`tools/transformer_engine.sh` says what it lacks before it changes anything; what it installs needs nvcc and time."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from tests.helpers import ROOT


def install(tmp_path, python: str = sys.executable, nvcc: str = "") -> subprocess.CompletedProcess:
    """On a machine with these programs alone. nvcc: what it prints of its version; "" for none."""
    for program in ("dirname", "sed"):
        (tmp_path / program).symlink_to(shutil.which(program))
    if nvcc:
        (tmp_path / "nvcc").write_text(f"#!/bin/sh\necho '{nvcc}'\n")
        (tmp_path / "nvcc").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_HOME"}
    command = [shutil.which("bash"), str(ROOT / "tools/transformer_engine.sh"), python]
    return subprocess.run(command, env={**environment, "PATH": str(tmp_path)}, capture_output=True, text=True)


def is_there() -> bool:
    try:
        return version("transformer-engine").startswith("2.20.")
    except PackageNotFoundError:
        return False


def test_without_an_environment_it_says_what_makes_one(tmp_path):
    done = install(tmp_path, str(tmp_path / "python"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path / 'python'} has no PyTorch: run 'make setup' first\n"


@pytest.mark.skipif(is_there(), reason="Transformer Engine is there")
@pytest.mark.parametrize(
    ("nvcc", "words"),
    [
        ("", "there is no nvcc, .*: put CUDA's bin folder on the PATH, or set CUDA_HOME"),
        pytest.param(
            "Cuda compilation tools, release 9.2, V9.2.88",
            r"nvcc is of CUDA 9 and the PyTorch of .* of CUDA \d+: put the bin folder of a CUDA \d+ toolkit on",
            marks=pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch is for CPUs"),
        ),
    ],
)
def test_without_the_right_compiler_it_says_which(tmp_path, nvcc, words):
    done = install(tmp_path, nvcc=nvcc)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "") and line.startswith("error: ")
    assert re.search(words, line), line


@pytest.mark.slow
@pytest.mark.skipif(not is_there(), reason="Transformer Engine is not installed")
def test_where_it_is_there_nothing_is_done(tmp_path):
    done = install(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Transformer Engine {version('transformer-engine')} imports with PyTorch ")
