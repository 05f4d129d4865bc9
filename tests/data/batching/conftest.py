import pytest

from tests.helpers import small_job
from tests.helpers.small_pairs import ANSWERS, write_pairs


@pytest.fixture(scope="package")
def model(tmp_path_factory):
    return small_job.write_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("preferences"), ANSWERS)
