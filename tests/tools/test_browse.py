"""tools/browse.py: one page from folders of shards."""

import subprocess
import sys
from pathlib import Path

from tests.helpers import small_job

ROOT = Path(__file__).resolve().parents[2]


def browse(*arguments):
    command = [sys.executable, str(ROOT / "tools/browse.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_pairs_become_one_page_and_mistakes_one_sentence(tmp_path):
    shards = small_job.write_shards(tmp_path / "pairs", 6)
    done = browse(shards, "--limit", 4, "--output", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert "pairs: 4 of 6 pairs" in done.stdout and (tmp_path / "page.html").read_text().count('id="pictures-') == 4
    for arguments, words in (
        ((tmp_path / "none", "--output", tmp_path / "x.html"), "no such folder"),
        ((shards, "--output", tmp_path), "is a folder: name a file"),
        ((shards, "--output", tmp_path / "no/x.html"), "is no folder"),
    ):
        failed = browse(*arguments)
        assert failed.returncode in (1, 2) and words in failed.stderr, failed.stderr
        assert len([line for line in failed.stderr.splitlines() if line.startswith("error: ")]) == 1
