"""The short form of `make chaos`: every kind of fault, a few times. Slow."""

import subprocess
import sys

import pytest

from tests.helpers import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    "cases, kinds, hits, more",
    [
        ("sft2", "kills", 8, []),
        ("sft1", "disk full,two jobs,bit flip", 4, []),
        ("dpo1", "kill everything,kill a worker", 3, ["--stream"]),
    ],
)
def test_nothing_is_lost(cases, kinds, hits, more):
    command = [
        sys.executable,
        "-m",
        "tests.chaos",
        "--cases",
        cases,
        "--kinds",
        kinds,
        "--hits",
        str(hits),
        "--seconds",
        "600",
        *more,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 trials lost something, left something or had other losses" in done.stdout
