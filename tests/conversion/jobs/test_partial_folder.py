"""A folder that is made file by file: what is recorded is not made again, and nothing else is believed."""

import json
from pathlib import Path

import pytest
import torch

from editcaption_mega.conversion.jobs.output_files import OutputFile
from editcaption_mega.conversion.jobs.partial_folder import PartialFolder
from editcaption_mega.conversion.tensor_file import TensorForm, sha256_of
from editcaption_mega.settings import SettingsError

FILES = [OutputFile(f"{name}.safetensors", {"x": TensorForm(torch.float32, (1000,))}) for name in "abc"]
PLAN = {"source": 1}


def parts(name):
    yield from torch.arange(1000.0).split(300)


def run(steps):
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return end.value


@pytest.fixture
def begun(tmp_path):
    folder = PartialFolder(tmp_path / "out")
    assert folder.begin(PLAN, print) == {}
    for file in FILES[:2]:
        run(folder.make(file, parts, digest=True))
    return folder


def test_what_is_recorded_is_there_and_on_its_place(begun):
    whole = PartialFolder(begun.output).begin(PLAN, pytest.fail)
    assert set(whole) == {"a.safetensors", "b.safetensors"}
    for name, record in whole.items():
        path = begun.content / name
        assert (record.bytes, record.sha256) == (path.stat().st_size, sha256_of(path))
    assert not begun.output.exists()
    begun.publish()
    assert sorted(path.name for path in begun.output.iterdir()) == sorted(whole) and not begun.path.exists()


@pytest.mark.parametrize("harm", ["cut", "gone", "record cut", "record odd", "no record"])
def test_a_file_that_is_not_as_recorded_is_made_again(begun, harm):
    path, record = begun.content / "a.safetensors", begun.path / "records/a.safetensors.json"
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "gone":
        path.unlink()
    elif harm == "record cut":
        record.write_text(record.read_text()[:20])
    elif harm == "record odd":
        record.write_text(json.dumps({"bytes": -1}))
    else:
        begun.forget("a.safetensors")
    assert set(begun.begin(PLAN, pytest.fail)) == {"b.safetensors"}


def test_leftovers_of_a_killed_writer_go(begun):
    left = begun.content / "c.safetensors.123.partial"
    left.write_bytes(b"half")
    begun.begin(PLAN, pytest.fail)
    assert not left.exists()


@pytest.mark.parametrize("plan", [{"source": 2}, None])
def test_another_plan_begins_anew_and_says_so(begun, plan):
    said = []
    if plan is None:  # of a version before there were plans, or cut
        (begun.path / "plan.json").write_text("{")
    assert begun.begin(plan or PLAN, said.append) == {}
    assert not list(begun.content.iterdir()) and "other settings: it is made anew" in said[0]


def test_an_error_leaves_no_half_file(begun):
    def failing(name):
        yield torch.zeros(300)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run(begun.make(FILES[2], failing, digest=True))
    assert sorted(path.name for path in begun.content.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_what_is_left_of_a_process_that_was_killed_after_it_had_published_goes(begun):
    begun.remove_published()
    assert begun.content.is_dir()  # it is at work
    begun.content.rename(begun.output)  # what `publish` does before the rest, and was killed
    begun.remove_published()
    assert not begun.path.exists() and begun.output.is_dir()


def test_an_output_that_is_a_link_is_made_where_it_points_to(tmp_path):
    (tmp_path / "disk").mkdir()
    for name, target in (("empty", tmp_path / "disk"), ("nowhere", tmp_path / "disk/new")):
        link = tmp_path / name
        link.symlink_to(target)
        folder = PartialFolder.of(link)
        folder.refuse_unusable()
        folder.begin(PLAN, pytest.fail)
        folder.publish()
        assert link.is_symlink() and link.is_dir() and folder.output == target


@pytest.mark.parametrize(
    "output, problem",
    [
        ("file/x", "file is a file"),
        ("file/new/x", "file is a file"),
        ("taken", "taken.partial, where the work would be, is a file"),
        (".", "is the folder in which the command was given"),
        ("", "is the folder in which the command was given"),
        ("/proc", "is a mount point"),
        ("/", "is a mount point"),
    ],
)
def test_what_no_folder_can_replace_is_refused_before_any_work(tmp_path, monkeypatch, output, problem):
    (tmp_path / "file").touch()
    (tmp_path / "taken.partial").touch()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SettingsError, match=f"{problem}.*: choose another folder, nothing was written"):
        PartialFolder.of(Path(output)).refuse_unusable()
    assert sorted(tmp_path.iterdir()) == before
