"""`editcaption try`, as a newcomer types it."""

import os
import re
import subprocess
import sys

import pytest

from editcaption_mega import cli
from editcaption_mega.commands.first_try import PAIRS, main
from tests.helpers import ROOT


@pytest.mark.slow
def test_ten_pairs_are_learned_and_the_next_command_works(tmp_path):
    command = [sys.executable, "-m", "editcaption_mega"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(2):  # the second one replaces the first
        done = subprocess.run([*command, "try"], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        right = re.search(r"(\d+) of 10 word for word", done.stdout)
        assert right and int(right[1]) >= PAIRS - 1, done.stdout
    references = re.findall(r"  reference  (.*)", done.stdout)
    following = next(line for line in done.stdout.splitlines() if "editcaption caption" in line).split()
    assert len(references) == PAIRS and following[0] == "editcaption"
    done = subprocess.run([*command, *following[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"{references[0]}\n"


def test_nothing_else_is_removed(tmp_path, capsys):
    (tmp_path / "file").write_text("something")
    assert cli.exit_code(main, ["--output", str(tmp_path)]) == 2
    assert "holds something else" in capsys.readouterr().err and (tmp_path / "file").is_file()
