"""`tools/transformer_engine.sh` says what it lacks before it changes anything; what it installs needs nvcc and time."""

import os
import re
import shutil
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from tests.helpers import ROOT


def install(tmp_path, python: str = sys.executable, nvcc: str = "", **variables: str) -> subprocess.CompletedProcess:
    """On a machine with these programs alone. nvcc: a shell's lines; "" for none. variables: of the environment."""
    for program in ("dirname", "sed"):
        (tmp_path / program).symlink_to(shutil.which(program))
    if nvcc:
        (tmp_path / "nvcc").write_text(f"#!/bin/sh\n{nvcc}\n")
        (tmp_path / "nvcc").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_HOME"}
    command = [shutil.which("bash"), str(ROOT / "tools/transformer_engine.sh"), python]
    return subprocess.run(
        command, env={**environment, **variables, "PATH": str(tmp_path)}, capture_output=True, text=True
    )


def is_there() -> bool:
    try:
        return version("transformer-engine").startswith("2.20.")
    except PackageNotFoundError:
        return False


def test_without_an_environment_it_says_what_makes_one(tmp_path):
    done = install(tmp_path, str(tmp_path / "python"))
    assert (done.returncode, done.stdout) == (2, "")
    words = rf"error: {tmp_path / 'python'} has no PyTorch .*No such file or directory\): run 'make setup' first\n"
    assert re.fullmatch(words, done.stderr), done.stderr


def test_a_torch_that_cannot_be_imported_is_named_with_its_reason(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudnn.so.9: cannot open shared object file')\n")
    done = install(tmp_path, PYTHONPATH=str(tmp_path))
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "can be imported (ImportError: libcudnn.so.9: cannot open" in line, line


WITH_CUDA = pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch is for CPUs")
RIGHT = f"release {torch.version.cuda}, V{torch.version.cuda}.0"


@pytest.mark.skipif(is_there(), reason="Transformer Engine is there")
@pytest.mark.parametrize(
    ("nvcc", "words"),
    [
        ("", "there is no nvcc, .*: put CUDA's bin folder on the PATH, or set CUDA_HOME"),
        (
            "echo no device; exit 3",
            r"nvcc does not run \(no device\): put the bin folder of a CUDA toolkit on the PATH",
        ),
        pytest.param(
            "echo 'Cuda compilation tools, release 9.2, V9.2.88'",
            r"nvcc is of CUDA 9 and the PyTorch of .* of CUDA \d+: put the bin folder of a CUDA \d+ toolkit on",
            marks=WITH_CUDA,
        ),
        pytest.param(
            f"echo '{RIGHT}'", "nvcc does not say which folder its toolkit is in: set CUDA_HOME", marks=WITH_CUDA
        ),
    ],
)
def test_without_the_right_compiler_it_says_which(tmp_path, nvcc, words):
    done = install(tmp_path, nvcc=nvcc)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "") and line.startswith("error: ")
    assert re.search(words, line), line


@pytest.mark.skipif(is_there(), reason="Transformer Engine is there")
def test_a_toolkit_that_is_not_where_cuda_home_says_is_refused(tmp_path):
    """The build would take that folder, whichever nvcc is on the PATH."""
    done = install(tmp_path, nvcc=f"echo '{RIGHT}'", CUDA_HOME=str(tmp_path / "cuda"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: CUDA_HOME={tmp_path / 'cuda'} has no bin/nvcc: set it to")


@WITH_CUDA
@pytest.mark.skipif(is_there(), reason="Transformer Engine is there")
def test_tools_that_cannot_be_installed_are_named_behind_pips_reason(tmp_path):
    """In an environment of its own, so that nothing is there to begin with: the build does not begin."""
    own = tmp_path / "own"
    venv.create(own)
    packages = own / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    (packages / "others.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    (packages / "pip.py").write_text("raise SystemExit('no index answers')\n")
    for program in ("awk", "nproc"):
        (tmp_path / program).symlink_to(shutil.which(program))
    (tmp_path / "rm").symlink_to(shutil.which("true"))  # what a real build has left stays
    done = install(tmp_path, str(own / "bin/python"), f"echo '{RIGHT}'; echo '#$ TOP={tmp_path}'")
    assert done.returncode == 1 and done.stdout.startswith("compiling Transformer Engine")
    assert re.fullmatch(r"no index answers\nerror: what compiles .* was not installed: .*\n", done.stderr), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not is_there(), reason="Transformer Engine is not installed")
def test_where_it_is_there_nothing_is_done(tmp_path):
    done = install(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Transformer Engine {version('transformer-engine')} imports with PyTorch ")
