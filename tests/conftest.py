"""Fixtures that several rooms' tests use."""

import tarfile
from pathlib import Path

import hypothesis
import pytest

from tests.helpers.shared_data import DATA_FILES, shared_path, write_real_pairs

# The same inputs in every run, and no clock: what is green here is green on a busy machine. `make fuzz` draws anew.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("tests")

# The files that take longest, longest first: they begin first, so that no worker ends long after the others.
LONGEST = [
    "parity/test_parity.py",
    "planning/dry_run/test_against_reality.py",
    "training/test_dpo.py",
    "training/test_job.py",
    "tools/test_evaluate.py",
    "parity/test_overlap.py",
    "kernels/test_statistics.py",
]


def pytest_collection_modifyitems(items):
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in place), f"{LONGEST} names a file that is not there"
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))


@pytest.fixture(scope="session")
def real_pairs_jsonl(tmp_path_factory) -> Path:
    """A JSONL of 26 real pairs, 21 of them with an instruction; skipped where the shared folder is absent."""
    return write_real_pairs(tmp_path_factory.mktemp("real_pairs") / "pairs.jsonl")


@pytest.fixture(scope="session")
def qwen_tokenizer_dir(tmp_path_factory) -> Path:
    """A folder with the real Qwen tokenizer; skipped where the shared folder is absent."""
    archive = shared_path("qwen_tokenizer/qwen_tokenizer.tar.gz")
    folder = tmp_path_factory.mktemp("qwen_tokenizer")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session", params=["cut", "real"])
def any_qwen_tokenizer_dir(request) -> Path:
    """Qwen's tokenizer twice: cut to its first merges, which is in the repository, and the real one where it is."""
    return DATA_FILES / "qwen_cut" if request.param == "cut" else request.getfixturevalue("qwen_tokenizer_dir")
