"""A Transformer Engine that is installed and cannot be imported ends no job that does not ask for it."""

import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT, warm

JOB = """
import editcaption_mega.training
from editcaption_mega.model.layers import check_backend
from editcaption_mega.platform import prepare

prepare()
check_backend("torch")
try:
    check_backend("transformer_engine")
except ValueError as error:
    print(error)
"""


def run_with(tmp_path, code: str, **environment: str) -> subprocess.CompletedProcess:
    """With an installation whose PyTorch part does this."""
    package = tmp_path / "transformer_engine"
    (package / "pytorch").mkdir(parents=True)
    (package / "__init__.py").write_text("import transformer_engine.pytorch\n")
    (package / "pytorch/__init__.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    return warm.run_cold([sys.executable, "-c", JOB], env={**os.environ, "PYTHONPATH": path, **environment})


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('cudnn shared object\\nnot found.')", "cudnn shared object not found."),
        ("assert False", "AssertionError"),
    ],
)
def test_it_is_left_out_with_a_line_and_refused_where_it_is_asked_for(tmp_path, code, reason):
    done = run_with(tmp_path, code)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "Transformer Engine" in line]
    assert line.startswith(f"Transformer Engine is installed and cannot be imported ({reason}): nothing of it is used")
    assert f"the installed package cannot be imported ({reason})" in done.stdout and "make transformer-engine" in line


def test_other_ranks_say_nothing(tmp_path):
    done = run_with(tmp_path, "raise OSError('no')", RANK="1")
    assert done.returncode == 0 and "Transformer Engine" not in done.stderr, done.stderr
