"""What tests on a real Slurm share: the machines, and what their jobs train on."""

import pytest

from tests.helpers import small_job
from tests.helpers.real_slurm import RealSlurm


@pytest.fixture(scope="module")
def slurm(request, tmp_path_factory):
    """A Slurm of as many nodes as the module says (NODES)."""
    with RealSlurm(tmp_path_factory.mktemp("slurm") / "lab", nodes=request.module.NODES) as running:
        yield running


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("a job's files")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards", 12)
    return root
