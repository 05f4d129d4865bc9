"""A checkpoint that is being exported stays while its run removes older ones."""

import os
import shutil
import sys

import pytest

from editcaption_mega.conversion.checkpoint_folders import checkpoint_folder, checkpoints, held_checkpoint, is_read
from editcaption_mega.conversion.convert import hf_to_megatron, megatron_to_hf
from editcaption_mega.settings import SettingsError
from editcaption_mega.training.checkpoint.publishing import remove_old
from tests.helpers import small_store, tiny, warm


@pytest.fixture
def run(tmp_path):
    for step in (1, 2, 3):
        small_store.write(checkpoint_folder(tmp_path, step), step)
    return tmp_path


def names(run):
    return [path.name[-1] for path in checkpoints(run)]


def test_what_is_read_is_removed_when_the_reader_is_done(run):
    first = checkpoint_folder(run, 1)
    with held_checkpoint(first), held_checkpoint(first):
        assert is_read(first)
        (line,) = remove_old(run, keep=1, keep_every=0)
        assert "step_00000001 is no longer needed and stays for now: it is being exported" in line
        assert names(run) == ["1", "3"]
    assert not is_read(first) and not (first / "readers").exists()
    assert remove_old(run, keep=1, keep_every=0) == [] and names(run) == ["3"]


def test_a_killed_reader_holds_nothing(run):
    first = checkpoint_folder(run, 1)
    code = f"""
import os, pathlib
from editcaption_mega.conversion.checkpoint_folders import held_checkpoint
with held_checkpoint(pathlib.Path({str(first)!r})):
    os.kill(os.getpid(), 9)
"""
    assert warm.run([sys.executable, "-c", code]).returncode == -9
    killed = list((first / "readers").iterdir())
    assert killed and not is_read(first)
    with held_checkpoint(first):  # the next one clears away what it left
        assert is_read(first) and not killed[0].exists()
    assert not (first / "readers").exists()
    assert remove_old(run, keep=1, keep_every=0) == [] and names(run) == ["3"]


def test_one_that_was_removed_meanwhile_is_named_and_leaves_nothing(run):
    first = checkpoint_folder(run, 1)
    shutil.rmtree(first)
    with pytest.raises(SettingsError, match="was removed just now by the run that wrote it"), held_checkpoint(first):
        pytest.fail("it is not there")
    assert not first.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_reader_that_may_not_write_reads_all_the_same(run):
    first = checkpoint_folder(run, 1)
    first.chmod(0o500)
    with held_checkpoint(first):
        assert not is_read(first)
    first.chmod(0o700)


def test_an_export_goes_to_its_end_while_the_run_removes_old_checkpoints(tmp_path):
    """Here between two steps of the export's progress; what it wrote is whole."""
    tiny.hf_model(experts=False, layers=3).save_pretrained(tmp_path / "model")
    run = tmp_path / "run"
    hf_to_megatron(tmp_path / "model", checkpoint_folder(run, 1))
    stays = []

    def while_the_run_goes_on(items, total=None, label=""):
        for item in items:
            if not stays:
                shutil.copytree(
                    checkpoint_folder(run, 1), checkpoint_folder(run, 2), ignore=shutil.ignore_patterns("readers")
                )
            stays.extend(remove_old(run, keep=1, keep_every=0))
            yield item

    megatron_to_hf(run, tmp_path / "back", verify=True, progress=while_the_run_goes_on)
    assert stays and names(run) == ["1", "2"]
    remove_old(run, keep=1, keep_every=0)
    assert names(run) == ["2"] and (tmp_path / "back/model.safetensors").is_file()
