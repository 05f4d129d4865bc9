"""tools/verify_checkpoint.py: exit 0 when every file is as its checksum says, 1 with the names of the others."""

import importlib.util

import pytest

from editcaption_mega import cli
from tests.helpers import ROOT, small_store

TOOL = ROOT / "tools/verify_checkpoint.py"


@pytest.fixture
def verify(capsys):
    """folder -> exit code, stdout, stderr."""
    spec = importlib.util.spec_from_file_location("verify_checkpoint", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def call(folder):
        code = cli.exit_code(tool.main, [str(folder)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def test_a_run_folder_and_one_of_its_checkpoints(tmp_path, verify):
    for step in (3, 6):
        small_store.write(tmp_path / f"run/checkpoints/step_{step:08d}", step)
    code, out, _ = verify(tmp_path / "run")
    assert code == 0 and "of 2 checkpoints" in out and "every file as its checksum says" in out

    damaged = [tmp_path / f"run/checkpoints/step_{step:08d}/{name}" for step, name in
               ((3, "hf/chat_template.jinja"), (6, "rank00000-0000.safetensors"), (6, "state.json"))]  # fmt: skip
    for path in damaged:
        small_store.flip(path, 100)
    (tmp_path / "run/checkpoints/step_00000006/rank00000-0001.safetensors").unlink()
    code, out, err = verify(tmp_path / "run")
    assert code == 1 and len(out.splitlines()) == 4 and all(str(path) in out for path in damaged)
    assert "rank00000-0001.safetensors is missing" in out and "4 problem(s)" in err
    code, out, _ = verify(tmp_path / "run/checkpoints/step_00000003")
    assert code == 1 and "chat_template.jinja" in out and "step_00000006" not in out


def test_what_cannot_be_verified_is_not_called_right(tmp_path, verify):
    store = small_store.write(tmp_path / "old")
    small_store.without_checksums(store)
    code, out, _ = verify(store)
    assert code == 1 and "without checksums (format 1)" in out
    code, _, err = verify(tmp_path)
    assert code == 2 and "neither a checkpoint" in err
    (tmp_path / "run/checkpoints/step_00000005").mkdir(parents=True)
    code, out, _ = verify(tmp_path / "run")
    assert code == 1 and "has no tensors.json" in out
